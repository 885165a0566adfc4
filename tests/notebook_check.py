"""Strict nbval in a process of its own, as `make test` calls it."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from prumerge.paths import NOTEBOOKS, ROOT


@cache
def recording_environment() -> dict[str, str]:
    """The variables under which notebooks are recorded and checked: .ci/env.sh."""
    command = ["bash", "-c", 'source "$0" && env -0', str(ROOT / ".ci/env.sh")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def in_recording_environment(monkeypatch) -> None:
    """Give kernels that this process starts the recording variables for one test."""
    for name, value in recording_environment().items():
        monkeypatch.setenv(name, value)


def check(*notebooks: Path, **changed: str) -> subprocess.CompletedProcess:
    """Run strict nbval on notebooks; ``changed`` replaces variables of the environment."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(notebooks[0].parent), "--color=no", "-rfs"]
    command += ["--nbval", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(NOTEBOOKS / "sanitize.cfg"), *map(str, notebooks)]
    environment = recording_environment() | changed
    return subprocess.run(command, capture_output=True, text=True, env=environment)
