"""Results of comparisons as files: ``rows.csv`` with scores, ``questions.parquet`` with answers."""

from pathlib import Path

import pandas as pd

from prumerge.paths import RESULTS

EVALUATION = RESULTS / "evaluation"
"""Folders of committed comparisons, named after model and size of the questions."""

ALIKE = ("weights", "adapter", "do_pad", "conversation", "dtype")
"""What all rows of a comparison share."""

FIRST = ["label", "task", "benchmark", "metric", "value", "low", "high", "unit", "constant"]


def read_results(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a comparison.

    Args:
        folder: Path, or name of a folder in ``data/results/evaluation``.

    Returns:
        Rows and questions, as :func:`prumerge.evaluation.comparison.compare` returns them.

    Raises:
        ValueError: If there is no comparison, or a file of it cannot be read.
    """
    place = EVALUATION / folder  # an absolute path stays as it is
    if not (place / "rows.csv").exists():
        raise ValueError(
            f"{folder} holds no rows.csv: make one with "
            f"python -m prumerge.evaluation --compare --save {place}"
        )
    try:
        rows = pd.read_csv(place / "rows.csv", dtype={"weights": str})  # some look like numbers
        return rows, pd.read_parquet(place / "questions.parquet")
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are among them
        raise ValueError(
            f"the comparison in {folder} cannot be read ({error}): remove that folder, and "
            "compare again"
        ) from error


def merge_into(folder: Path, rows: pd.DataFrame, questions: pd.DataFrame) -> None:
    """Put results into a folder, in place of earlier ones of the same methods and tasks.

    Args:
        folder: Where to; made if absent. Each file is complete or as it was.
        rows: Of one model.
        questions: Of the same.

    Raises:
        ValueError: If results of other methods or tasks stay there that cannot be compared with
            these; nothing is written then.
    """
    if (folder / "rows.csv").exists():
        before, asked = read_results(folder.resolve())
        done = set(zip(rows["label"], rows["task"], strict=True))
        done |= set(zip(questions["label"], questions["task"], strict=True))
        left = before[~_named(before, done)]
        _require_alike(folder, left, rows)
        rows = pd.concat([left, rows], ignore_index=True) if len(left) else rows
        questions = pd.concat([asked[~_named(asked, done)], questions], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows[FIRST + [name for name in rows.columns if name not in FIRST]]
    rows.to_csv(folder / "rows.partial", index=False, lineterminator="\n")
    small = {"item": "int32", "tokens": "int16", "right": "float32"}
    small |= dict.fromkeys(["label", "task", "picture", "unit", "category", "truth"], "category")
    questions.astype(small).to_parquet(folder / "questions.partial", compression="zstd")
    (folder / "questions.partial").replace(folder / "questions.parquet")
    (folder / "rows.partial").replace(folder / "rows.csv")


def _require_alike(folder: Path, left: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Refuse rows that were measured otherwise than those beside which they would stand."""
    both = pd.concat([left, rows])
    found = {name: {"none" if pd.isna(v) else str(v) for v in both[name]} for name in ALIKE}
    for task, items in both.groupby("task")["items"]:
        if task in set(rows["task"]):
            found[f"number of questions of {task}"] = set(map(str, items))
    for name, values in found.items():
        if len(values) > 1:
            raise ValueError(
                f"{folder} holds results of another {name} ({' and '.join(sorted(values))}): move "
                "it away and repeat the command, or save elsewhere; kept answers are not asked anew"
            )


def _named(table: pd.DataFrame, done: set[tuple[str, str]]) -> pd.Series:
    pairs = zip(table["label"], table["task"], strict=True)
    return pd.Series([pair in done for pair in pairs], index=table.index, dtype=bool)
