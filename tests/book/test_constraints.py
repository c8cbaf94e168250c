"""constraints.txt holds one version of all that requirements.txt names and brings."""

import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def pinned(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), f"{name}: {lines}"
    return {canonicalize_name(package): Version(version) for package, version in pairs}


CONSTRAINTS, REQUIREMENTS = pinned("constraints.txt"), pinned("requirements.txt")


def test_what_both_name_has_one_version():
    assert {name: CONSTRAINTS.get(name) for name in REQUIREMENTS} == REQUIREMENTS


@pytest.mark.skipif(sys.platform != "linux", reason="constraints.txt is of Linux")
def test_all_that_the_requirements_bring_is_held():
    """As the installed packages tell it, each with the bounds that the others set."""
    waiting, seen = [Requirement(f"{name}=={v}") for name, v in REQUIREMENTS.items()], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in CONSTRAINTS, f"{name} is not in constraints.txt"
        assert wanted.specifier.contains(CONSTRAINTS[name], prereleases=True), f"{wanted}"
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        for line in distribution(name).requires or ():
            brought = Requirement(line)
            extras = {"", *wanted.extras}
            if not brought.marker or any(brought.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(brought)
    assert len(seen) > 2 * len(REQUIREMENTS)
