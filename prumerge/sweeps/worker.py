"""Running points, one after another, in one process: what the worker's notebook calls."""

import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from prumerge.relevance import read_text
from prumerge.sweeps.answers import answer_set
from prumerge.sweeps.encodings import open_encodings
from prumerge.sweeps.points import POINTS, Point, weights_of
from prumerge.sweeps.rows import Row, row_of, write_row


def run_point(point: Point, device: str = "cpu") -> Row:
    """Answer a point's questions.

    Args:
        point: What is asked.
        device: Where the model runs.

    Returns:
        Its row.

    Raises:
        ValueError: If the method cannot work on this encoder, or returns no reduction.
    """
    method = point.resolved
    seen = open_encodings(point.model, point.questions, point.per_family, device)
    encoded = seen.read(method.settings)
    reader = read_text(point.model, device) if method.reads_question else None
    started = time.perf_counter()
    outcome = answer_set(seen.model, seen.processor, seen.questions.table, encoded, method, reader)
    seconds = time.perf_counter() - started
    return row_of(point, outcome, seen.weights, seen.questions.table, device, seconds)


def run_points(
    points: Sequence[Point], rows: str | Path = "", device: str = "cpu"
) -> dict[Point, str]:
    """Run points; each leaves its row as soon as it is done, whatever becomes of the others.

    Args:
        points: Those whose row is there already are left alone.
        rows: Folder of the rows; empty for ``data/runs/sweeps/points``.
        device: Where the model runs.

    Returns:
        The traceback of each point that failed; :func:`failure_of` holds its last line.
    """
    failures, folder = {}, Path(rows or POINTS)
    for point in points:
        path = folder / f"{point.key(weights_of(point.model))}.parquet"
        if path.exists():
            continue
        try:
            write_row(path, run_point(point, device))
        except Exception as error:  # whatever it is, the other points do not depend on it
            failures[point] = traceback.format_exc()
            _write_reason(failure_of(path), point, error)
    return failures


def failure_of(row: Path) -> Path:
    """Return the file that says why a row is not there."""
    return row.with_name(f".{row.stem}.failed.txt")


def _write_reason(path: Path, point: Point, error: Exception) -> None:
    """Say in a line what failed and where: in the method's own file, if the trace touches it."""
    trace = traceback.extract_tb(error.__traceback__)
    module = Path(point.module).resolve() if point.module else None
    frame = ([f for f in trace if Path(f.filename).resolve() == module] or trace)[-1]
    budget = dict(point.changes).get("budget")
    name = point.method if budget is None else f"{point.method}, budget {budget}"
    reason = f"{type(error).__name__}: {error}".strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name}: {reason} ({frame.filename}, line {frame.lineno})\n")
