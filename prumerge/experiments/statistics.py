"""How sure is a score, and do two methods differ? Whole pictures are drawn, or change sign.

Questions about one picture stand or fall together, so a score over 60 pictures with 5 questions
each is less sure than 300 independent questions would be. Naming the picture of each question
(``clusters``, ``pictures``) keeps them together.

Intervals are percentile bootstraps. Two methods that answered the same questions share what makes
a question hard: :func:`paired` draws their differences and tells methods apart that two separate
intervals would not. Tests are of permutations, exact where there are few: :func:`significance`
flips signs, :func:`rank_agreement` tries orders, :func:`holm` corrects all tests of a table.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8, 13 and 15; Phipson
and Smyth, Permutation P-values Should Never Be Zero, 2010; Holm, A Simple Sequentially Rejective
Multiple Test Procedure, 1979; Wilson, Probable Inference, 1927.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest, pearsonr, permutation_test, rankdata

DRAWS = 10_000
"""Random sign flips of a significance test; the smallest level they can find is 2 in so many."""

ORDERS = 40_320
"""Orders of methods that a rank agreement is held against: all of them up to eight methods."""

Levels = TypeVar("Levels", np.ndarray, pd.Series, pd.DataFrame)

_PLACES_AT_ONCE = 400_000  # 3 MB of indices, which a cache holds, however many questions


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


def wilson(right: int | np.integer, of: int | np.integer, level: float = 0.95) -> Interval:
    """Return the share of ``of`` independent questions that is right, with Wilson's interval.

    For few questions: unlike a bootstrap it has a width where all or none are right. Questions
    about one picture are not independent. None at all, and more right than there are, are
    ValueErrors.

    Example:
        >>> share, low, high = wilson(6, 6)
        >>> share, round(low, 2), high
        (1.0, 0.61, 1.0)
    """
    if not 0 <= right <= of or of < 1:
        raise ValueError(f"got {right} right of {of} questions: wilson needs 0 to all of 1 or more")
    found = binomtest(int(right), int(of)).proportion_ci(level, method="wilson")
    return Interval(float(right / of), float(found.low), float(found.high))


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
    return interval(_apart(first, second), clusters, level, draws, seed)


def _apart(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    first, second = _numbers(first), _numbers(second)
    if len(first) != len(second):
        raise ValueError(
            f"pairs need the same questions on both sides, got {len(first)} and {len(second)} "
            "values: keep the questions that both answered"
        )
    return first - second


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
    """Rank methods and test each against one of them, best first, whole pictures together.

    ``scores`` has one number from 0 to 1 per question, by method: means where several seeds
    answered. Columns: ``accuracy`` with ``low`` and ``high``; ``difference`` to the base with
    ``difference_low`` and ``difference_high`` (95 % intervals); ``p`` that chance alone explains
    it (:func:`significance`), and ``p_holm`` corrected for the tests of this table, both empty for
    the base. Where several such tables are shown as one, correct ``p`` over all: :func:`holm`.
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
    table["p_holm"] = holm(table["p"])
    return table.sort_values("accuracy", ascending=False, kind="stable")


