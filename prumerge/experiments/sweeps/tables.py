"""What points leave: tidy rows with every parameter, and right or wrong per question.

A point's file is a Parquet table of one row. When a sweep is complete its rows become
``data/results/sweeps/NAME.csv`` and its answers ``NAME.parquet``: one column per row's ``key``, one
line per question of ``questions-SET.csv``. Every row carries a checksum over itself and its
answers, so that what was edited or cut short is named instead of believed.
"""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from prumerge import paths
from prumerge.experiments.rows import provenance, write_csv
from prumerge.experiments.sweeps.answers import STYLED, Outcome
from prumerge.experiments.sweeps.grids import Point, Sweep, suffix_of
from prumerge.paths import written_whole
from prumerge.settings import TILED

RESULTS = paths.RESULTS / "sweeps"
"""Committed tables, one per committed grid with the values that stand there."""

POINTS = paths.RUNS / "sweeps" / "points"
"""Rows of single points; not committed, a killed sweep goes on from here.

Tables of other models, questions or grids lie in the folder above."""

SMALLER = {"method": "enlarged_picture", "budget": "64"}
ALONE = {"method": "top_k", "budget": "576", "base_share": "1.0", "positions": "original"}
"""The row that tells which questions a smaller picture still answers, of one tile or of several."""

REMEDY = "delete it, and the next run makes it anew"


@dataclasses.dataclass(frozen=True)
class Row:
    """A point's cells as the CSV holds them, the checksum last, and right or wrong per question."""

    cells: dict[str, str]
    right: Bool[np.ndarray, " questions"]

    @property
    def key(self) -> str:
        """The point's name; see :meth:`prumerge.experiments.sweeps.grids.Point.key`."""
        return self.cells["key"]

    def sealed(self) -> bool:
        """Whether the checksum fits cells and answers."""
        cells = {name: text for name, text in self.cells.items() if name != "checksum"}
        return self.cells.get("checksum") == _checksum(cells, self.right)


