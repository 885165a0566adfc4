"""Questions about a mini scene by family, and the caption that names all of it."""

from collections.abc import Callable, Sequence

import numpy as np

from prumerge.mini import families
from prumerge.mini.families import Question
from prumerge.mini.scenes import Scene

Asker = Callable[[Scene, np.random.Generator], Question | None]

FAMILIES: dict[str, Asker] = {
    "existence": families.existence,
    "colour": families.colour,
    "shape": families.shape,
    "digit": families.digit,
    "count": families.count,
    "position": families.position,
    "read": families.read,
    "verify": families.verify,
    "choice": families.choice,
}

PRACTICE: dict[str, Asker] = {"letter": families.letter}
"""Families that only training asks: to find an option's letter, whatever the picture shows."""


def ask(scene: Scene, family: str, rng: np.random.Generator) -> Question | None:
    """Draw one question of ``family`` about ``scene``.

    Returns:
        None when the scene allows no unambiguous question of that family (no sign to read, say).
    """
    askers = FAMILIES | PRACTICE
    if family not in askers:
        raise ValueError(f"no question family {family!r}; there are {', '.join(askers)}")
    return askers[family](scene, rng)


def ask_many(
    scene: Scene,
    count: int,
    rng: np.random.Generator,
    families: Sequence[str] = tuple(FAMILIES),
) -> list[Question]:
    """Draw up to ``count`` different questions, ``families`` in turn, from a random one on."""
    found: dict[str, Question] = {}
    first = int(rng.integers(len(families)))
    for attempt in range(4 * count):
        if len(found) == count:
            break
        question = ask(scene, families[(first + attempt) % len(families)], rng)
        if question is not None:
            found.setdefault(question.text, question)
    return list(found.values())


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Name every thing in random order, half of them with their place, and read the sign.

    This is what CLIP's text tower is given: ``red circle top-left , blue 7 , sign 4 1``.
    """
    names = []
    for thing in scene.things:
        where = families.place(scene, thing) if rng.random() < 0.5 else None
        names.append(f"{thing.name} {where}" if where else thing.name)
    if scene.sign is not None:
        names.append("sign " + " ".join(scene.sign.number))
    return " , ".join(rng.permutation(names)) if names else "nothing"
