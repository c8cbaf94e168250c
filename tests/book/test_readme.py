"""The plain commands of README.md, run line by line by bash in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_notebooks import ROOT

from d2l_utils.fashion_mnist_files import find_folder

SCRIPTS = ("jupyter", "jupyter-lab", "jupyter-book", "pytest")
# The server runs on; it is asked for a notebook, and ended.
ASK = """& for i in $(seq 60); do
    curl -sf "http://localhost:$PORT/api/contents/flops.ipynb?content=0" && break; sleep 1
done && test $i != 60 && kill $!"""


def commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split("### Windows and macOS")[1].split("```")[1].splitlines()[1:]


@pytest.fixture
def copy(tmp_path):
    """What git would bring, and a home where JupyterLab finds no desktop to open a browser on."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, encoding="utf-8")
    for name in filter(None, files.split("\0")):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    server = {"open_browser": False, "allow_root": True, "port": 8765, "token": ""}
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": server}), "utf-8")
    return tmp_path / "copy"


def lend_packages(venv):
    """Has a new environment find the packages of this one, before its own, and four commands."""
    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    lent = sysconfig.get_path("purelib")
    (venv / site / "lent.pth").write_text(f"import sys; sys.path.insert(0, {lent!r})", "utf-8")
    for name in SCRIPTS:
        _, rest = Path(sys.executable).with_name(name).read_text("utf-8").split("\n", 1)
        script = venv / "bin" / name
        script.write_text(f"#!{venv}/bin/python\n{rest}", "utf-8")
        script.chmod(0o755)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_plain_commands(copy):
    """On Linux, with three things stood in.

    The packages of requirements.txt are those of this environment, so that pip finds them there and
    downloads nothing; the package itself it installs. Fashion-MNIST is where it is found already.
    JupyterLab opens no browser: a request takes its place.
    """
    venv, *rest = commands()
    # JupyterLab goes on until it is ended.
    rest = [
        f"{line.split('#')[0]} {ASK}" if line.startswith("jupyter lab") else line for line in rest
    ]
    gone = ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS")
    environment = {key: value for key, value in os.environ.items() if key not in gone}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "D2L_DATA": str(find_folder()),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "false",  # pip's way to say yes
        "JUPYTER_CONFIG_DIR": str(copy.parent),
        "PORT": "8765",
    }

    def run(*lines):
        command = ["bash", "-xeuo", "pipefail", "-c", "\n".join(lines)]
        pipes = {"capture_output": True, "encoding": "utf-8"}
        done = subprocess.run(command, cwd=copy, env=environment, **pipes)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    run(venv)
    lend_packages(copy / ".venv")
    rest.insert(-1, "python -c 'import d2l_utils; print(d2l_utils.__file__)'")
    out = run(*rest)
    assert str(copy / "d2l_utils/__init__.py") in out
    assert (copy / "_build/html/book/flops.html").exists()
    assert '"path": "flops.ipynb"' in out
    assert " passed" in out.splitlines()[-1] and "failed" not in out.splitlines()[-1]
