"""Asking any model about pictures, with or without a reducer.

``answer`` puts one question to each picture, as any user of the model would, ``generate_answers``
what is prepared already, clips too; ``ask_whole`` counts what prompts took, of a model of any
family. ``ask``, behind every sweep, tuning and benchmark of a LLaVA-1.5 or LLaVA-NeXT, lets the
language model read each picture once. Its KV cache is then handed on to every question about the
picture, and the stock ``generate`` goes on behind it: the answers are those of the whole prompts.

Shapes
    pictures   different pictures of a batch
    prompts    questions of a batch, each about one of the pictures
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import BatchEncoding, DynamicCache

from prumerge.encoder import Encoded, device_of
from prumerge.methods import Method
from prumerge.models.attachment import attachment_of
from prumerge.models.caches import cache_in
from prumerge.models.canvases import reduce_packed, sent_by
from prumerge.models.families.llava_next import image_sizes
from prumerge.models.inputs import shorten_inputs
from prumerge.models.loading import Llava, Processor, patches_of
from prumerge.models.preprocessing import prepare
from prumerge.models.slots import Packed, single
from prumerge.roofline import shown_by


def prompt_of(processor: Any, question: str) -> str:
    """Put a question behind one picture as the chat template says; no template is a ValueError."""
    if processor.chat_template is None:
        raise ValueError(
            "the processor has no chat template: take a checkpoint in transformers' form"
        )
    content = [{"type": "image"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    return processor.apply_chat_template(conversation, add_generation_prompt=True)


def answer(
    model: Llava,
    processor: Processor,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    max_new_tokens: int = 8,
    batch_size: int = 16,
    do_pad: bool = True,
) -> list[str]:
    """Answer one question about each picture, greedily; an attached reducer works as in any call.

    ``do_pad=False`` crops the pictures; see :func:`prumerge.models.preprocessing.prepare`. More or
    fewer questions, and pictures of extreme shape, are a ``ValueError``.
    """
    if len(images) != len(questions):
        raise ValueError(f"{len(images)} pictures and {len(questions)} questions: one for each")
    given = []
    for start in range(0, len(images), batch_size):
        chosen = slice(start, start + batch_size)
        inputs = processor(
            images=prepare(processor, images[chosen], do_pad),
            text=[prompt_of(processor, question) for question in questions[chosen]],
            padding=True,
            return_tensors="pt",
        ).to(device_of(model.get_input_embeddings()), model.dtype)
        given += generate_answers(model, processor, inputs, max_new_tokens)
    return given


@torch.no_grad()
def generate_answers(
    model: nn.Module, processor: Any, inputs: Mapping[str, Any], max_new_tokens: int = 8
) -> list[str]:
    """Answer prompts that are prepared already, on the model's device, greedily."""
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, empty where the model says nothing, and what it took.

    Attributes:
        input_tokens: Length of the prompt that the language model read, visual tokens included.
        output_tokens: Tokens generated, the end token included.
        seconds: Its share of its batch's time, where measured; equal answers may differ in it.
    """

    text: str
    visual_tokens: int
    input_tokens: int
    output_tokens: int
    seconds: float = dataclasses.field(default=0.0, compare=False)


@torch.no_grad()
def ask_whole(
    model: Llava,
    processor: Any,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    **generation: Any,
) -> list[Answer]:
    """Put one prompt to each picture, greedily: a model of any family, an attached reducer or none.

    Nothing is shared between prompts, so that a picture asked about twice is read twice.

    Args:
        images: As :func:`prumerge.models.preprocessing.prepare` hands them on.
        prompts: With the mark of one picture each.
        **generation: For ``generate``, such as ``max_new_tokens``.
    """
    inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
    inputs = inputs.to(device_of(model.get_input_embeddings()), model.dtype)
    output = model.generate(**inputs, do_sample=False, **generation)
    ids, mask, reducer = inputs["input_ids"], inputs["attention_mask"], attachment_of(model)
    if reducer is None:
        sizes = inputs.get("image_sizes", [])  # only such pictures have markers, newlines
        markers = [shown_by(model.config, tuple(map(int, size))).markers for size in sizes]
        slots = (ids == model.config.image_token_id).sum(dim=1).tolist()
        kept = [own - markers[row] if markers else own for row, own in enumerate(slots)]
    else:
        mask, kept = reducer.prompts.attention_mask, reducer.kept
    return _answers(model, processor, output[:, ids.shape[1] :], kept, mask)


@torch.no_grad()
def ask(
    model: Llava,
    processor: Processor,
    pictures: Encoded | Packed | Float[Tensor, "pictures 3 height width"] | Mapping[str, Tensor],
    prompts: Sequence[str],
    places: Sequence[int],
    method: Method | None = None,
    **generation: Any,
) -> list[Answer]:
    """Answer several questions about each picture, greedily: one answer per prompt.

    Answers do not depend on which questions share a batch, except for methods that pool over it
    (``pooling="batch"``) and for rounding in half precision.

    Args:
        model: A LLaVA without attachment (else ``ValueError``): ``method`` says what is sent.
        pictures: Encoded as the method's settings want it, those in tiles packed as well; for the
            stock model as the processor prepares them: pixel values, those of a LLaVA-NeXT with
            their ``image_sizes``.
        prompts: With the mark of one picture each, and alike up to it (else ``ValueError``).
        places: Which of the pictures each prompt is about.
        method: None for the stock model.
        **generation: For ``generate``, such as ``max_new_tokens``.
    """
    if attachment_of(model) is not None:
        raise ValueError("a reducer is attached to the model: detach it, method says what is sent")
    before, behind = _split(model, processor, prompts)
    read = _read(model, before, pictures, method)
    copies = generation.get("num_beams") or 1
    rows = torch.tensor(list(places), device=device_of(model.get_input_embeddings()))
    read.cache.batch_select_indices(rows.repeat_interleave(copies))
    real = behind["attention_mask"]
    after = read.end[rows] + (real.cumsum(1) - 1).clamp(min=0)
    inputs = {
        "input_ids": torch.cat([read.input_ids[rows], behind["input_ids"]], dim=1),
        "attention_mask": torch.cat([read.attention_mask[rows], real], dim=1),
        "position_ids": torch.cat([read.position_ids[rows], after], dim=1),
    }
    output = model.generate(**inputs, past_key_values=read.cache, do_sample=False, **generation)
    new, kept = output[:, inputs["input_ids"].shape[1] :], [read.kept[place] for place in places]
    return _answers(model, processor, new, kept, inputs["attention_mask"])


def _answers(
    model: Llava,
    processor: Any,
    new: Int[Tensor, "prompts new"],
    kept: Sequence[int],
    mask: Int[Tensor, "prompts length"],
) -> list[Answer]:
    """Put what was generated into words, beside what it took."""
    new = new.cpu()
    texts = processor.batch_decode(new, skip_special_tokens=True)
    counts = (kept, mask.sum(dim=1).tolist(), _lengths(model, new))
    return [Answer(text.strip(), *count) for text, *count in zip(texts, *counts, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Read:
    """What the language model has read: all prompts up to their pictures' last tokens."""

    cache: DynamicCache
    input_ids: Int[Tensor, "pictures short"]
    attention_mask: Int[Tensor, "pictures short"]
    position_ids: Int[Tensor, "pictures short"]
    end: Int[Tensor, "pictures 1"]  # position id of the next token
    kept: list[int]


