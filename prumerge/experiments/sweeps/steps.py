"""From the released method to all tokens, step by step; and what every reading of the paper gives.

The grid ``steps`` crosses four factors of the release without a budget: the extra token, merging,
order and position ids. A path through them says what each step adds on top of those before it, so
it depends on which comes first; :func:`factors` tells each factor's mean over all paths (its
Shapley value) and over all levels of the others (its main effect).

Source: Shapley, A Value for n-Person Games, 1953, for the mean over all orders of joining.
"""

from collections.abc import Iterable
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from prumerge.experiments.statistics import interval, paired
from prumerge.experiments.sweeps.tables import Answered

FACTORS = {
    "without the extra token": ("extra_token", True, False),
    "without merging": ("neighbours", 32, 0),
    "in raster order": ("order", "attention", "raster"),
    "at original positions": ("positions", "compact", "original"),
}
"""Steps of the path in order: the setting, as released and changed."""

READINGS = (
    "own_term", "normalise_weights", "candidates", "similarity", "score", "order", "positions",
)  # fmt: skip
"""What the grid ``readings`` leaves open."""

Cells = dict[frozenset[str], Float[np.ndarray, " questions"]]


def cells(answered: Answered, method: str = "prumerge") -> Cells:
    """Return a method's scores by the steps taken, 16 sets of them; ValueError names one missing.

    ``answered`` are the rows of the grid ``steps``.
    """
    own, found = answered.where(method=method), {}
    for taken in _subsets(FACTORS):
        values = {
            setting: (before, after)[name in taken]
            for name, (setting, before, after) in FACTORS.items()
        }
        there = own.where(**values)
        if there.rows.empty:
            raise ValueError(f"{method} was not run with {values}: make sweep SWEEP=steps")
        found[taken] = there.right.mean(axis=1).to_numpy()
    return found


def _subsets(names: Iterable[str]) -> list[frozenset[str]]:
    names = list(names)
    return [frozenset(c) for size in range(len(names) + 1) for c in combinations(names, size)]


def path(
    found: Cells,
    every: Float[np.ndarray, " questions"],
    pictures: pd.Series,
    asked: Bool[np.ndarray, " questions"] | None = None,
) -> pd.DataFrame:
    """Return the steps from the release to all tokens, one after the other, with 95 % intervals.

    ``every`` are the scores of all tokens, the last step; ``asked`` marks the questions to look at,
    such as those of one family. Columns: ``step``; ``before`` and ``after``, shares of right
    answers; ``difference`` with ``low`` and ``high``. The first row is the release, from 0.
    """
    mask = np.ones(len(every), dtype=bool) if asked is None else asked
    taken, now = frozenset(), found[frozenset()][mask]
    rows = [("as released", 0.0, now.mean(), *interval(now, pictures[mask]))]
    for name in (*FACTORS, "all tokens"):
        taken |= {name}
        then = (every if name == "all tokens" else found[taken])[mask]
        rows.append((name, now.mean(), then.mean(), *paired(then, now, pictures[mask])))
        now = then
    return pd.DataFrame(rows, columns=["step", "before", "after", "difference", "low", "high"])


def factors(found: Cells, pictures: pd.Series) -> pd.DataFrame:
    """Return each factor's effect, over all paths and over all levels of the others.

    One row per factor and kind, ``over all paths`` or ``over all levels``: ``difference`` with its
    95 % interval, ``low`` and ``high``. Over all paths, the four add up to the whole way.
    """
    rows = []
    for name in FACTORS:
        others = _subsets(other for other in FACTORS if other != name)
        gains = np.stack([found[taken | {name}] - found[taken] for taken in others])
        count = len(FACTORS)
        paths = [
            factorial(len(taken)) * factorial(count - len(taken) - 1) / factorial(count)
            for taken in others
        ]
        rows.append((name, "over all paths", *interval(np.array(paths) @ gains, pictures)))
        rows.append((name, "over all levels", *interval(gains.mean(axis=0), pictures)))
    return pd.DataFrame(rows, columns=["factor", "mean", "difference", "low", "high"])


def specifications(answered: Answered) -> pd.DataFrame:
    """Return what each reading of the paper answers, worst first, with 95 % intervals.

    ``answered`` are the rows of the grid ``readings``; columns are :data:`READINGS`, ``accuracy``,
    ``low`` and ``high``.
    """
    pictures = answered.questions["picture"]
    bounds = [interval(answered.right[key], pictures) for key in answered.rows.index]
    table = answered.rows[list(READINGS)].reset_index(drop=True)
    table[["accuracy", "low", "high"]] = np.array(bounds)
    return table.sort_values("accuracy", kind="stable", ignore_index=True)
