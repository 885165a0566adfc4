"""Verdicts from intervals, and the words for them.

An effect is an :class:`prumerge.experiments.statistics.Interval` that is positive where the claim
is right.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from prumerge.claims.claim import ARITHMETIC, FAILS, HOLDS, PART, UNTESTED, Finding
from prumerge.claims.evidence import Evidence
from prumerge.experiments.statistics import Interval, paired

UNDECIDED = "chance explains it; more questions would tell"


def direction(effects: Mapping[str, Interval]) -> str:
    """Judge a claim that something is better.

    Args:
        effects: By case, positive where the claim is right.

    Returns:
        Holds if all intervals lie above 0, in part if some do; does not hold if none does and some
        lie below; cannot be tested if all of them hold 0.

    Example:
        >>> direction({"a": Interval(2, 1, 3), "b": Interval(1, -1, 3)})
        'holds in part'
    """
    up = sum(effect.low > 0 for effect in effects.values())
    down = sum(effect.high < 0 for effect in effects.values())
    if up:
        return HOLDS if up == len(effects) else PART
    return FAILS if down else UNTESTED


def better(effects: Mapping[str, Interval], on: str) -> Finding:
    """Judge effects in points and put them into words."""
    words = "; ".join(
        f"{name}: {effect.mean:+.1f} ({effect.low:+.1f} to {effect.high:+.1f})"
        for name, effect in effects.items()
    )
    verdict = direction(effects)
    note = f" points: {UNDECIDED}" if verdict == UNTESTED else " points"
    return Finding(verdict, words + note, on)


def points(first: object, second: object, clusters: object = None) -> Interval:
    """Return the paired difference of shares right, in points of a hundred."""
    return Interval(*(100 * value for value in paired(first, second, clusters)))


def interval_of(row: pd.Series) -> Interval:
    """Take an interval from the columns ``mean``, ``low`` and ``high``."""
    return Interval(float(row["mean"]), float(row["low"]), float(row["high"]))


def at_most(value: float | int, holds: float | int, part: float | int) -> str:
    """Judge a number that should be small.

    Example:
        >>> at_most(1.3, 1.25, 1.6)
        'holds in part'
    """
    return HOLDS if value <= holds else PART if value <= part else FAILS


def all_or_some(right: int | np.integer, of: int) -> str:
    """Judge by how many of several cases are right."""
    return HOLDS if right == of else PART if right else FAILS


def untested(why: str) -> Callable[[Evidence], Finding]:
    """Make a rule that only says why a claim cannot be tested here."""
    return lambda evidence: Finding(UNTESTED, why, "-")


def computed(verdict: str, found: str, ratio: float | None = None) -> Finding:
    """Make a finding of arithmetic."""
    return Finding(verdict, found, ARITHMETIC, ratio)
