"""The questions of a sweep about drawn scenes, and whether a method answers them right.

Disjoint sets: one to choose settings on, one to report on, one of pictures in tiles. Each picture
is asked several questions of different families, because encoding it is what costs; intervals must
therefore draw whole pictures (``clusters=table["picture"]``).
"""

from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Real, UInt8
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.encoder import Encoded
from prumerge.experiments.sweeps.tiles import Tiles
from prumerge.methods import Method
from prumerge.mini import questions
from prumerge.mini.families import Question
from prumerge.mini.questions import is_right
from prumerge.mini.relevance import TextReader
from prumerge.mini.scenes import HELD_OUT_SEED, Scene, draw_scene, most_objects
from prumerge.mini.styles import LARGE, PLAIN, Style
from prumerge.models.asking import answer, ask, prompt_of
from prumerge.models.inside import inside
from prumerge.models.loading import Llava, Processor
from prumerge.models.stages import Dropping

SETS = {"choose": 2001, "report": 2002, "tiles": 2003}
"""Seeds of the sets; their digits are scans that training never sees."""

STYLED = {"tiles": LARGE}
"""Sets whose scenes are of one style, whichever model is asked."""

PER_PICTURE = 4
MAX_NEW_TOKENS = 8
# Four neighbours in this order are asked together. Shape and digit stand four apart: a scene of
# one object cannot answer both.
_ORDER = (
    "shape", "count", "read", "existence", "digit", "position", "verify", "choice", "colour",
)  # fmt: skip
_LONGEST_ROWS = 40_000  # tokens in a batch's cache: 160 MB for the mini-LLaVA


@dataclass(frozen=True)
class QuestionSet:
    """Pictures, and ``PER_PICTURE`` rows of ``table`` for each, in the order of the pictures.

    Pictures of one size are one array.
    """

    pixels: UInt8[np.ndarray, "pictures height width 3"] | list[UInt8[np.ndarray, "_ _ 3"]]
    table: pd.DataFrame


@dataclass(frozen=True)
class Outcome:
    """Which questions were answered right, and the tokens sent per picture, extra ones included.

    Inside the language model tokens are the mean over its layers.
    """

    right: Bool[np.ndarray, " questions"]
    kept: Real[np.ndarray, " pictures"]


def check_questions(name: str, per_family: int) -> None:
    """Refuse a set that does not exist, by ValueError."""
    if name not in SETS:
        raise ValueError(f"questions={name!r}: the question sets are {', '.join(SETS)}")
    if not isinstance(per_family, int) or per_family < 1 or per_family % PER_PICTURE:
        raise ValueError(
            f"per_family={per_family!r} must be a multiple of {PER_PICTURE}, the questions that "
            "share a picture"
        )


def draw_questions(name: str, per_family: int, grid: int = 24, style: Style = PLAIN) -> QuestionSet:
    """Draw one of ``SETS``, equally many questions of each of the nine families.

    They share no picture, and a larger set begins with the smaller one. ``per_family`` is a
    multiple of 4, else ValueError; ``grid`` counts patches along an edge of the scenes, which hold
    1 to 12 things (1 to 6 below 20). A style of several frames shows them in turn; ``tiles`` has
    one of its own.
    """
    check_questions(name, per_family)
    style = STYLED.get(name, style)
    grids = style.grids(grid)
    rng = np.random.default_rng((HELD_OUT_SEED, SETS[name]))
    turns = cycle(_ORDER)
    scenes, rows = [], []
    for picture in range(per_family * len(_ORDER) // PER_PICTURE):
        shown = grids[picture % len(grids)]
        scene, asked = _ask_all(list(islice(turns, PER_PICTURE)), shown, style, rng)
        scenes.append(scene)
        rows += [(picture, scene.objects, q.family, q.text, q.answer) for q in asked]
    table = pd.DataFrame(rows, columns=["picture", "objects", "family", "text", "answer"])
    return QuestionSet(in_one_array([scene.pixels for scene in scenes]), table)


def in_one_array(
    pixels: list[UInt8[np.ndarray, "_ _ 3"]],
) -> UInt8[np.ndarray, "pictures height width 3"] | list[UInt8[np.ndarray, "_ _ 3"]]:
    """Put pictures of one size into one array."""
    return np.stack(pixels) if len({own.shape for own in pixels}) == 1 else pixels


def _ask_all(
    families: list[str], grid: int | tuple[int, int], style: Style, rng: np.random.Generator
) -> tuple[Scene, list[Question]]:
    """Draw scenes until one has an unambiguous question of every family."""
    things = int(rng.integers(1, most_objects(grid) + 1))
    sign = "read" in families or None
    while True:
        scene = draw_scene(rng, grid, objects=things, held_out=True, sign=sign, style=style)
        asked = [questions.ask(scene, family, rng) for family in families]
        if None not in asked:
            return scene, asked


def answer_set(
    model: Llava,
    processor: Processor,
    asked: pd.DataFrame,
    encoded: Encoded | Tiles,
    method: Method,
    reader: TextReader | None = None,
) -> Outcome:
    """Answer a set of questions with reduced pictures, greedily.

    ``model`` has no attachment. ``asked`` has the questions of one picture together, in the order
    of the pictures; ``encoded`` has all pictures, as the method's settings want them. ``reader`` is
    for a method that reads the question: a picture's tokens are then those for its first one.
    ValueError names what cannot be a reduction.
    """
    patches = encoded.patches if isinstance(encoded, Tiles) else encoded.features.shape[1]
    most = min(method.settings.tokens_of(patches) or patches, patches)
    if method.sends == "all":
        most = patches
    step = max(1, _LONGEST_ROWS // (PER_PICTURE * (most + 64)))
    prompts = [prompt_of(processor, text) for text in asked["text"]]
    truths, right, kept = list(asked["answer"]), [], []
    for start in range(0, len(prompts) // PER_PICTURE, step):
        part = encoded.at(slice(start, start + step))
        rows = slice(start * PER_PICTURE, (start + step) * PER_PICTURE)
        places = [row // PER_PICTURE for row in range(len(prompts[rows]))]
        if reader is not None:  # each question is shown its own reduction of the picture
            part = reader.ask(part.at(torch.tensor(places)), list(asked["text"][rows]))
            places = list(range(len(places)))
        lengths = {"max_new_tokens": MAX_NEW_TOKENS}
        answers = ask(model, processor, part, prompts[rows], places, method, **lengths)
        pairs = zip(answers, truths[rows], strict=True)
        right += [is_right(answer.text, truth) for answer, truth in pairs]
        kept += [answer.visual_tokens for answer in answers[::PER_PICTURE]]
    return Outcome(np.array(right), np.array(kept))


def answer_set_inside(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: QuestionSet,
    method: str | Dropping,
    budget: int | float | None,
) -> Outcome:
    """Answer a set of questions while tokens are dropped inside the language model, greedily.

    What is dropped depends on the question, so each prompt is read anew with its picture. For
    ``method`` and ``budget`` see :func:`prumerge.models.inside.inside`.
    """
    table = asked.table
    shown = [Image.fromarray(asked.pixels[picture]) for picture in table["picture"]]
    with inside(model, method, budget) as at_work:
        said = answer(model, processor, shown, list(table["text"]), MAX_NEW_TOKENS)
    right = [is_right(text, truth) for text, truth in zip(said, table["answer"], strict=True)]
    return Outcome(np.array(right), np.full(len(asked.pixels), at_work.mean_tokens))
