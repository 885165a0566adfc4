"""What a point leaves: one tidy row with every parameter, and right or wrong per question.

A point's file is a Parquet table of one row. When a sweep is complete its rows become
``data/results/sweeps/NAME.csv`` and its answers ``NAME.parquet``: one column per row's ``key``, one
line per question of ``questions-SET.csv``. Every row carries a checksum over itself and its
answers, so that what was edited or cut short is named instead of believed.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from prumerge.provenance import provenance
from prumerge.sweeps.answers import Outcome
from prumerge.sweeps.points import Point

REMEDY = "delete it, and the next run makes it anew"


@dataclasses.dataclass(frozen=True)
class Row:
    """A point's row and answers.

    Attributes:
        cells: Text by column, as the CSV holds it; the last column is the checksum.
        right: Whether each question was answered right.
    """

    cells: dict[str, str]
    right: Bool[np.ndarray, " questions"]

    @property
    def key(self) -> str:
        """The point's name; see :meth:`prumerge.sweeps.points.Point.key`."""
        return self.cells["key"]

    def sealed(self) -> bool:
        """Whether the checksum fits cells and answers."""
        cells = {name: text for name, text in self.cells.items() if name != "checksum"}
        return self.cells.get("checksum") == _checksum(cells, self.right)


def row_of(
    point: Point, outcome: Outcome, weights: str, asked: pd.DataFrame, device: str, seconds: float
) -> Row:
    """Put an outcome into a row.

    Args:
        point: What was asked.
        outcome: What came of it.
        weights: Names the checkpoint.
        asked: The questions.
        device: Where it was computed.
        seconds: How long it took, the encoder left out.

    Returns:
        The row. ``accuracy`` is a share from 0 to 1, ``tokens_per_image`` a mean over pictures that
        counts every token sent.
    """
    method = point.resolved
    values: dict[str, Any] = {
        "key": point.key(weights),
        "questions": point.questions,
        "per_family": point.per_family,
        "drawn": hashlib.sha256(asked.to_csv().encode()).hexdigest()[:8],
        "model": point.model,
        "weights": weights,
        "method": point.method,
        "sends": method.sends,
        **dataclasses.asdict(method.settings),
        "n": len(outcome.right),
        "pictures": len(outcome.kept),
        "accuracy": round(float(outcome.right.mean()), 6),
        "tokens_per_image": round(float(outcome.kept.mean()), 3),
        "fewest_tokens": outcome.kept.min(),
        "most_tokens": outcome.kept.max(),
        "answering_s": round(seconds, 1),
        **provenance(device),
    }
    cells = {name: "" if value is None else str(value) for name, value in values.items()}
    return Row(cells | {"checksum": _checksum(cells, outcome.right)}, outcome.right)


def write_row(path: Path, row: Row) -> None:
    """Write a point's file, whole or not at all."""
    line = pd.DataFrame([row.cells]).assign(right=[row.right.tolist()])
    _write(path, lambda file: pq.write_table(pa.Table.from_pandas(line), file))


def read_row(path: Path) -> Row:
    """Read a point's file.

    Raises:
        ValueError: If it is cut short, edited, or bears another point's name.
    """
    try:
        (line,) = pq.read_table(path).to_pylist()
        row = Row({n: text for n, text in line.items() if n != "right"}, np.array(line["right"]))
        fits = row.sealed()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is cut short or no row at all: {REMEDY}") from error
    if fits and row.key != path.stem:
        raise ValueError(
            f"{path} holds the row of another point, {row.key}: model or method changed while "
            f"it ran; {REMEDY}"
        )
    if not fits:
        raise ValueError(f"{path} was edited, its checksum does not fit: {REMEDY}")
    return row


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the rows of a sweep as ``path`` (CSV) and their answers beside it (Parquet).

    Raises:
        ValueError: If they were asked different questions under one name, or versions that know
            different settings wrote them.
    """
    sets = {(row.cells["questions"], row.cells["drawn"], len(row.right)) for row in rows}
    if len(sets) > len({name for name, *_ in sets}):
        raise ValueError(f"rows of {path.stem} were asked different questions: {sorted(sets)}")
    if len({tuple(row.cells) for row in rows}) > 1:
        raise ValueError(
            f"rows of {path.stem} have different columns: delete those of old versions"
        )
    right = pd.DataFrame({row.key: row.right for row in rows})
    table = pd.DataFrame([row.cells for row in rows])
    _write(path.with_suffix(".parquet"), lambda file: right.to_parquet(file, compression="zstd"))
    _write(path, lambda file: file.write(table.to_csv(index=False).encode()))


def read_rows(path: Path) -> list[Row]:
    """Read a sweep's table row by row.

    Raises:
        ValueError: Naming the file and the row that does not fit its checksum, if one does not.
    """
    remedy = "`git checkout` both files, or delete them and run the sweep again"
    try:
        text = path.read_text()
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        right = pd.read_parquet(path.with_suffix(".parquet"))
        whole = list(right) == list(table["key"]) and text.endswith("\n")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} or the answers beside it are cut short: {remedy}") from error
    if not whole:
        raise ValueError(f"{path} and the answers beside it hold different rows: {remedy}")
    rows = [Row(cells, right[cells["key"]].to_numpy()) for cells in table.to_dict("records")]
    for number, row in enumerate(rows):
        if not row.sealed():
            raise ValueError(f"{path}, row {number + 1} ({row.key}) was edited: {remedy}")
    return rows


def typed(rows: list[Row]) -> pd.DataFrame:
    """Return rows as numbers, truth values and text, with the key as index.

    Example:
        ``typed(read_rows(path)).query("budget == 64")``
    """
    text = pd.DataFrame([row.cells for row in rows]).to_csv(index=False)
    return pd.read_csv(io.StringIO(text), dtype={"key": str, "weights": str}).set_index("key")


def _checksum(cells: dict[str, str], right: np.ndarray) -> str:
    content = json.dumps(cells).encode() + np.packbits(right.astype(bool)).tobytes()
    return hashlib.sha256(content).hexdigest()[:8]


def _write(path: Path, write: Callable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        write(file)
    partial.replace(path)
