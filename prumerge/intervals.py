"""How sure is a score? Percentile bootstrap over questions, or over pictures with all of theirs.

Questions about one picture stand or fall together, so a score over 60 pictures with 5 questions
each is less sure than 300 independent questions would be. Naming the picture of each question
(``clusters``) draws whole pictures.

Two methods that answered the same questions share what makes a question hard. :func:`paired` draws
their differences and tells methods apart that two separate intervals would not.

Shapes
    questions   questions that were answered
    quantities  numbers per question that are added up
    draws       resampled sets of questions

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

_PLACES_AT_ONCE = 4_000_000  # 32 MB of indices, however many questions there are


class Interval(NamedTuple):
    """A mean and the bounds that the stated share of resampled means lies between.

    Attributes:
        mean: Over all questions as they were asked.
        low: Lower bound.
        high: Upper bound. Both equal the mean where all questions scored alike: resampling
            cannot tell how sure a score without any spread is.
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
    """Return the mean of ``values`` with its percentile bootstrap interval.

    Args:
        values: One number per question, for example 1 for a right answer and 0 for a wrong one.
        clusters: Which picture, or other unit, each question belongs to; without them each
            question is a unit.
        level: Share of resampled means between the bounds, above 0 and below 1.
        draws: Resampled sets, at least 1. The bounds of 2,000 are right to about a tenth of
            the interval's width.
        seed: Equal seeds give equal bounds.

    Returns:
        Mean and bounds, in the unit of ``values``.

    Raises:
        ValueError: If there are no values, one is not finite, lengths differ, or ``level`` or
            ``draws`` is out of range.

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
    """Return the mean of ``first - second`` with its interval, both from the same questions.

    Args:
        first: One number per question.
        second: As many numbers, of the same questions in the same order.
        clusters: As in :func:`interval`.
        level: As in :func:`interval`.
        draws: As in :func:`interval`.
        seed: As in :func:`interval`.

    Returns:
        Mean difference and bounds. Where 0 lies outside them, chance alone hardly explains the
        difference.

    Raises:
        ValueError: As :func:`interval`, or if the two differ in length.

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

    Args:
        columns: Quantities of each question.
        clusters: Which unit each question belongs to; whole units are drawn, as many as there
            are.
        draws: Resampled sets, at least 1.
        seed: Of the generator.

    Returns:
        One row of sums per draw.

    Raises:
        ValueError: If ``clusters`` has another length, or ``draws`` is below 1.
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
    """Return the two percentiles that hold the middle ``level`` of resampled scores.

    Raises:
        ValueError: If ``level`` is not between 0 and 1.
    """
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
