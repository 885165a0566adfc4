"""What is asked about mini clips, by family: motion, order, counting over time, appearance.

The answers are what the drawing knows. Each asker draws one question, or None where a clip gives
no unambiguous one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np

from prumerge.mini import families
from prumerge.mini.clips import MOST_THINGS, NOWHERE, Actor, Clip, draw_clip
from prumerge.mini.families import Question, pick, unique
from prumerge.mini.scenes import HELD_OUT_SEED

Asker = Callable[[Clip, np.random.Generator], Question | None]


def _evenly(rng: np.random.Generator, actors: list[Actor], attribute: str) -> Actor | None:
    """Draw what is told first, then of whom: else most answers would be the same."""
    told = pick(rng, sorted({getattr(actor, attribute) for actor in actors}))
    return pick(rng, [actor for actor in actors if getattr(actor, attribute) == told])


def motion(clip: Clip, rng: np.random.Generator) -> Question | None:
    """Which way does the only thing of its name move? What lies still moves nowhere."""
    moving = [actor for actor in unique(clip.actors, "name") if actor.way != NOWHERE]
    still = [actor for actor in unique(clip.actors, "name") if actor.way == NOWHERE]
    # Things that lie still are asked about seldom, or most answers would be the same.
    actor = pick(rng, moving if moving and rng.random() < 0.9 else still)
    if actor and actor.way == NOWHERE and rng.random() < 0.5:
        return None
    return actor and Question("motion", f"which way does the {actor.name} move ?", actor.way)


def order(clip: Clip, rng: np.random.Generator) -> Question | None:
    """Which of two colours came first, or last?"""
    first = pick(rng, unique(clip.actors, "colour"))
    other = pick(rng, [a for a in unique(clip.actors, "colour") if first and a.came != first.came])
    if other is None:
        return None
    early, late = sorted((first, other), key=lambda actor: actor.came)
    word, answer = ("first", early) if rng.random() < 0.5 else ("last", late)
    return Question(
        "order", f"which came {word} , {first.colour} or {other.colour} ?", answer.colour
    )


def blinks(clip: Clip, rng: np.random.Generator) -> Question | None:
    """How often did the only thing of its name blink? Often it did."""
    actor = _evenly(rng, unique(clip.actors, "name"), "blinks")
    if actor and actor.blinks == 0 and rng.random() < 0.75:
        return None
    return actor and Question(
        "blinks", f"how often did the {actor.name} blink ?", str(actor.blinks)
    )


def arrivals(clip: Clip, rng: np.random.Generator) -> Question | None:
    """How many things came after the first frame? Not asked where a sign may be one of them."""
    if clip.sign is not None:
        return None
    number = sum(actor.came > 0 for actor in clip.actors)
    return Question("arrivals", "how many objects came ?", str(number))


def appearance(clip: Clip, rng: np.random.Generator) -> Question | None:
    """Which colour, shape or digit has the only thing of its kind or colour?"""
    asker = pick(rng, (families.colour, families.shape, families.digit))
    asked = asker(clip.whole(), rng)
    return asked and Question("appearance", asked.text, asked.answer)


def sign(clip: Clip, rng: np.random.Generator) -> Question | None:
    """Which number was on the sign that was there for a while?"""
    asked = families.read(clip.whole(), rng)
    return asked and Question("sign", asked.text, asked.answer)


def where(clip: Clip, rng: np.random.Generator) -> Question | None:
    """In which quadrant was the only thing of its name when it came, or at last?"""
    actor, last = pick(rng, unique(clip.actors, "name")), rng.random() < 0.5
    place = actor and families.place(clip.whole(), actor.thing(-1 if last else actor.came))
    if place is None:
        return None
    word = "last" if last else "first"
    return Question("where", f"where is the {actor.name} at {word} ?", place)


def existence(clip: Clip, rng: np.random.Generator) -> Question | None:
    """Was a named thing there, in whichever frame?"""
    return families.existence(clip.whole(), rng)


CLIP_FAMILIES: dict[str, Asker] = {
    "motion": motion,
    "order": order,
    "blinks": blinks,
    "arrivals": arrivals,
    "appearance": appearance,
    "sign": sign,
}
CLIP_PRACTICE: dict[str, Asker] = {"where": where, "existence": existence}
"""Families that only training asks: what the others build on."""


def ask_clip(clip: Clip, family: str, rng: np.random.Generator) -> Question | None:
    """Draw one question; None when the clip allows no unambiguous one."""
    return (CLIP_FAMILIES | CLIP_PRACTICE)[family](clip, rng)


@dataclass(frozen=True)
class ClipItem:
    """A held-out clip, painted when it is looked at, and one question about it."""

    question: Question
    seed: tuple[int, ...]
    objects: int
    sign: bool

    @cached_property
    def clip(self) -> Clip:
        return _drawn(self.seed, self.objects, self.sign, painted=True)


def _drawn(seed: tuple[int, ...], objects: int, sign: bool, painted: bool) -> Clip:
    rng = np.random.default_rng(seed)
    return draw_clip(rng, objects=objects, sign=sign, held_out=True, painted=painted)


def held_out_clips(per_family: int, seed: int = 0) -> list[ClipItem]:
    """Draw ``per_family`` held-out questions of every family, each about a clip of its own.

    The number of things goes from 1 to 5 in turn, from 2 on where two are compared.
    """
    items: list[ClipItem] = []
    for number, family in enumerate(CLIP_FAMILIES):
        for attempt in count():
            found = len(items) - number * per_family
            if found == per_family:
                break
            own = (HELD_OUT_SEED, seed, number, attempt)
            objects = max(2 if family == "order" else 1, 1 + found % MOST_THINGS)
            rng = np.random.default_rng((*own, 1))
            with_sign = family == "sign" or (family != "arrivals" and bool(rng.random() < 0.5))
            question = ask_clip(_drawn(own, objects, with_sign, painted=False), family, rng)
            if question is not None:
                items.append(ClipItem(question, own, objects, with_sign))
    return items
