"""Several methods on the same questions: one table of scores, one of every answer.

Rows are saved after each method, so that a killed comparison shows what is done; with a journal it
goes on where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from prumerge.evaluation.certainty import best_constant, score_interval
from prumerge.evaluation.options import read
from prumerge.evaluation.results import questions_of
from prumerge.evaluation.runs import evaluate
from prumerge.evaluation.saved import merge_into

COMPARED = ("full", "release", "release+", "paper", "paper+", "release@64")
"""Full tokens, PruMerge and PruMerge+ as released and as written, and a fixed budget."""


def method_of(label: str) -> dict[str, Any]:
    """Read a method with its budget.

    Args:
        label: Method, or method and tokens per picture: a whole number, or a share below 1.

    Returns:
        Arguments of the model.

    Raises:
        ValueError: If the budget is no number or the method does not take it.

    Example:
        >>> method_of("release@64"), method_of("paper+")
        ({'method': 'release', 'budget': 64}, {'method': 'paper+'})
    """
    method, sign, budget = label.partition("@")
    if not sign:
        return {"method": method}
    try:
        tokens = float(budget) if "." in budget else int(budget)
    except ValueError:
        raise ValueError(f"{label!r} names no budget: write such as {method}@64") from None
    return {"method": method, "budget": tokens}


def compare(
    labels: Sequence[str] = COMPARED,
    tasks: Sequence[str] = ("mini",),
    limit: int | None = None,
    save: str | Path | None = None,
    **arguments: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate one model with several methods on some tasks.

    Args:
        labels: Methods, as :func:`method_of` reads them; ``full`` sends all tokens.
        tasks: As for :func:`prumerge.evaluation.runs.evaluate`.
        limit: Questions per task; None asks all.
        save: Folder for ``rows.csv`` and ``questions.parquet``, written after each method; rows
            there of other methods or tasks are kept. None saves nothing.
        **arguments: Of the model, the same for all methods; with ``answers=FOLDER`` a killed
            comparison goes on.

    Returns:
        Rows, one per method, task and metric: those of
        :func:`prumerge.evaluation.results.rows_of`, with the method's ``label``, the bounds ``low``
        and ``high`` of the score, and in ``constant`` what ``constant_answer``, given to every
        question, scores. And the table of :func:`prumerge.evaluation.results.questions_of` with
        the method's ``label``. On any process but the first of several: two empty tables.

    Raises:
        ValueError: If a name, a setting or a data set is wrong; all methods are checked first. If
            the folder holds rows of other weights, settings or numbers of questions, which cannot
            stand beside these.
        RuntimeError: If items cannot be answered; all others are by then.
    """
    methods = {label: method_of(label) for label in labels}
    for chosen in methods.values():
        read(arguments | chosen)
    tables, asked = [], []
    for label in tqdm(methods, unit="method"):
        rows, results = evaluate(tasks, limit, **arguments, **methods[label])
        if not results:
            continue
        questions = questions_of(results, results["efforts"]).assign(label=label)
        rows = judged(rows, questions, results.get("group_subtasks", {})).assign(label=label)
        asked.append(questions)
        tables.append(rows)
        if save:
            merge_into(Path(save), rows, questions)
    if not tables:
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(tables, ignore_index=True), pd.concat(asked, ignore_index=True)


def judged(
    rows: pd.DataFrame, questions: pd.DataFrame, groups: dict[str, Sequence[str]]
) -> pd.DataFrame:
    """Add to each score how sure it is and what the best constant answer scores.

    Args:
        rows: Of one method.
        questions: Of the same.
        groups: Tasks of each group.

    Returns:
        The rows with ``low``, ``high``, ``constant`` and ``constant_answer``.
    """
    added = []
    for task, metric in zip(rows["task"], rows["metric"], strict=True):
        own = questions[questions["task"].isin(groups.get(task) or [task])]
        _, low, high = score_interval(metric, own)
        answer, constant = best_constant(metric, own)
        added.append({"low": low, "high": high, "constant": constant, "constant_answer": answer})
    return rows.assign(**pd.DataFrame(added, index=rows.index))
