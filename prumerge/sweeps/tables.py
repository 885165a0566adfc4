"""Reading committed sweeps: rows, answers and questions, joined."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from prumerge.sweeps import points as places
from prumerge.sweeps.points import suffix_of
from prumerge.sweeps.rows import Row, read_rows, typed


@dataclass(frozen=True)
class Answered:
    """A sweep's rows with the answers behind them.

    Attributes:
        rows: One per point, by key; numbers are numbers.
        right: One column per key, 1.0 where a question was answered right.
        questions: One line per line of ``right``: picture, objects, family, text, answer, and
            ``small_picture_right``, whether 64 tokens of a smaller picture still answer it.
    """

    rows: pd.DataFrame
    right: pd.DataFrame
    questions: pd.DataFrame

    def where(self, **values: object) -> "Answered":
        """Keep the rows that have these values; None finds empty cells."""
        keep = np.ones(len(self.rows), dtype=bool)
        for name, value in values.items():
            column = self.rows[name]
            keep &= (column.isna() if value is None else column == value).to_numpy()
        rows = self.rows[keep]
        return Answered(rows, self.right[list(rows.index)], self.questions)

    def scores(self, *by: str) -> dict:
        """Return one number per question for each value of some columns: the mean of its rows.

        Args:
            by: Columns of ``rows``; rows that share their values, such as seeds, are averaged.
        """
        columns = by[0] if len(by) == 1 else list(by)
        groups = self.rows.groupby(columns, sort=False, dropna=False).groups
        return {n: self.right[list(keys)].mean(axis=1).to_numpy() for n, keys in groups.items()}


def find_table(name: str) -> Path | None:
    """Return the file of a sweep's rows: the committed one, else one of a run of one's own."""
    files = [folder / f"{name}.csv" for folder in (places.RESULTS, places.POINTS.parent)]
    return next((file for file in files if file.exists()), None)


def read_sweep_rows(name: str) -> Answered:
    """Read a sweep.

    Args:
        name: Of its grid; ``rivals-llava-1.5-7b-hf`` for the rows of another model,
            ``rivals-4-per-family`` for those of fewer questions. What is not committed is looked
            for in ``data/runs/sweeps``.

    Returns:
        Rows, answers, questions.

    Raises:
        ValueError: If it has no rows yet, or was edited or cut short; the message says which file.
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
    suffix = suffix_of((row.cells["model"] for row in rows), counts)
    return Answered(typed(rows), right, read_questions(sets.pop() + suffix))


def read_questions(name: str) -> pd.DataFrame:
    """Read a question set, committed or of a run of one's own; see :class:`Answered`."""
    path = find_table(f"questions-{name}")
    if path is None:
        raise ValueError(f"the questions {name!r} are not there: make sweeps")
    return pd.read_csv(path, dtype={"text": str, "answer": str}, keep_default_na=False)


def write_questions(name: str, asked: pd.DataFrame, rows: list[Row], folder: Path) -> Path:
    """Write the questions of a set, with what a smaller picture still answers.

    Args:
        name: Of the set, with what tells its files apart; see
            :func:`prumerge.sweeps.points.suffix_of`.
        asked: Its questions.
        rows: Among them that of ``small_picture`` with 64 tokens, or the file stays as it is.
        folder: Where to.

    Returns:
        The file.
    """
    small = [
        row.right
        for row in rows
        if (row.cells["method"], row.cells["budget"]) == ("small_picture", "64")
    ]
    path = folder / f"questions-{name}.csv"
    if not small and (path.exists() or folder == places.RESULTS):
        return path  # another sweep of the same set has it, or will have
    table = asked.assign(small_picture_right=small[0].astype(int)) if small else asked
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False)
    return partial.replace(path)