def row_of(
    point: Point, outcome: Outcome, weights: str, asked: pd.DataFrame, device: str, seconds: float
) -> Row:
    """Put an outcome into a row; ``seconds`` leave the encoder out.

    What only pictures in tiles read is left out where pictures are one tile.
    """
    method = point.resolved
    settings = dataclasses.asdict(method.settings)
    unread = () if point.questions in STYLED else TILED
    values: dict[str, Any] = {
        "key": point.key(weights),
        "questions": point.questions,
        "per_family": point.per_family,
        "drawn": hashlib.sha256(asked.to_csv().encode()).hexdigest()[:8],
        "model": point.model,
        "weights": weights,
        "method": point.method,
        "sends": method.sends,
        **{name: value for name, value in settings.items() if name not in unread},
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


def _checksum(cells: dict[str, str], right: np.ndarray) -> str:
    content = json.dumps(cells).encode() + np.packbits(right.astype(bool)).tobytes()
    return hashlib.sha256(content).hexdigest()[:8]


def write_row(path: Path, row: Row) -> None:
    """Write a point's file, whole or not at all."""
    line = pd.DataFrame([row.cells]).assign(right=[row.right.tolist()])
    with written_whole(path) as partial:
        line.to_parquet(partial)


def read_row(path: Path) -> Row:
    """Read a point's file; ValueError if it is cut short, edited, or bears another point's name."""
    try:
        (line,) = pq.read_table(path).to_pylist()
        row = Row({n: text for n, text in line.items() if n != "right"}, np.array(line["right"]))
        fits = row.sealed()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is cut short or no row at all: {REMEDY}") from error
    if not fits:
        raise ValueError(f"{path} was edited, its checksum does not fit: {REMEDY}")
    if row.key != path.stem:
        raise ValueError(
            f"{path} holds the row of another point, {row.key}: model or method changed while "
            f"it ran; {REMEDY}"
        )
    return row


def write_table(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV and their answers beside it; ValueError if they do not belong together."""
    sets = {(row.cells["questions"], row.cells["drawn"], len(row.right)) for row in rows}
    if len(sets) > len({name for name, *_ in sets}):
        raise ValueError(f"rows of {path.stem} were asked different questions: {sorted(sets)}")
    if len({tuple(row.cells) for row in rows}) > 1:
        raise ValueError(
            f"rows of {path.stem} have different columns: delete those of old versions"
        )
    right = pd.DataFrame({row.key: row.right for row in rows})
    table = pd.DataFrame([row.cells for row in rows])
    with written_whole(path.with_suffix(".parquet")) as partial:
        right.to_parquet(partial, compression="zstd")
    write_csv(table, path)


def read_rows(path: Path) -> list[Row]:
    """Read a sweep's table; ValueError names the file, and the row that does not fit."""
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
    """Return rows as numbers, truth values and text, with the key as index."""
    text = pd.DataFrame([row.cells for row in rows]).to_csv(index=False)
    return pd.read_csv(io.StringIO(text), dtype={"key": str, "weights": str}).set_index("key")


def table_of(sweep: Sweep) -> Path:
    """Return where a sweep's rows go: only those of the committed grids among the committed."""
    folder = RESULTS if sweep.committed else POINTS.parent
    return folder / f"{sweep.name}{sweep.suffix}.csv"


def find_table(name: str) -> Path | None:
    """Return the file of a sweep's rows: the committed one, else one of a run of one's own."""
    files = [folder / f"{name}.csv" for folder in (RESULTS, POINTS.parent)]
    return next((file for file in files if file.exists()), None)


def known_rows() -> dict[str, Row]:
    """Read all rows that are there by key, committed or not; ValueError names a damaged file."""
    files = sorted([*POINTS.parent.glob("*.csv"), *RESULTS.glob("*.csv")])
    files = [path for path in files if not path.name.startswith("questions-")]
    rows = [row for path in files for row in read_rows(path)]
    rows += [read_row(path) for path in sorted(POINTS.glob("[!.]*.parquet"))]
    return {row.key: row for row in rows}


@dataclasses.dataclass(frozen=True)
class Answered:
    """A sweep's rows by key, with the answers behind them.

    ``right`` has a column per key, 1.0 where right, and one line per line of ``questions``:
    picture, objects, family, text, answer, and ``smaller_picture_right``, whether a picture of 64
    patches, enlarged to full size and sent whole, still answers it.
    """

    rows: pd.DataFrame
    right: pd.DataFrame
    questions: pd.DataFrame

    def where(self, **values: object) -> "Answered":
        """Keep the rows that have these values, or one of a list; None finds empty cells."""
        keep = np.ones(len(self.rows), dtype=bool)
        for name, value in values.items():
            column = self.rows[name]
            found = column.isin(value) if isinstance(value, list) else column == value
            keep &= (column.isna() if value is None else found).to_numpy()
        rows = self.rows[keep]
        return Answered(rows, self.right[list(rows.index)], self.questions)

    def __add__(self, other: "Answered") -> "Answered":
        """Put rows of two sweeps together; ValueError if they were asked different questions."""
        if not self.questions.equals(other.questions):
            raise ValueError("rows of different questions do not make one table")
        fresh = other.rows[~other.rows.index.isin(self.rows.index)]
        right = pd.concat([self.right, other.right[list(fresh.index)]], axis=1)
        return Answered(pd.concat([self.rows, fresh]), right, self.questions)

    def scores(self, *by: str) -> dict:
        """Average the rows, such as seeds, that share values of ``by``, question by question."""
        columns = by[0] if len(by) == 1 else list(by)
        groups = self.rows.groupby(columns, sort=False, dropna=False).groups
        return {n: self.right[list(keys)].mean(axis=1).to_numpy() for n, keys in groups.items()}


def read_sweep_rows(name: str) -> Answered:
    """Read a sweep's rows, answers and questions; ValueError names what is missing or damaged.

    ``rivals-llava-1.5-7b-hf`` has the rows of another model, ``rivals-4-per-family`` those of fewer
    questions. What is not committed is looked for in ``data/runs/sweeps``.
    """
    path = find_table(name)
    if path is None:
        raise ValueError(f"sweep {name!r} has no rows: make sweep SWEEP={name}")
    rows = read_rows(path)
    sets = {row.cells["questions"] for row in rows}
    if len(sets) > 1:
        raise ValueError(f"sweep {name!r} mixes the sets {sorted(sets)}: their answers do not pair")
    right = pd.DataFrame({row.key: row.right.astype(float) for row in rows})
    counts = [int(row.cells["per_family"]) for row in rows]
    asked = sets.pop() + suffix_of((row.cells["model"] for row in rows), counts)
    questions = find_table(f"questions-{asked}")
    if questions is None:
        raise ValueError(f"the questions {asked!r} are not there: make sweeps")
    table = pd.read_csv(questions, dtype={"text": str, "answer": str}, keep_default_na=False)
    return Answered(typed(rows), right, table)


def write_questions(path: Path, asked: pd.DataFrame, rows: list[Row]) -> None:
    """Write a set's questions, unless another sweep tells what a smaller picture still answers.

    That is ``enlarged_picture`` at 64 tokens: the few pixels of a picture of 64 patches, seen by
    the encoder at the size it was trained on. ``small_picture`` would say what interpolated
    position embeddings break. Of pictures in tiles it is the whole picture in one tile.
    """
    smaller = (SMALLER, ALONE)
    small = [row.right for row in rows if any(own.items() <= row.cells.items() for own in smaller)]
    if not small and (path.exists() or path.parent == RESULTS):
        return
    table = asked.assign(smaller_picture_right=small[0].astype(int)) if small else asked
    write_csv(table, path)
