"""Handling: in which order tokens are sent, and which position ids the language model gives them.

The two are a factor of their own, apart from which tokens are chosen. On the mini-LLaVA the same
tokens answer far more in raster order at their original positions than by falling attention at
closed-up ones; on ``pocket`` the difference is within chance. So methods are compared at equal
handling: :func:`at` takes one, and refuses methods that have no row in it. Beside it stand each
method as its own code sends (:func:`published`), and at its best (:func:`best_handlings`), which is
chosen on other questions than it is reported on.

A handling is a mapping ``{"order": ..., "positions": ...}``, so that ``answered.where(**EQUAL)``
keeps its rows.

The mini-LLaVA saw tokens in raster order only, at original or closed-up ids: what it loses in
another order is what it never saw. LLaVA-1.5 saw raster order only as well.
"""

from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import pandas as pd

from prumerge.experiments.statistics import holm, paired, significance
from prumerge.experiments.sweeps.tables import Answered, read_sweep_rows

COLUMNS = ("order", "positions")
EQUAL = {"order": "raster", "positions": "original"}
"""The handling of all comparisons, unless another is named: each token at its own place."""

COMPACT = {"order": "raster", "positions": "compact"}
"""Raster order with ids counted anew, what codes do that cut the features before the prompt."""

RELEASED = {"order": "attention", "positions": "compact"}
"""How the released code sends tokens: by falling attention, at closed-up positions."""

BUDGETS = (32, 64, 128)
"""What settings are chosen at, on the questions ``choose``."""


def told(handling: Mapping[str, str]) -> str:
    """Write a handling in words.

    Example:
        >>> told(EQUAL)
        'raster, original'
    """
    return ", ".join(handling[name] for name in COLUMNS)


def _inside(rows: pd.DataFrame, handling: Mapping[str, str]) -> pd.Series:
    """Mark the rows of a handling; all tokens in raster order stand at their positions in any."""
    inside = rows["order"].eq(handling["order"])
    return inside & (rows["positions"].eq(handling["positions"]) | _unmoved(rows))


def _unmoved(rows: pd.DataFrame) -> pd.Series:
    # Every token in raster order: its closed-up, stretched and original ids are the same numbers.
    return rows["sends"].eq("all") & rows["order"].eq("raster")


def at(answered: Answered, handling: Mapping[str, str] = EQUAL) -> Answered:
    """Keep the rows of one handling; ValueError names what was not run in it.

    Each method must have a row at each budget that it has in another handling. A method that sends
    every token in raster order is the same at all positions and has one row for all three.
    """
    inside = _inside(answered.rows, handling).to_numpy()
    rows = answered.rows[inside]
    wanted, found = (set(_budgeted(table)) for table in (answered.rows, rows))
    if lacking := sorted(wanted - found):
        raise ValueError(
            f"not run at {told(handling)}: {', '.join(lacking)}; leave them out, or compare at a "
            "handling that all were run in"
        )
    return Answered(rows, answered.right[list(rows.index)], answered.questions)


def _budgeted(rows: pd.DataFrame) -> list[str]:
    pairs = zip(rows["method"], rows["budget"], strict=True)
    return [name if np.isnan(budget) else f"{name}@{budget:g}" for name, budget in pairs]


def handlings(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Return the handlings that occur, in the order of the rows."""
    return rows[list(COLUMNS)].drop_duplicates().to_dict("records")


def published() -> pd.DataFrame:
    """Return by method what its own code does: ``order``, ``positions``, and how that is known.

    ``not stated`` where neither paper nor code could be read to say it, ``none`` where there is no
    code that feeds a language model. HoloV's order, ``by part``, is none of this package's.
    """
    file = resources.files("prumerge.rivals").joinpath("published.csv")
    with file.open(encoding="utf-8") as text:
        return pd.read_csv(text, keep_default_na=False).set_index("method")


def best_handlings(answered: Answered, budgets: Sequence[int] = BUDGETS) -> dict[str, dict]:
    """Return each method's handling with the most right answers, mean over budgets.

    ``answered`` are rows of the grid ``handling``, on ``choose``: report the result on others, or
    the choice flatters itself. ValueError where a handling lacks a budget. Of equals the first.
    """
    best = {}
    for name, rows in answered.rows.groupby("method", sort=False):
        means = _means(rows, name, budgets)
        best[name] = dict(zip(COLUMNS, means.idxmax(), strict=True))
    return best


def _means(rows: pd.DataFrame, name: str, budgets: Sequence[int]) -> pd.Series:
    """Mean accuracy of a method by handling, over all budgets."""
    table = rows.pivot_table("accuracy", list(COLUMNS), "budget", sort=False)
    if not set(budgets) <= set(table) or table[list(budgets)].isna().any(axis=None):
        raise ValueError(f"{name} was not run at {list(budgets)} tokens in every handling it has")
    return table[list(budgets)].mean(axis=1)


def three_ways(
    answered: Answered, best: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, tuple[dict, np.ndarray] | None]]:
    """Return each method's handling and scores ``equal``, ``published`` and ``best``.

    ``answered`` has one budget (and the methods that read none); ``best`` comes from
    :func:`best_handlings`. None where that handling is unknown or was not run.
    """
    stated = published()
    equal = at(answered).scores("method")
    ways = {}
    for name, scores in equal.items():
        own = answered.where(method=name)
        known = stated.loc[name, list(COLUMNS)].to_dict() if name in stated.index else None
        chosen = {"published": known, "best": best.get(name)}
        found = {way: _scores_in(own, handling) for way, handling in chosen.items()}
        ways[name] = {"equal": (EQUAL, scores), **found}
    return ways


def _scores_in(own: Answered, handling: Mapping[str, str] | None) -> tuple | None:
    if handling is None or not _inside(own.rows, handling).any():
        return None
    return dict(handling), next(iter(at(own, handling).scores("method").values()))


def read_handling(suffix: str = "") -> Answered:
    """Read the grid ``handling``: every method in every handling, on the questions ``choose``."""
    return read_sweep_rows(f"handling{suffix}")


STEPS = {
    "raster order": (("own", "compact"), ("raster", "compact")),
    "original positions": (("raster", "compact"), ("raster", "original")),
    "stretched positions": (("raster", "compact"), ("raster", "stretched")),
}
"""From which handling to which a step goes; ``own`` is the method's order that is not raster."""


def worth(answered: Answered, budget: int = 64) -> pd.DataFrame:
    """Return what order and positions are worth for each method, with 95 % intervals.

    One row per method and step of :data:`STEPS` that was run: ``method``, ``step``, ``before`` and
    ``after`` (shares of right answers), ``difference`` with ``low`` and ``high``, ``p`` that chance
    alone explains it, and ``p_holm`` corrected for all rows of the table.
    """
    asked, rows = answered.where(budget=budget), []
    for name in asked.rows["method"].unique():
        own = asked.where(method=name)
        scores = own.scores(*COLUMNS)
        orders = {order for order, _ in scores} - {"raster"}
        for step, ends in STEPS.items():
            before, after = (
                scores.get((next(iter(orders), "") if order == "own" else order, positions))
                for order, positions in ends
            )
            if before is None or after is None:
                continue
            apart = paired(after, before, asked.questions["picture"])
            level = significance(after, before, asked.questions["picture"])
            rows.append((name, step, before.mean(), after.mean(), *apart, level))
    columns = ["method", "step", "before", "after", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"]))