def _read(
    model: Llava,
    before: Int[Tensor, "1 begin"],
    pictures: Encoded | Packed | Tensor | Mapping[str, Tensor],
    method: Method | None,
) -> _Read:
    """Let the language model read what comes before the pictures, and the pictures."""
    if method is None:
        given = dict(pictures) if isinstance(pictures, Mapping) else {"pixel_values": pictures}
        slots, kept = _shown(model, given)
        ids, mask = _prompts(model, before, slots)
        inputs = {"input_ids": ids, **given}
        position_ids = more = None
    else:
        if isinstance(pictures, Encoded):
            project = model.model.multi_modal_projector
            pictures = single(dataclasses.replace(pictures, project=project), project)
        reduction = reduce_packed(pictures, method)
        ids, mask = _prompts(model, before, [len(visual.source) for visual in pictures.visuals])
        sent = sent_by(reduction, pictures, model.config.image_token_id, "image")
        full = {"input_ids": ids, "attention_mask": mask}
        short = shorten_inputs(model, full, [sent], method.settings.positions)
        ids, mask, kept = short.prompts.input_ids, short.prompts.attention_mask, reduction.kept
        inputs = {"inputs_embeds": short.embeddings}
        position_ids, more = short.arguments.get("position_ids"), short.continuation
    if position_ids is None:
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    inputs |= {"attention_mask": mask, "position_ids": position_ids}
    outputs = model(**inputs, use_cache=True, logits_to_keep=1)
    end = position_ids[:, -1:] + 1
    return _Read(
        cache_in(outputs), ids, mask, position_ids, end if more is None else end + more, kept
    )


def _shown(model: Llava, given: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """Slots that the stock model shows of each picture, and visual tokens among them."""
    if "image_sizes" not in given:
        slots = [patches_of(model)] * len(given["pixel_values"])
        return slots, slots
    shown = [shown_by(model.config, tuple(size)) for size in image_sizes(given)]
    return [own.slots for own in shown], [own.tokens for own in shown]


def _prompts(
    model: Llava, before: Int[Tensor, "1 begin"], slots: Sequence[int]
) -> tuple[Int[Tensor, "pictures length"], Int[Tensor, "pictures length"]]:
    """Ids and mask of prompts up to their picture's last slot, padded in front."""
    begin, longest = before.shape[1], max(slots)
    ids = before.new_full((len(slots), begin + longest), model.config.image_token_id)
    mask = torch.ones_like(ids)
    for row, count in enumerate(slots):
        ids[row, longest - count : longest - count + begin] = before[0]
        if count < longest:
            ids[row, : longest - count] = model.config.get_text_config().pad_token_id
            mask[row, : longest - count] = 0
    return ids, mask


def _split(
    model: Llava, processor: Processor, prompts: Sequence[str]
) -> tuple[Int[Tensor, "1 begin"], BatchEncoding]:
    """Return the ids up to the picture, which all prompts share, and padded ids behind it."""
    ids = processor.tokenizer(list(prompts))["input_ids"]
    image = model.config.image_token_id
    if any(row.count(image) != 1 for row in ids):
        raise ValueError("each prompt must show one picture: put one mark of a picture into it")
    places = [row.index(image) for row in ids]
    begins = {tuple(row[:place]) for row, place in zip(ids, places, strict=True)}
    if len(begins) != 1:
        raise ValueError("prompts must begin alike up to their pictures: ask others separately")
    tails = [row[place + 1 :] for row, place in zip(ids, places, strict=True)]
    behind = processor.tokenizer.pad({"input_ids": tails}, return_tensors="pt", padding_side="left")
    device = device_of(model.get_input_embeddings())
    return torch.tensor([list(begins.pop())], device=device), behind.to(device)


def _lengths(model: nn.Module, new: Int[Tensor, "prompts new"]) -> list[int]:
    ends = model.generation_config.eos_token_id
    ended = torch.isin(new, torch.tensor([] if ends is None else ends).reshape(-1))
    # The end token counts; what follows it is padding.
    return (ended.cumsum(dim=1) - ended.int() == 0).sum(dim=1).tolist()
