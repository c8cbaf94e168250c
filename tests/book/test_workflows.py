"""GitHub takes the workflows, as far as actionlint can say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_notebooks import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# npm's package, which `make test` brings, is a library. It is made anew for each file, since it
# breaks down at the second.
LINT = """
const { readFileSync } = require("fs");
const [library, ...paths] = process.argv.slice(1);
(async () => {
  for (const path of paths) {
    const lint = await require(library).createLinter();
    for (const { line, column, message } of lint(readFileSync(path, "utf8"), path))
      console.log(`${path}:${line}:${column}: ${message}`);
  }
})();
"""


@pytest.fixture(scope="module")
def complaints():
    """A function that returns what actionlint has to say of files."""
    library = max(Path(sys.prefix).glob("actionlint-*/node.cjs"), default=None)
    if found := shutil.which("actionlint"):
        command = [found, "-no-color", "-shellcheck=", "-pyflakes="]
    elif (node := shutil.which("node")) and library:
        command = [node, "-e", LINT, library]
    else:
        pytest.skip("no actionlint here, and none that `make test` brought: it needs npm for that")

    def run(*paths):
        done = subprocess.run([*command, *paths], capture_output=True, encoding="utf-8", timeout=60)
        return done.stdout + done.stderr

    return run


def test_actionlint_has_nothing_to_say(complaints):
    assert len(WORKFLOWS) == 3
    assert not complaints(*WORKFLOWS)


FAULTS = {
    ("runs-on: ubuntu-latest", "runs-on: ubuntu-lates"): 'label "ubuntu-lates" is unknown',
    ("github.ref", "githb.ref"): 'undefined variable "githb"',
    ("matrix.os", "matrix.so"): 'property "so" is not defined',
    ("timeout-minutes", "timeout-minute"): 'unexpected key "timeout-minute"',
    ("pull_request:", "pull_requests:"): 'unknown Webhook event "pull_requests"',
    ("contents: read", "contents: reed"): '"reed" is invalid',
}


def test_actionlint_notices_faults(complaints, tmp_path):
    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    for right, wrong in FAULTS:
        assert right in workflow
        workflow = workflow.replace(right, wrong)
    (tmp_path / "tests.yml").write_text(workflow, encoding="utf-8")
    said = complaints(tmp_path / "tests.yml")
    assert all(complaint in said for complaint in FAULTS.values()), said
