"""The core alone does what the README begins with; all else names the extra it lacks."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prumerge.models.checks import needs
from prumerge.paths import ROOT

BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {absent}:
            return super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def core():
    """The packages that `pip install .` brings along."""
    waiting, seen = [Requirement("prumerge")], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        wanted = requirement.extras or {""}
        try:
            needed = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [
            one
            for one in needed
            if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in wanted)
        ]
    return {name for name, *_ in seen}


@pytest.fixture
def run(tmp_path):
    """Run Python in a process where only the packages of some extras can be found."""

    def run(*arguments, blocked=()):
        kept = core()
        absent = {
            module
            for module, packages in importlib.metadata.packages_distributions().items()
            if not kept & {canonicalize_name(package) for package in packages}
        }
        (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(absent=absent | {*blocked}))
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
        )

    return run


def test_the_lead_in_of_the_readme_needs_the_core_alone(run):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (three, lead_in) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    lines = [lead_in, three, "print(reducer.kept, len(output))"]
    result = run("-c", "\n".join(lines))
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\[\d+, \d+\] 2\n", result.stdout)
    assert run("-c", "import pandas").returncode == 1  # nothing more was there


COMMANDS = {
    "evaluation --tasks mini_pope --limit 1": "eval",
    "sweeps neighbours": "notebooks,sweep",
    "finetuning train --data a.json --output_dir out": "notebooks,train",
    "timing --budgets 8": "notebooks",
    "report a.ipynb": "notebooks",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_extra_it_lacks(run, command):
    result = run("-m", *f"prumerge.{command}".split())
    assert result.returncode == 1
    assert re.fullmatch(
        rf"error: \w+ is missing here: pip install 'prumerge\[{COMMANDS[command]}\]'\n",
        result.stderr,
    )


def test_a_part_that_an_installed_package_lacks_is_not_a_missing_package():
    told = r"json\.no_such is missing in the json here"
    with pytest.raises(ModuleNotFoundError, match=told), needs("eval"):
        importlib.import_module("json.no_such")
