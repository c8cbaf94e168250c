"""The four files of Fashion-MNIST: found, checked, brought, or a clear error."""

import gzip
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import pytest
from torchvision import datasets

import d2l_utils as d2l
import d2l_utils.__main__ as command
from d2l_utils import fashion_mnist_files as files

# Three images of each kind stand in for the real ones: small, and told by their own checksums.
IMAGES = bytes(16) + bytes(range(256)) * 9 + bytes(48)
LABELS = bytes(8) + bytes([0, 1, 2])
CONTENT = {name: IMAGES if "images" in name else LABELS for name in files.FILES}
CHECKSUMS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
NAME = "t10k-images-idx3-ubyte"


@pytest.fixture(autouse=True)
def files_are_read_once():
    """Not so here."""


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Makes an empty machine: no data set anywhere, and no network."""

    def no_network(root, download):
        raise URLError("no network")

    monkeypatch.setattr(files, "FILES", CHECKSUMS)
    monkeypatch.setattr(files, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(files, "_repository_data", lambda: tmp_path / "repository")
    monkeypatch.setattr(datasets, "FashionMNIST", no_network)
    monkeypatch.setattr(files.shutil, "which", lambda name: None)
    monkeypatch.delenv("D2L_DATA", raising=False)
    return tmp_path


def write(folder, packed=False, names=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(CONTENT[name]))
        else:
            (folder / name).write_bytes(CONTENT[name])
    return folder


def there(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- found and checked ------------------------------------------------------------------------


@pytest.mark.parametrize(("packed", "below"), [(True, ""), (False, "FashionMNIST/raw")])
def test_files_may_be_packed_or_not_and_lie_as_torchvision_lays_them(places, packed, below):
    write(places / "root" / below, packed)
    data = d2l.FashionMNIST(root=places / "root", train_size=2)
    assert data.train.data.flatten().tolist() == list(IMAGES[16 : 16 + 2 * 784])
    assert data.val.targets.tolist() == [0, 1, 2]


def test_order_of_the_search(places, monkeypatch):
    def found(root=places / "root"):
        return files.find_folder(root)

    assert found() is None
    write(places / "debian", packed=True)
    assert found() == places / "debian"
    write(places / "repository")
    assert found() == places / "repository"
    monkeypatch.setenv("D2L_DATA", str(write(places / "variable")))
    assert found() == places / "variable"
    write(places / "root", names=list(CONTENT)[:3])  # three of the four files are none
    assert found() == places / "variable"
    write(places / "root")
    assert found() == places / "root"
    monkeypatch.setenv("HOME", str(places))
    monkeypatch.setenv("USERPROFILE", str(places))  # Windows
    assert found("~/root") == places / "root"


def test_the_folder_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert files._repository_data() == Path(d2l.__file__).parents[1] / "data"
    installed = tmp_path / "site-packages" / "d2l_utils" / "fashion_mnist_files.py"
    monkeypatch.setattr(files, "__file__", str(installed))
    assert files._repository_data() == tmp_path / "data"


def truncate(content):
    return content[:-1]


def alter(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("packed", "damage", "message"),
    [
        (False, lambda whole: whole[: len(whole) // 2], "{} is truncated or altered"),
        (False, alter, "{} is truncated or altered"),
        (True, truncate, r"{}\.gz cannot be unpacked"),
        (True, lambda _: b"", r"{}\.gz is truncated or altered"),
        (True, lambda _: b"<html>not found</html>", r"{}\.gz cannot be unpacked"),
        (True, lambda packed: packed[:30] + b"?????" + packed[35:], r"{}\.gz cannot be unpacked"),
        (True, lambda _: gzip.compress(alter(IMAGES)), r"{}\.gz is truncated or altered"),
    ],
)
def test_a_damaged_file_is_named(places, capsys, packed, damage, message):
    """By checksums that are larger than the right one, and one, the first, that is smaller."""
    bad = write(places / "root", packed) / (f"{NAME}.gz" if packed else NAME)
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(ValueError, match=message.format(NAME)):
        d2l.FashionMNIST(root=places / "root", train_size=1)
    assert command.main(["--root", str(places / "root")]) == 1
    assert str(bad) in capsys.readouterr().err


@pytest.mark.parametrize(("method", "what"), [("read_bytes", NAME), ("stat", "")])
def test_what_may_not_be_read_is_named(places, monkeypatch, capsys, method, what):
    path = write(places / "root") / what
    allowed = getattr(Path, method)

    def ask(asked, *arguments, **options):  # as root, permissions alone would forbid nothing
        if path in (asked, asked.parent):
            raise PermissionError(13, "Permission denied", str(asked))
        return allowed(asked, *arguments, **options)

    monkeypatch.setattr(Path, method, ask)
    with pytest.raises(PermissionError, match=f"Permission denied: '{path}"):
        d2l.FashionMNIST(root=places / "root", train_size=1)
    assert command.main(["--root", str(places / "root")]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("value", ["~no-such-user/data", "no-such-folder", __file__])
def test_a_variable_that_names_no_folder_is_not_passed_over(places, monkeypatch, value):
    write(places / "debian")
    monkeypatch.setenv("D2L_DATA", value)
    with pytest.raises(FileNotFoundError, match=f"D2L_DATA is '{value}'"):
        d2l.FashionMNIST()
    monkeypatch.setenv("D2L_DATA", str(places))
    with pytest.raises(FileNotFoundError, match=f"D2L_DATA is '{places}'.*{places / 'debian'}"):
        d2l.FashionMNIST()
    monkeypatch.delenv("D2L_DATA")
    if value.startswith("~"):  # other roots may be made
        with pytest.raises(FileNotFoundError, match=f"root is '{value}'"):
            d2l.FashionMNIST(root=value)


# --- brought ----------------------------------------------------------------------------------

APT_FAILS = subprocess.CompletedProcess((), 100, stderr="E: Unable to locate package\n")


@pytest.mark.parametrize("why", ["no network", "torchvision", "Unable to locate package"])
def test_a_missing_data_set_gives_one_error_that_lists_the_ways(places, monkeypatch, why):
    if why == "torchvision":  # is not installed
        monkeypatch.setitem(sys.modules, "torchvision", None)
    if why.startswith("Unable"):
        monkeypatch.setattr(files.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: APT_FAILS)
    ways = "was not found.*-m d2l_utils.*dataset-fashion-mnist.*D2L_DATA.*root="
    with pytest.raises(FileNotFoundError, match=f"(?s){ways}.* failed: .*{why}"):
        d2l.FashionMNIST(root=places / "root")
    assert there(places / "root") == {}


def brings(content):
    """Returns what stands in for torchvision's download."""

    def download(root, download):
        folder = Path(root) / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        for name in CONTENT:
            (folder / name).write_bytes(content(name))

    return download


