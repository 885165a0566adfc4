"""Set-up says in one sentence what is missing, and does not go on."""

import os
import shutil
import subprocess
import sys

import pytest

from prumerge.paths import ROOT


@pytest.fixture
def clone(tmp_path):
    """A folder with what set-up reads, and no environment yet."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/setup", tmp_path / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def set_up(folder, *arguments, **changed):
    return subprocess.run(
        [folder / ".ci/setup", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | changed,
    )


def test_an_old_python_is_named(clone):
    old = clone / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" || exit 1\n')
    old.chmod(0o755)
    result = set_up(clone, old)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Python 3.9.2 is too old, 3.11 or newer is needed" in result.stderr
    assert not (clone / ".venv").exists()


def test_an_absent_python_is_named(clone):
    result = set_up(clone, "no-such-python")
    assert result.returncode == 1
    assert result.stderr.startswith("set-up: no-such-python cannot be run")


def test_a_missing_network_is_told(clone):
    # Port 9 of this machine discards: nothing answers there, and no other index is looked at.
    unreachable = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "SETUP_RETRIES": "0",
    }
    result = set_up(clone, sys.executable, **unreachable)
    assert result.returncode == 1
    assert result.stderr.startswith("set-up: no package index can be reached")
    assert result.stderr.count("\n") == 1
    assert not (clone / ".venv/.installed").exists()
