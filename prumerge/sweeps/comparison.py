"""Methods against each other on the same questions: means, paired differences, significance.

Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979; Efron and Tibshirani,
An Introduction to the Bootstrap, 1993, for the intervals and the achieved significance level.
"""

from collections.abc import Hashable, Iterable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from prumerge.intervals import Interval, bounds, interval, paired, resampled_sums

DRAWS = 10_000
"""Resampled sets of a significance test; the smallest level it can find is 2 in so many."""


def compare(
    scores: Mapping[str, ArrayLike], pictures: Iterable[Hashable], base: str
) -> pd.DataFrame:
    """Rank methods and test each against one of them.

    Args:
        scores: One number from 0 to 1 per question, by method; means where several seeds answered.
        pictures: Picture of each question; whole pictures are drawn.
        base: The method that the others are compared with.

    Returns:
        One row per method, best first: ``accuracy`` with ``low`` and ``high``; ``difference`` to
        the base with ``difference_low`` and ``difference_high`` (95 % intervals); ``p`` that
        chance alone explains it, and ``p_holm`` corrected for the number of methods. The last two
        are empty for the base.

    Raises:
        ValueError: If the base is not among the methods.
    """
    if base not in scores:
        raise ValueError(f"base={base!r} is none of {', '.join(scores)}")
    rows = []
    for name, values in scores.items():
        mean, apart = interval(values, pictures), paired(values, scores[base], pictures)
        level = np.nan if name == base else significance(values, scores[base], pictures)
        rows.append((name, *mean, *apart, level))
    columns = ["method", "accuracy", "low", "high"]
    columns += ["difference", "difference_low", "difference_high", "p"]
    table = pd.DataFrame(rows, columns=columns).set_index("method")
    others = table.index != base
    table.loc[others, "p_holm"] = holm(table.loc[others, "p"].to_numpy())
    return table.sort_values("accuracy", ascending=False, kind="stable")


def significance(first: ArrayLike, second: ArrayLike, pictures: Iterable[Hashable]) -> float:
    """Return how often resampled differences change their sign, both sides counted.

    Args:
        first: One number per question.
        second: Of the same questions.
        pictures: Picture of each question.

    Returns:
        Achieved significance level, above 0 and at most 1; 1 where no question differs.
    """
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    sums = resampled_sums(apart[:, None], pictures, DRAWS)[:, 0]
    one_side = min((sums <= 0).sum(), (sums >= 0).sum())
    return float(min(1.0, 2 * (one_side + 1) / (DRAWS + 1)))


def holm(levels: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Correct significance levels for their number.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(levels, kind="stable")
    raised = np.maximum.accumulate(levels[order] * np.arange(len(levels), 0, -1))
    corrected = np.empty_like(levels)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def rank_agreement(
    scores: Mapping[str, ArrayLike],
    printed: Mapping[str, int | float],
    pictures: Iterable[Hashable],
    draws: int = 2000,
) -> Interval:
    """Return Spearman's rank correlation with a printed table, and how sure it is.

    Args:
        scores: One number per question, by method.
        printed: The printed score of each method; those that ``scores`` lacks are left out.
        pictures: Picture of each question; whole pictures are drawn.
        draws: Resampled sets.

    Returns:
        The correlation and the 95 % interval that the choice of questions leaves. How few methods
        there are is not in it: of three or four, any order has a good chance.

    Raises:
        ValueError: If fewer than three methods are in both.
    """
    common = [name for name in printed if name in scores]
    if len(common) < 3:
        raise ValueError(f"a rank correlation needs 3 methods in both tables, got {common}")
    columns = np.stack([np.asarray(scores[name], dtype=float) for name in common], axis=1)
    ranks = rankdata([printed[name] for name in common])
    sums = resampled_sums(columns, pictures, draws)
    # Ties in a draw make a rank vector constant now and then; those say nothing and count as 0.
    drawn = _correlate(rankdata(sums, axis=1), ranks)
    return Interval(float(_correlate(rankdata(columns.mean(0))[None], ranks)[0]), *bounds(drawn))


def _correlate(rows: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    rows, ranks = rows - rows.mean(axis=1, keepdims=True), ranks - ranks.mean()
    length = np.sqrt((rows**2).sum(axis=1) * (ranks**2).sum())
    return np.divide(rows @ ranks, length, out=np.zeros(len(rows)), where=length > 0)


def at_equal_tokens(
    curve: Mapping[int | float, ArrayLike], tokens: int | float
) -> Float[np.ndarray, " questions"]:
    """Return what a method would answer with so many tokens, between two measured numbers.

    Args:
        curve: One number per question, by tokens sent; at least two entries.
        tokens: Wanted number; beyond the ends the nearest entry holds.

    Returns:
        Per question, linear in the logarithm of the tokens between the two nearest entries.

    Example:
        >>> at_equal_tokens({16: [0.0, 1.0], 64: [1.0, 1.0]}, 32).tolist()
        [0.5, 1.0]
    """
    known = sorted(curve)
    above = int(np.clip(np.searchsorted(known, tokens), 1, len(known) - 1))
    low, high = known[above - 1], known[above]
    share = np.clip(np.log(tokens / low) / np.log(high / low), 0, 1)
    return (1 - share) * np.asarray(curve[low]) + share * np.asarray(curve[high])


def beyond_chance(table: pd.DataFrame, low: str = "low", high: str = "high") -> pd.Series:
    """Return for each row whether its interval leaves 0 out."""
    return (table[low] > 0) | (table[high] < 0)