@pytest.mark.parametrize("named_by", ["root", "variable", "nothing"])
def test_a_download_goes_to_the_first_place_named(places, monkeypatch, named_by):
    monkeypatch.setattr(datasets, "FashionMNIST", brings(CONTENT.get))
    if named_by == "variable":
        (places / "variable").mkdir()
        monkeypatch.setenv("D2L_DATA", str(places / "variable"))
    d2l.FashionMNIST(root=places / "root" if named_by == "root" else None, train_size=1)
    where = "repository" if named_by == "nothing" else named_by
    assert there(places / where / "FashionMNIST" / "raw") == CONTENT


@pytest.mark.parametrize("error", [FileNotFoundError, KeyboardInterrupt])
def test_a_download_that_arrives_damaged_or_not_at_all_is_not_kept(places, monkeypatch, error):
    def content(name):
        if name == NAME and error is KeyboardInterrupt:
            raise KeyboardInterrupt
        return truncate(CONTENT[name])

    monkeypatch.setattr(datasets, "FashionMNIST", brings(content))
    with pytest.raises(error):
        d2l.FashionMNIST(root=places / "root")
    assert there(places / "root") == {}


@pytest.mark.parametrize("lists_are_there", [True, False])
def test_where_apt_is_there_the_debian_package_is_unpacked(places, monkeypatch, lists_are_there):
    commands = []

    def run(command, cwd, **options):
        commands.append(command[:2])
        own = any(part.startswith("Dir::State::Lists") for part in command)
        if command[1] == "download" and not (lists_are_there or own):
            return APT_FAILS
        if command[1] == "download":
            (cwd / "package.deb").write_bytes(b"")
        if command[0] == "dpkg":
            write(cwd / "unpacked/usr/share/datasets/fashion-mnist", packed=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(files.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(files.subprocess, "run", run)
    monkeypatch.setattr(files, "DEBIAN_FOLDER", Path("/usr/share/datasets/fashion-mnist"))
    monkeypatch.setattr(files, "find_folder", lambda root: None)
    assert len(d2l.FashionMNIST(root=places / "root", train_size=2).train) == 2
    assert set(there(places / "root" / "FashionMNIST" / "raw")) == {
        f"{name}.gz" for name in CONTENT
    }
    update = [] if lists_are_there else [("apt-get", "update"), ("apt-get", "download")]
    assert commands == [("apt-get", "download"), *update, ("dpkg", "-x")]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that start as a copy")
def test_two_processes_that_prepare_it_at_once_do_no_harm(places, monkeypatch):
    """Copies of this process stand in for two, for each import of torch takes seconds."""
    root, pids = places / "root", []
    for me, other in (("a", "b"), ("b", "a")):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                monkeypatch.setattr(datasets, "FashionMNIST", brings(at_once(places, me, other)))
                for _ in range(20):
                    assert len(files.load(root)[0]) == 3
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert (places / "a").exists() and (places / "b").exists()  # both downloaded
    assert there(root / "FashionMNIST" / "raw") == CONTENT


def at_once(places, me, other):
    """Returns what brings a file's content, slowly, once another process is at it, too."""

    def content(name):
        (places / me).touch()
        for _ in range(1000):
            if (places / other).exists():
                break
            time.sleep(0.01)
        time.sleep(0.02)
        return CONTENT[name]

    return content


# --- the command ------------------------------------------------------------------------------


def test_the_command_checks_and_downloads(places, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "FashionMNIST", brings(CONTENT.get))
    root = ["--root", str(places / "root")]
    assert command.main(["--check", *root]) == 1
    output = capsys.readouterr()
    assert output.out == "" and "was not found" in output.err
    assert command.main(root) == 0
    folder = places / "root" / "FashionMNIST" / "raw"
    assert capsys.readouterr() == (f"Fashion-MNIST: {folder}\n", "")
    assert command.main(["--check", *root]) == 0
