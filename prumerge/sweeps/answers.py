"""Right or wrong, for many questions about few pictures: the quick way through a LLaVA.

``prumerge.asking.answer`` reads a picture's visual tokens again for every question about it. Here
the language model reads them once per picture; its cache is then repeated for the picture's
questions, which are read and answered behind it. The answers are the same.

Shapes
    pictures   pictures of a batch
    rows       questions of a batch, those of one picture next to each other
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import BatchEncoding, DynamicCache, LlavaForConditionalGeneration, LlavaProcessor

from prumerge.asking import prompt_of
from prumerge.encoder import Encoded
from prumerge.inputs import shorten_inputs
from prumerge.methods import Method
from prumerge.mini.benchmark import is_right
from prumerge.mini.benchmark import plain as plain
from prumerge.sweeps.questions import PER_PICTURE

MAX_NEW_TOKENS = 8
_LONGEST_ROWS = 40_000  # tokens in a batch's cache: 160 MB for the mini-LLaVA


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method brought on a set of questions.

    Attributes:
        right: Whether each question was answered right; see
            :func:`prumerge.mini.benchmark.is_right`.
        kept: Visual tokens sent for each picture, extra tokens included.
    """

    right: Bool[np.ndarray, " questions"]
    kept: Int[np.ndarray, " pictures"]


@torch.inference_mode()
def answer_set(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: pd.DataFrame,
    encoded: Encoded,
    method: Method,
) -> Outcome:
    """Answer a set of questions with reduced pictures, greedily.

    Args:
        model: A LLaVA without attachment.
        processor: Its prompts and words.
        asked: Questions, those of one picture together, in the order of the pictures.
        encoded: All pictures of the set, encoded as the method's settings want it.
        method: How they are reduced.

    Returns:
        Right or wrong per question, and tokens per picture.

    Raises:
        ValueError: If the method hands back what cannot be a reduction; the message names it.
    """
    encoded = dataclasses.replace(encoded, project=model.model.multi_modal_projector)
    patches = encoded.features.shape[1]
    most = min(method.settings.tokens_of(patches) or patches, patches)
    if method.sends == "all":
        most = patches
    step = max(1, _LONGEST_ROWS // (PER_PICTURE * (most + 64)))
    right, kept = [], []
    for start in range(0, len(encoded.features), step):
        reduction = method(encoded.at(slice(start, start + step)))
        part = asked[start * PER_PICTURE : (start + step) * PER_PICTURE]
        given = _answer(model, processor, reduction, list(part["text"]), patches, method)
        pairs = zip(given, part["answer"], strict=True)
        right += [is_right(text, truth) for text, truth in pairs]
        kept += reduction.kept
    return Outcome(np.array(right), np.array(kept))


def _answer(model, processor, reduction, texts: Sequence[str], patches: int, method: Method):
    """Answer questions about the pictures of one reduction, PER_PICTURE each."""
    before, behind = _split(model, processor, texts, patches)
    pictures = len(reduction.tokens)
    arguments = {"input_ids": before.expand(pictures, -1)}
    short = shorten_inputs(model, arguments, reduction, patches, method.settings.positions)
    mask, cache = short.prompts.attention_mask, DynamicCache(config=model.config.text_config)
    places = short.arguments.get("position_ids")
    if places is None:
        places = (mask.cumsum(1) - 1).clamp(min=0)
    language = model.model.language_model
    language(
        inputs_embeds=short.embeddings, attention_mask=mask, position_ids=places,
        past_key_values=cache,
    )  # fmt: skip
    end = places[:, -1:] + 1 + (0 if short.continuation is None else short.continuation)
    cache.batch_repeat_interleave(PER_PICTURE)
    mask, end = (part.repeat_interleave(PER_PICTURE, dim=0) for part in (mask, end))
    new = _continue(model, cache, mask, end, behind)
    return processor.batch_decode(new, skip_special_tokens=True)


def _split(model, processor, texts: Sequence[str], patches: int) -> tuple[Tensor, BatchEncoding]:
    """Return the ids up to the picture, which all prompts share, and padded ids behind it."""
    prompts = [prompt_of(processor, text) for text in texts]
    ids = processor.tokenizer(prompts)["input_ids"]
    image = model.config.image_token_id
    places = [row.index(image) for row in ids]
    heads = {tuple(row[:place]) for row, place in zip(ids, places, strict=True)}
    if len(heads) != 1 or any(row.count(image) != 1 for row in ids):
        raise ValueError("prompts must begin alike and show one picture each")
    before = torch.tensor([[*heads.pop(), *[image] * patches]], device=model.device)
    tails = [row[place + 1 :] for row, place in zip(ids, places, strict=True)]
    behind = processor.tokenizer.pad({"input_ids": tails}, return_tensors="pt").to(model.device)
    return before, behind


def _continue(
    model: LlavaForConditionalGeneration,
    cache: DynamicCache,
    mask: Int[Tensor, "rows before"],
    end: Int[Tensor, "rows 1"],
    behind: BatchEncoding,
) -> Int[Tensor, "rows new"]:
    """Read the words behind the pictures and append the most likely tokens one by one.

    Args:
        model: Reads and answers.
        cache: What it has read of the pictures.
        mask: 1 where a token of the cache is real.
        end: Position id of the first word.
        behind: Ids and mask of the words, padded on the left.

    Returns:
        New tokens; a row that ended is filled with its end token.
    """
    ids, real = behind["input_ids"], behind["attention_mask"]
    places = end + (real.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(model.generation_config.eos_token_id, device=ids.device).reshape(-1)
    done = torch.zeros(len(ids), 1, dtype=torch.bool, device=ids.device)
    new = []
    for _ in range(MAX_NEW_TOKENS):
        mask = torch.cat([mask, real], dim=1)
        hidden = model.model.language_model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache
        ).last_hidden_state
        token = model.lm_head(hidden[:, -1]).argmax(dim=-1, keepdim=True)
        token = torch.where(done, ends[:1], token)
        new.append(token)
        done = done | torch.isin(token, ends)
        if bool(done.all()):
            break
        ids, real, places = token, torch.ones_like(token), places[:, -1:] + 1
    return torch.cat(new, dim=1)
