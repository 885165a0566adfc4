"""How well a LLaVA answers held-out mini questions, family by family."""

import os
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.asking import answer
from prumerge.mini.families import Question
from prumerge.mini.glyphs import PATCH_PIXELS
from prumerge.mini.questions import FAMILIES, ask
from prumerge.mini.scenes import HELD_OUT_SEED, Scene, draw_scene
from prumerge.models import load


@dataclass(frozen=True)
class Item:
    """A held-out picture and one question about it."""

    scene: Scene
    question: Question

    @property
    def picture(self) -> Image.Image:
        """The picture for the processor."""
        return Image.fromarray(self.scene.pixels)


def held_out(per_family: int, grid: int = 24, seed: int = 0) -> list[Item]:
    """Draw ``per_family`` held-out questions of every family, each about a picture of its own.

    The number of things is spread evenly from 1 to 12 (1 to 6 on small grids).
    """
    most = 12 if grid >= 20 else 6
    items = []
    for number, family in enumerate(FAMILIES):
        rng = np.random.default_rng((HELD_OUT_SEED, seed, number))
        while len(items) < (number + 1) * per_family:
            objects = 1 + len(items) % most
            scene = draw_scene(rng, grid, objects=objects, held_out=True)
            question = ask(scene, family, rng)
            if question is not None:
                items.append(Item(scene, question))
    return items


def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, items: list[Item]
) -> list[str]:
    """Ask a model each item's question about its picture; see :func:`prumerge.asking.answer`."""
    pictures, questions = [i.picture for i in items], [i.question.text for i in items]
    return answer(model, processor, pictures, questions)


def is_right(said: str, truth: str) -> bool:
    """Say whether an answer is the true one, case and what stands around the words aside.

    Args:
        said: What a model said.
        truth: What the drawing knows.

    Returns:
        Whether both read alike.

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


def score(items: list[Item], given: list[str]) -> pd.DataFrame:
    """Score answers against the truth.

    Returns:
        One row per family and one for their mean: ``correct`` is the share of :func:`is_right`,
        ``best_constant`` the share that the most frequent answer of the family would get.
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


def write_scores(folder: Path, per_family: int = 100) -> pd.DataFrame:
    """Score the checkpoint in ``folder`` with all visual tokens; keep the table beside it.

    Args:
        folder: An exported mini-LLaVA; ``scores.csv`` is written there, whole or not at all.
        per_family: Held-out questions of each family.

    Returns:
        What :func:`score` returns.
    """
    model, processor = load(folder)
    items = held_out(per_family, model.config.vision_config.image_size // PATCH_PIXELS)
    table = score(items, answers(model, processor, items))
    table.round(4).to_csv(folder / ".scores.csv", index=False)
    os.replace(folder / ".scores.csv", folder / "scores.csv")
    return table
