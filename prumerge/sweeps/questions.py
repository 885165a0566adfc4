"""Two disjoint sets of questions about drawn scenes: one to choose settings on, one to report on.

Each picture is asked several questions of different families, because encoding it is what costs;
intervals must therefore draw whole pictures (``clusters=table["picture"]``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from prumerge.mini.families import Question
from prumerge.mini.questions import ask
from prumerge.mini.scenes import HELD_OUT_SEED, Scene, draw_scene, most_objects

SETS = {"choose": 2001, "report": 2002}
"""Seeds of the sets; their digits are scans that training never sees."""

PER_PICTURE = 4
# Four neighbours in this order are asked together. Shape and digit stand four apart: a scene of
# one object cannot answer both.
_ORDER = (
    "shape", "count", "read", "existence", "digit", "position", "verify", "choice", "colour",
)  # fmt: skip


@dataclass(frozen=True)
class QuestionSet:
    """Pictures with ``PER_PICTURE`` questions each.

    Attributes:
        pixels: The pictures.
        table: One row per question: ``picture``, ``objects`` in it (a sign included), ``family``,
            ``text``, ``answer``. Those of one picture stand together, in the order of the pictures.
    """

    pixels: UInt8[np.ndarray, "pictures height width 3"]
    table: pd.DataFrame


def check_questions(name: str, per_family: int) -> None:
    """Refuse a set that does not exist.

    Raises:
        ValueError: If there is no such set, or ``per_family`` is no multiple of ``PER_PICTURE``.
    """
    if name not in SETS:
        raise ValueError(f"questions={name!r}: the question sets are {' and '.join(SETS)}")
    if not isinstance(per_family, int) or per_family < 1 or per_family % PER_PICTURE:
        raise ValueError(
            f"per_family={per_family!r} must be a multiple of {PER_PICTURE}, the questions that "
            "share a picture"
        )


def draw_questions(name: str, per_family: int, grid: int = 24) -> QuestionSet:
    """Draw a set of questions, equally many of each of the nine families.

    Args:
        name: ``"choose"`` or ``"report"``. The two share no picture.
        per_family: Questions of each family, a multiple of 4.
        grid: Patches along an edge of the scenes; they hold 1 to 12 things (1 to 6 below 20).

    Returns:
        The set. A larger one begins with the smaller one.

    Raises:
        ValueError: See :func:`check_questions`.
    """
    check_questions(name, per_family)
    rng = np.random.default_rng((HELD_OUT_SEED, SETS[name]))
    turns = cycle(_ORDER)
    scenes, rows = [], []
    for picture in range(per_family * len(_ORDER) // PER_PICTURE):
        scene, asked = _ask_all(list(islice(turns, PER_PICTURE)), grid, rng)
        scenes.append(scene)
        rows += [(picture, scene.objects, q.family, q.text, q.answer) for q in asked]
    table = pd.DataFrame(rows, columns=["picture", "objects", "family", "text", "answer"])
    return QuestionSet(np.stack([scene.pixels for scene in scenes]), table)


def _ask_all(
    families: list[str], grid: int, rng: np.random.Generator
) -> tuple[Scene, list[Question]]:
    """Draw scenes until one has an unambiguous question of every family."""
    things = int(rng.integers(1, most_objects(grid) + 1))
    for scene in _scenes(rng, grid, things, sign="read" in families or None):
        asked = [ask(scene, family, rng) for family in families]
        if None not in asked:
            return scene, asked
    raise AssertionError("scenes are drawn without end")


def _scenes(rng: np.random.Generator, grid: int, things: int, sign: bool | None) -> Iterator[Scene]:
    while True:
        yield draw_scene(rng, grid, objects=things, held_out=True, sign=sign)