def significance(
    first: ArrayLike, second: ArrayLike, pictures: Iterable[Hashable], seed: int = 0
) -> float:
    """Return the two-sided p of a sign-flip test: how often is so large a difference chance?

    Under chance each picture might as well have swapped its two methods, so its summed difference
    changes sign. Pictures whose sum is 0 tell nothing; of at most 13 others all flips are counted,
    of more :data:`DRAWS` random ones. 1 where at most one picture differs.

    Example:
        >>> significance([1, 1, 1, 1, 0], [0, 0, 0, 0, 0], "abcde")  # 2 of 16 flips
        0.125
    """
    sums = _unit_sums(_apart(first, second)[:, None], pictures)[:, 0]
    sums = sums[~np.isclose(sums, 0, atol=1e-9)]  # thirds of three seeds leave a rest
    if len(sums) < 2:
        return 1.0
    found = permutation_test(
        (sums,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        batch=max(1, _PLACES_AT_ONCE // len(sums)),
        rng=seed,
    )
    return float(found.pvalue)


def holm(levels: Levels) -> Levels:
    """Correct significance levels for the number of tests in a table of any shape.

    NaN is no test and stays; a table of several budgets or columns is corrected over all of them.

    Example:
        >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).tolist()
        [0.03, nan, 0.06, 0.06]
    """
    values = np.array(levels, dtype=float)
    tests = ~np.isnan(values)
    found = values[tests]
    if found.size and not 0 <= found.min() <= found.max() <= 1:
        raise ValueError(f"levels lie from 0 to 1, got {found.min():g} to {found.max():g}")
    order = np.argsort(found, kind="stable")
    raised = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(raised, 1)
    values[tests] = corrected
    if isinstance(levels, pd.DataFrame):
        return pd.DataFrame(values, levels.index, levels.columns)
    return pd.Series(values, levels.index) if isinstance(levels, pd.Series) else values


def correlation(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return Pearson's correlation of two numbers per picture, with Fisher's 95 % interval.

    All three are NaN where nothing can be said: of fewer than four pictures, or where either number
    is the same for all.

    Example:
        >>> correlation([1, 2, 3, 4], [3, 3, 3, 3]).mean
        nan
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(first) < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Interval(np.nan, np.nan, np.nan)
    found = pearsonr(first, second)
    low, high = found.confidence_interval()
    return Interval(float(found.statistic), float(low), float(high))


class Agreement(NamedTuple):
    """Spearman's rank correlation of methods in two tables, and how far it can be believed."""

    mean: float
    low: float  # 95 % interval of the choice of pictures
    high: float
    p: float  # share of orders of the methods that agree as well
    methods: int


def rank_agreement(
    scores: Mapping[str, ArrayLike],
    other: Mapping[str, ArrayLike | int | float],
    pictures: Iterable[Hashable],
    other_pictures: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Return Spearman's rank correlation of two tables of methods, and how sure it is.

    ``scores`` has one number per question, by method; ``other`` too, about ``other_pictures``, or
    one printed number each. Of the methods in both three must remain, else it is a ValueError.
    ``low`` and ``high`` are what the choice of pictures leaves, by ``draws``, and say nothing of
    how few methods there are. That is in ``p``, one-sided: of all orders of the other table, the
    share that agrees at least as well; beyond eight methods :data:`ORDERS` random ones. Three
    methods in the very same order give 1/6; four give 1/24, the smallest ``p`` there is for them,
    and 1/6 in any other order.
    """
    common = [name for name in other if name in scores]
    if len(common) < 3:
        raise ValueError(f"a rank correlation needs 3 methods in both tables, got {common}")
    columns = np.stack([np.asarray(scores[name], dtype=float) for name in common], axis=1)
    printed = np.stack([np.atleast_1d(np.asarray(other[n], dtype=float)) for n in common], axis=1)
    ours, theirs = rankdata(columns.mean(0)), rankdata(printed.mean(0))
    drawn_ours = rankdata(resampled_sums(columns, pictures, draws, seed), axis=1)
    drawn_theirs = theirs[None]
    if other_pictures is not None:
        drawn_theirs = rankdata(resampled_sums(printed, other_pictures, draws, seed + 1), axis=1)
    # Ties in a draw make a rank vector constant now and then; those say nothing and count as 0.
    drawn = _correlate(drawn_ours, drawn_theirs)
    chance = permutation_test(
        (theirs,),
        lambda orders, axis: (orders * ours).sum(axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=ORDERS,
        alternative="greater",
        rng=seed,
    )
    mean = float(_correlate(ours[None], theirs[None])[0])
    return Agreement(mean, *bounds(drawn), float(chance.pvalue), len(common))


def _correlate(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    others = others - others.mean(axis=1, keepdims=True)
    length = np.sqrt((rows**2).sum(axis=1) * (others**2).sum(axis=1))
    together = (rows * others).sum(axis=1)
    return np.divide(together, length, out=np.zeros(len(rows)), where=length > 0)
