"""Rows of results: where each comes from, and how they are written."""

import platform
import tomllib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import prumerge
from prumerge.paths import ROOT, written_whole


def provenance(device: str = "cpu") -> dict[str, str]:
    """Return what a reader needs to know about the machine that computed a result.

    Args:
        device: Where it was computed, such as ``cpu`` or ``cuda``.

    Returns:
        Device name, day (UTC) and the versions of Python, torch, transformers and prumerge.
    """
    if str(device).startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return {
        "device": name,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "prumerge": _own_version(),
    }


def _own_version() -> str:
    """Return the package's version; a clone that is not installed knows it by its project file."""
    try:
        return version(prumerge.__name__)
    except PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["version"]


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read rows as :func:`write_csv` left them: a fingerprint of weights may look like a number."""
    return pd.read_csv(path, dtype={"weights": str}, **options)


def write_csv(rows: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write rows to a CSV file, whole or not at all; ``options`` are pandas' own."""
    with written_whole(path) as partial:
        rows.to_csv(partial, index=False, lineterminator="\n", **options)
