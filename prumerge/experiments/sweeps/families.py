"""Families of questions: what guessing answers, and a fair split by what a smaller picture answers.

Families differ in what can be guessed: one of two answers is right half the time, one of ten
seldom. A split of all questions by whether something answered them puts more guesses on the
answered side, and so compares families instead of methods. Here each family counts alike on both
sides, and the best constant answer stands beside the methods.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from prumerge.experiments.statistics import Interval, bounds, resampled_sums

HALVES = {1: "still answered", 0: "not answered"}
"""By whether a picture of 64 patches, enlarged to full size and sent whole, answers a question."""


def best_constant(questions: pd.DataFrame) -> Float[np.ndarray, " questions"]:
    """Return 1.0 where the answer that is right most often in a question's family is right.

    What nobody who always says the same within a family can exceed; no picture is needed for it.
    """
    most = questions.groupby("family")["answer"].transform(lambda answers: answers.mode()[0])
    return (questions["answer"] == most).to_numpy(dtype=float)


def even_mean(
    values: ArrayLike, families: pd.Series, pictures: pd.Series, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean over families of their means, with its 95 % bootstrap over pictures.

    Each family counts the same, however many questions it asks; in a draw that misses one, the
    others count.

    Example:
        >>> kinds, seen = pd.Series(["count", "count", "count", "read"]), pd.Series([0, 1, 2, 3])
        >>> even_mean([1, 1, 1, 0], kinds, seen).mean
        0.5
    """
    values, own = np.asarray(values, dtype=float), pd.get_dummies(families).to_numpy(dtype=float)
    sums = resampled_sums(np.hstack([values[:, None] * own, own]), pictures, draws, seed)
    right, asked = np.hsplit(sums, 2)
    shares = np.divide(right, asked, out=np.full_like(right, np.nan), where=asked > 0)
    mean = (values @ own / own.sum(axis=0)).mean()
    return Interval(float(mean), *bounds(np.nanmean(shares, axis=1)))


def halves(
    scores: Mapping[str, ArrayLike], questions: pd.DataFrame, base: str
) -> dict[str, pd.DataFrame]:
    """Return by half of :data:`HALVES` each method's ``accuracy`` and ``difference`` to the base.

    Both are means over families with 95 % intervals, ``low`` and ``high``, ``difference_low`` and
    ``difference_high``. A family that has no question in one half is left out of both.
    """
    sides = questions.groupby("family")["smaller_picture_right"].transform("nunique")
    columns = ["accuracy", "low", "high", "difference", "difference_low", "difference_high"]
    tables = {}
    for value, half in HALVES.items():
        asked = ((sides == 2) & (questions["smaller_picture_right"] == value)).to_numpy()
        units = questions["family"][asked], questions["picture"][asked]
        own = {name: np.asarray(right, dtype=float)[asked] for name, right in scores.items()}
        found = {
            name: (*even_mean(right, *units), *even_mean(right - own[base], *units))
            for name, right in own.items()
        }
        tables[half] = pd.DataFrame.from_dict(found, orient="index", columns=columns)
    return tables
