"""pyproject.toml, constraints.txt and environment.yml describe one environment."""

import importlib.metadata
import re
import tomllib

import jaxtyping
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from prumerge.outliers import keep_outliers
from prumerge.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED_BY_MAKE = ("notebooks", "test", "tower", "sweep", "train", "eval")
CONDA_TEXT = (ROOT / "environment.yml").read_text(encoding="utf-8")
CONDA = yaml.safe_load(CONDA_TEXT)
CONDA_PIP = CONDA["dependencies"][-1]["pip"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^ ;+]+)")


def pins(lines):
    """Version by canonical name; a line that is no exact pin fails."""
    matches = [(line, PIN.fullmatch(line)) for line in lines]
    assert [line for line, match in matches if match is None] == []
    return {canonicalize_name(match[1]): match[2] for _, match in matches}


CONSTRAINTS = pins(
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
DIRECT = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *(EXTRAS[name] for name in INSTALLED_BY_MAKE))
    for text in group
]


EVAL = [Requirement(text) for text in (*EXTRAS["eval"], "lmms-eval==0.7.3")]


@pytest.mark.parametrize("requirement", DIRECT + EVAL, ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    version = CONSTRAINTS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)
    assert requirement.specifier, f"{requirement.name} has no lower bound"


def test_the_installed_set_is_pinned_down_to_the_last_package():
    """Walk from prumerge over what is installed; an unpinned package would move by itself."""
    waiting = [Requirement(f"prumerge[{','.join(INSTALLED_BY_MAKE)}]")]
    seen, unpinned = set(), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        if name not in CONSTRAINTS and name != "prumerge":
            unpinned.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in extras):
                continue
            # A CUDA build of torch pins these itself, to the letter.
            if not needed.name.startswith(("nvidia-", "cuda-", "triton")):
                waiting.append(needed)
    assert unpinned == set()
    assert len(seen) > 100  # the walk did walk


def test_transformers_is_tried_from_its_lowest_to_its_highest_version():
    (allowed,) = (r.specifier for r in DIRECT if r.name == "transformers")
    listed = re.search(r"^TRANSFORMERS \?= (.+)$", (ROOT / "Makefile").read_text(), re.M)[1]
    oldest, pinned, newest = map(Version, listed.split())
    assert oldest <= pinned <= newest and str(pinned) == CONSTRAINTS["transformers"]
    bound = f"<{newest.major}.{newest.minor + 1}"  # just above what was tried
    assert allowed == SpecifierSet(f">={oldest.major}.{oldest.minor},{bound}")


def test_torchvision_is_pinned_nowhere():
    assert "torchvision" not in CONSTRAINTS
    assert "torchvision" not in {requirement.name for requirement in DIRECT + EVAL}


def test_conda_users_get_the_same_versions():
    conda = pins(line for line in CONDA_PIP if not line.startswith("--"))
    direct = {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert conda == {name: CONSTRAINTS[name] for name in direct}
    assert CONDA_PIP[0] == "--constraint constraints.txt"
    assert CONDA_PIP[-1] == "--editable .[dev]"


def test_dev_holds_every_extra_that_make_installs():
    (self_reference,) = (Requirement(text) for text in EXTRAS["dev"])
    assert self_reference.name == "prumerge"
    assert self_reference.extras == set(INSTALLED_BY_MAKE)


def test_one_version_of_python_everywhere():
    (conda,) = (d for d in CONDA["dependencies"] if isinstance(d, str) and d.startswith("python="))
    lowest = re.search(r">=(.+)", PROJECT["requires-python"])[1]
    assert conda == f"python={lowest}"
    assert Version(lowest) == Version("3.11")


def test_every_pinned_package_runs_on_every_python_3_11():
    """Debian 12 ships 3.11.2, and a package that wants a later patch cannot be installed there."""
    wanted = {
        name: SpecifierSet(importlib.metadata.metadata(name)["Requires-Python"] or "")
        for name in {package.name for package in importlib.metadata.distributions()}
        if canonicalize_name(name) in CONSTRAINTS
    }
    assert [name for name, python in wanted.items() if not python.contains("3.11.0")] == []


def test_every_dependency_tells_why_it_is_there():
    listed = [line for line in CONDA_TEXT.splitlines() if re.match(r" *- [a-z-]+(=|$| #)", line)]
    unexplained = [line for line in listed if not re.search(r"# \S+", line)]
    assert unexplained == ["  - conda-forge"]


def test_shapes_in_signatures_are_enforced_while_testing():
    with pytest.raises(jaxtyping.TypeCheckError):
        keep_outliers(torch.zeros(3))
