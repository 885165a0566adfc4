"""Rows of results: where each comes from, where a command puts them, written whole."""

import argparse
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import prumerge
from prumerge.paths import RESULTS, RUNS, written_whole


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
        "prumerge": version(prumerge.__name__),
    }


def write_csv(rows: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write rows to a CSV file, whole or not at all; ``options`` are pandas' own."""
    with written_whole(path) as partial:
        rows.to_csv(partial, index=False, lineterminator="\n", **options)


def rows_place(parser: argparse.ArgumentParser, chosen: argparse.Namespace, usual: Path) -> Path:
    """Return where a command writes its rows: only a run with the defaults among the committed.

    That is ``chosen.rows``, or ``usual``, a place in ``data/results``, or the same place in
    ``data/runs`` if any argument is not the parser's default.
    """
    if chosen.rows is not None:
        return chosen.rows
    given = {name: value for name, value in vars(chosen).items() if name != "rows"}
    defaults = all(_same(value, parser.get_default(name)) for name, value in given.items())
    return usual if defaults else RUNS / usual.relative_to(RESULTS)


def _same(value: object, default: object) -> bool:
    return list(value) == list(default) if isinstance(value, list | tuple) else value == default
