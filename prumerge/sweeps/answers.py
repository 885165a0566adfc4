"""Right or wrong: the questions of a sweep, answered by one method."""

import dataclasses

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.asking import ask, prompt_of
from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.questions import is_right
from prumerge.relevance import TextReader
from prumerge.sweeps.questions import PER_PICTURE

MAX_NEW_TOKENS = 8
_LONGEST_ROWS = 40_000  # tokens in a batch's cache: 160 MB for the mini-LLaVA


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method brought on a set of questions.

    Attributes:
        right: Whether each question was answered right; see
            :func:`prumerge.mini.questions.is_right`.
        kept: Visual tokens sent for each picture, extra tokens included.
    """

    right: Bool[np.ndarray, " questions"]
    kept: Int[np.ndarray, " pictures"]


def answer_set(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: pd.DataFrame,
    encoded: Encoded,
    method: Method,
    reader: TextReader | None = None,
) -> Outcome:
    """Answer a set of questions with reduced pictures, greedily.

    Args:
        model: A LLaVA without attachment.
        processor: Its prompts and words.
        asked: Questions, those of one picture together, in the order of the pictures.
        encoded: All pictures of the set, encoded as the method's settings want it.
        method: How they are reduced.
        reader: Reads the questions for a method that wants to know them.

    Returns:
        Right or wrong per question, and tokens per picture, for its first question where a method
        reads it.

    Raises:
        ValueError: If the method hands back what cannot be a reduction; the message names it.
    """
    patches = encoded.features.shape[1]
    most = min(method.settings.tokens_of(patches) or patches, patches)
    if method.sends == "all":
        most = patches
    step = max(1, _LONGEST_ROWS // (PER_PICTURE * (most + 64)))
    prompts = [prompt_of(processor, text) for text in asked["text"]]
    truths, right, kept = list(asked["answer"]), [], []
    for start in range(0, len(encoded.features), step):
        part = encoded.at(slice(start, start + step))
        rows = slice(start * PER_PICTURE, (start + step) * PER_PICTURE)
        places = [row // PER_PICTURE for row in range(len(part.features) * PER_PICTURE)]
        if reader is not None:  # each question is shown its own reduction of the picture
            part = reader.ask(part.at(torch.tensor(places)), list(asked["text"][rows]))
            places = list(range(len(places)))
        lengths = {"max_new_tokens": MAX_NEW_TOKENS}
        answers = ask(model, processor, part, prompts[rows], places, method, **lengths)
        pairs = zip(answers, truths[rows], strict=True)
        right += [is_right(answer.text, truth) for answer, truth in pairs]
        kept += [answer.visual_tokens for answer in answers[::PER_PICTURE]]
    return Outcome(np.array(right), np.array(kept))
