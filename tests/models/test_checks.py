"""An unfit environment is told in one sentence, without a network."""

import os
import subprocess
import sys

import pytest

from prumerge.models import checks
from prumerge.paths import ROOT


def run_checks(folder):
    """Run the check as set-up does, with a folder put before the installed packages."""
    command = [sys.executable, "-P", str(ROOT / "prumerge/models/checks.py")]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def fake_torchvision(folder, body):
    (folder / "torchvision").mkdir()
    (folder / "torchvision/__init__.py").write_text(body)
    return folder


@pytest.mark.parametrize("version", [(3, 10, 14), (2, 7, 18), (3, 8)])
def test_an_old_python_is_named(version):
    sentence = checks.python_problem(version)
    assert ".".join(map(str, version)) in sentence
    assert "3.11" in sentence


@pytest.mark.parametrize("version", [(3, 11), (3, 11, 7), (3, 14, 0), (4, 0)])
def test_a_new_python_is_fine(version):
    assert checks.python_problem(version) is None


@pytest.mark.parametrize(
    "body",
    ["raise RuntimeError('operator torchvision::nms does not exist')", "import no_such_library"],
)
def test_a_torchvision_that_cannot_load_is_told_in_one_sentence(body, tmp_path):
    result = run_checks(fake_torchvision(tmp_path, body))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "pip uninstall torchvision" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_torchvision_that_loads_is_fine(tmp_path):
    assert run_checks(fake_torchvision(tmp_path, "")).returncode == 0


def test_the_sentence_comes_before_transformers_trips(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(fake_torchvision(tmp_path, "raise RuntimeError('nms missing')"))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ImportError, match=r"nms missing.*pip uninstall torchvision"):
        checks.require_loadable_torchvision()
