"""How sure is a score, and do two methods differ? Percentile bootstrap over whole pictures.

Questions about one picture stand or fall together, so a score over 60 pictures with 5 questions
each is less sure than 300 independent questions would be. Naming the picture of each question
(``clusters``) draws whole pictures.

Two methods that answered the same questions share what makes a question hard. :func:`paired` draws
their differences and tells methods apart that two separate intervals would not.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13, and for the
achieved significance level; Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import rankdata

DRAWS = 10_000
"""Resampled sets of a significance test; the smallest level it can find is 2 in so many."""

_PLACES_AT_ONCE = 4_000_000  # 32 MB of indices, however many questions there are


class Interval(NamedTuple):
    """A mean and the bounds that the stated share of resampled means lies between.

    Both bounds equal the mean where all questions scored alike: resampling cannot tell how sure a
    score without any spread is.
    """

    mean: float
    low: float
    high: float


def interval(
    values: ArrayLike,
    clusters: Iterable[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``values``, one per question, with its percentile bootstrap interval.

    ``clusters`` names the picture, or other unit, of each question; without it each question is a
    unit. ``level``, above 0 and below 1, is the share of resampled means between the bounds, which
    2,000 ``draws`` give to about a tenth of the interval's width. No values, one that is not
    finite, and another number of ``clusters`` are ValueErrors.

    Example:
        >>> interval([1, 1, 0, 1]).mean
        0.75
        >>> interval([1, 1, 1, 1])
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    values = _numbers(values)
    columns = np.stack([values, np.ones_like(values)], axis=1)
    sums = resampled_sums(columns, clusters, draws, seed)
    return Interval(float(values.mean()), *bounds(sums[:, 0] / sums[:, 1], level))


def paired(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Iterable[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``first - second``, of the same questions in order, with its interval.

    Where 0 lies outside, chance alone hardly explains the difference. See :func:`interval`.

    Example:
        >>> paired([1, 1, 1, 0], [1, 0, 0, 0]).mean
        0.5
    """
    first, second = _numbers(first), _numbers(second)
    if len(first) != len(second):
        raise ValueError(
            f"paired needs the same questions on both sides, got {len(first)} and {len(second)} "
            "values: keep the questions that both answered"
        )
    return interval(first - second, clusters, level, draws, seed)


def resampled_sums(
    columns: Float[np.ndarray, "questions quantities"],
    clusters: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "draws quantities"]:
    """Add up each quantity over questions drawn with replacement.

    Scores that are no mean, such as F1, are functions of a few sums; evaluated on each row of
    the result they are resampled too.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    units = _unit_sums(columns, clusters)
    generator = np.random.default_rng(seed)
    block = max(1, _PLACES_AT_ONCE // len(units))
    sums = np.empty((draws, units.shape[1]))
    for start in range(0, draws, block):
        size = (min(block, draws - start), len(units))
        drawn = generator.integers(len(units), size=size)
        for quantity in range(units.shape[1]):
            sums[start : start + len(drawn), quantity] = units[drawn, quantity].sum(axis=1)
    return sums


def bounds(resampled: Float[np.ndarray, " draws"], level: float = 0.95) -> tuple[float, float]:
    """Return the two percentiles that hold the middle ``level`` of resampled scores."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}: 0.95 is usual")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _unit_sums(columns: np.ndarray, clusters: Iterable[Hashable] | None) -> np.ndarray:
    if clusters is None:
        return columns
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(name, len(numbers)) for name in clusters]
    if len(places) != len(columns):
        raise ValueError(
            f"clusters must name one unit per question, got {len(places)} names for "
            f"{len(columns)} questions"
        )
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, places, columns)
    return sums


def _numbers(values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"values must be one number per question, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(
            f"value {place} is {numbers[place]}: leave unanswered questions out or count them as 0"
        )
    return numbers


def compare(
    scores: Mapping[str, ArrayLike], pictures: Iterable[Hashable], base: str
) -> pd.DataFrame:
    """Rank methods and test each against one of them, best first, by draws of whole pictures.

    ``scores`` has one number from 0 to 1 per question, by method: means where several seeds
    answered. Columns: ``accuracy`` with ``low`` and ``high``; ``difference`` to the base with
    ``difference_low`` and ``difference_high`` (95 % intervals); ``p`` that chance alone explains
    it, and ``p_holm`` corrected for the number of methods, both empty for the base.
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
    """Return how often resampled differences change sign, both sides counted: in (0, 1]."""
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

    ``scores`` has one number per question, by method; of those in both tables three must remain.
    The 95 % interval is what the choice of pictures leaves. How few methods there are is not in it:
    of three or four, any order has a good chance.
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

    ``curve`` has one number per question, by tokens sent; at least two entries. Between the two
    nearest it is linear in the logarithm of the tokens; beyond the ends the nearest entry holds.

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
