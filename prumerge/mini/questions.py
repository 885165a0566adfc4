"""Questions about mini scenes by family, those held out for tests, what is right, and captions."""

import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from prumerge.mini import families
from prumerge.mini.families import Question
from prumerge.mini.scenes import HELD_OUT_SEED, Scene, draw_scene, most_objects
from prumerge.mini.styles import PLAIN, Style, style_of
from prumerge.models import load
from prumerge.models.asking import answer
from prumerge.models.loading import Llava, Processor, grid_of
from prumerge.paths import written_whole

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
    """Draw one question; None when the scene allows no unambiguous one (no sign to read, say)."""
    askers = FAMILIES | PRACTICE
    if family not in askers:
        raise ValueError(f"no question family {family!r}; there are {', '.join(askers)}")
    return askers[family](scene, rng)


def ask_many(
    scene: Any,
    count: int,
    rng: np.random.Generator,
    families: Sequence[str] = tuple(FAMILIES),
    ask: Callable[..., Question | None] = ask,
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
    """Name every thing in random order, half with their place: ``circle top-left , sign 4 1``."""
    names = []
    for thing in scene.things:
        where = families.place(scene, thing) if rng.random() < 0.5 else None
        names.append(f"{thing.name} {where}" if where else thing.name)
    if scene.sign is not None:
        names.append("sign " + " ".join(scene.sign.number))
    return " , ".join(rng.permutation(names)) if names else "nothing"


@dataclass(frozen=True)
class Item:
    """A held-out picture and one question about it."""

    scene: Scene
    question: Question

    @property
    def picture(self) -> Image.Image:
        return Image.fromarray(self.scene.pixels)


def held_out(per_family: int, grid: int = 24, seed: int = 0, style: Style = PLAIN) -> list[Item]:
    """Draw ``per_family`` held-out questions of every family, each about a picture of its own.

    The number of things is spread evenly from 1 to 12 (1 to 6 on small grids). A style of several
    frames shows them in turn.
    """
    items, grids = [], style.grids(grid)
    for number, family in enumerate(FAMILIES):
        rng = np.random.default_rng((HELD_OUT_SEED, seed, number))
        while len(items) < (number + 1) * per_family:
            rounds, things = divmod(len(items), most_objects(grid))
            objects, frame = 1 + things, grids[(things + rounds) % len(grids)]
            scene = draw_scene(rng, frame, objects=objects, held_out=True, style=style)
            question = ask(scene, family, rng)
            if question is not None:
                items.append(Item(scene, question))
    return items


def answers(model: Llava, processor: Processor, items: list[Item]) -> list[str]:
    """Ask a model each item's question; see :func:`prumerge.models.asking.answer`."""
    pictures, questions = [i.picture for i in items], [i.question.text for i in items]
    return answer(model, processor, pictures, questions)


def is_right(said: str, truth: str) -> bool:
    """Say whether an answer is the true one, case and what stands around the words aside.

    Example:
        >>> is_right(" Yes. ", "yes"), is_right("yes it is", "yes")
        (True, False)
    """
    return plain(said) == plain(truth)


def plain(answer: str) -> str:
    """Return an answer in lower case, without space or punctuation around it.

    Example:
        >>> plain(" Yes. ")
        'yes'
    """
    return answer.strip(string.whitespace + string.punctuation).lower()


def score(items: Sequence[Any], given: list[str]) -> pd.DataFrame:
    """Score answers against the truth, one row per family and one for their mean.

    Items are whatever has a ``question``, such as :class:`Item`.

    ``correct`` is the share of :func:`is_right`, ``best_constant`` the share that the most
    frequent answer of the family would get.
    """
    rows = []
    for family in dict.fromkeys(item.question.family for item in items):
        pairs = [
            (item.question.answer, answer)
            for item, answer in zip(items, given, strict=True)
            if item.question.family == family
        ]
        most = Counter(truth for truth, _ in pairs).most_common(1)[0][1]
        correct = sum(is_right(answer, truth) for truth, answer in pairs)
        rows.append((family, len(pairs), correct / len(pairs), most / len(pairs)))
    table = pd.DataFrame(rows, columns=["family", "questions", "correct", "best_constant"])
    mean = {"family": "mean", "questions": table["questions"].sum()}
    mean |= table[["correct", "best_constant"]].mean().to_dict()
    return pd.concat([table, pd.DataFrame([mean])], ignore_index=True)


def write_scores(folder: Path, per_family: int = 100, device: str = "cpu") -> pd.DataFrame:
    """Score an exported model with all visual tokens and leave the table as ``scores.csv``."""
    model, processor = load(folder, device)
    items = held_out(per_family, grid_of(model), style=style_of(model))
    table = score(items, answers(model, processor, items))
    with written_whole(folder / "scores.csv") as partial:
        table.round(4).to_csv(partial, index=False)
    return table
