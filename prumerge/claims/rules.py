"""Rules for verdicts. An effect is an interval that is positive where the claim is right.

Handling (order and position ids of the tokens) decides much by itself, so two choices are compared
at equal handling: raster order at original positions. Where the released handling, by falling
attention at closed-up positions, gives another verdict, the finding says so.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from prumerge.claims.evidence import Evidence, Missing
from prumerge.claims.judging import FAILS, HOLDS, PART, UNTESTED, Finding, Rule
from prumerge.experiments.statistics import Interval, paired
from prumerge.experiments.sweeps.handling import COMPACT, EQUAL, RELEASED
from prumerge.experiments.sweeps.tables import Answered

UNDECIDED = "chance explains it; more questions would tell"
MARGIN = 3
"""Points that a reduction may lose at most, chance included, to keep up."""


def direction(effects: Mapping[str, Interval]) -> str:
    """Judge a claim that something is better.

    It holds if all intervals lie above 0, in part if some do; it does not if none does and some
    lie below; it cannot be tested if all of them hold 0.

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
    verdict = direction(effects)
    note = f": {UNDECIDED}" if verdict == UNTESTED else ""
    return Finding(verdict, in_words(effects) + note, on)


def as_good(effects: Mapping[str, Interval], on: str) -> Finding:
    """Judge a claim that something loses nothing.

    It does not hold if all intervals lie below 0, and holds in part if some do. If none does it
    holds, unless one reaches further down than :data:`MARGIN`: then it cannot be tested.
    """
    lost = sum(effect.high < 0 for effect in effects.values())
    if lost:
        return Finding(FAILS if lost == len(effects) else PART, in_words(effects), on)
    if min(effect.low for effect in effects.values()) < -MARGIN:
        return Finding(UNTESTED, f"{in_words(effects)}: {UNDECIDED}", on)
    return Finding(HOLDS, in_words(effects), on)


def in_words(effects: Mapping[str, Interval]) -> str:
    """Write effects with their intervals."""
    words = "; ".join(
        f"{name}: {effect.mean:+.1f} ({effect.low:+.1f} to {effect.high:+.1f})"
        for name, effect in effects.items()
    )
    return f"{words} points"


def points(first: object, second: object, clusters: object = None) -> Interval:
    """Return the paired difference of shares right, in points of a hundred."""
    return Interval(*(100 * value for value in paired(first, second, clusters)))


def sent_as(choice: Mapping, handling: Mapping) -> dict:
    """Add a handling to a choice; a rival's own code sends in raster order."""
    ours = choice.get("method", "prumerge") in ("prumerge", "prumerge+")
    return {**choice, **(handling if ours or handling != RELEASED else COMPACT)}


def in_both(rule: Callable[[Mapping], Finding], *, always: bool = False) -> Finding:
    """Judge at equal handling; the released one is told beside it where its verdict differs."""
    equal = rule(EQUAL)
    try:
        own = rule(RELEASED)
    except Missing:
        return equal
    both = equal._replace(released=own.verdict)
    if own.verdict == equal.verdict and not always:
        return both
    return both._replace(found=f"{equal.found}; as each is released, {own.verdict}: {own.found}")


def apart(
    own: Answered,
    first: Mapping,
    second: Mapping,
    asked: Bool[np.ndarray, " questions"] | slice = slice(None),
) -> Interval:
    """Compare two choices of a sweep, such as ``{"method": "ats"}``, on some questions, in points.

    Rows that share a choice, such as seeds, are averaged. Missing names a choice without rows.
    """
    sides = []
    for choice in (first, second):
        side = own.where(**choice)
        if side.rows.empty:
            words = ", ".join(f"{name}={value}" for name, value in choice.items())
            raise Missing(f"no rows of {words}: make sweeps")
        sides.append(side.right.mean(axis=1).to_numpy()[asked])
    return points(*sides, own.questions["picture"].to_numpy()[asked])


def by_budget(
    own: Answered, first: Mapping, second: Mapping, budgets: tuple = ()
) -> dict[str, Interval]:
    """Compare two choices of a sweep at each budget, by default all that the sweep has."""
    effects = {}
    for budget in budgets or sorted(own.rows["budget"].dropna().unique()):
        sides = ({**choice, "budget": budget} for choice in (first, second))
        effects[f"{budget:.0f} tokens"] = apart(own, *sides)
    return effects


def choice_pays(
    sweep: str,
    first: Mapping,
    second: Mapping,
    evidence: Evidence,
    *,
    budgets: tuple = (),
    judged: Callable[[Mapping[str, Interval], str], Finding] = better,
) -> Finding:
    """Judge whether the first of two choices of a sweep answers more, at equal handling.

    ``judged`` may be :func:`as_good`: then, whether it answers as much.
    """
    own, on = evidence.sweep(sweep)

    def rule(handling: Mapping) -> Finding:
        pair = (sent_as(choice, handling) for choice in (first, second))
        return judged(by_budget(own, *pair, budgets), on)

    return in_both(rule)


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


def above_in(cells: int | np.integer, of: int) -> Finding:
    """Judge by how many printed cells are lower than the method's own."""
    return computed(all_or_some(cells, of), f"above in {cells} of {of} printed cells")


def untested(why: str) -> Rule:
    """Make a rule that only says why a claim cannot be tested here."""
    return lambda evidence: Finding(UNTESTED, why, "-")


def computed(verdict: str, found: str, ratio: float | None = None) -> Finding:
    """Make a finding of arithmetic."""
    return Finding(verdict, found, ratio=ratio)
