"""From a conversation to token ids and labels: the model learns the answers and nothing else."""

from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import LlavaProcessor

from prumerge.finetuning.records import Record, RecordError
from prumerge.pictures import to_pixels

IGNORED_LABEL = -100


def to_text(processor: LlavaProcessor, record: Record, preface: str = "") -> tuple[str, list]:
    """Write a conversation as the model's chat template does, an end token after each answer.

    Args:
        processor: Its chat template puts the picture in front of the first question.
        record: The conversation.
        preface: Text in front of all, such as LLaVA-1.5's about a curious user.

    Returns:
        The text with one placeholder per picture, and the characters (first, last + 1) of each
        answer with its end token.

    Source: LLaVA, conversation ``v1``: ``USER: ... ASSISTANT: ...</s>USER: ...``.
    """
    text, answers = preface, []
    for number, (question, answer) in enumerate(record.turns):
        content: list[dict[str, str]] = [{"type": "text", "text": question}]
        if number == 0 and record.image is not None:
            content.insert(0, {"type": "image"})
        turn = [{"role": "user", "content": content}]
        text += processor.apply_chat_template(turn, add_generation_prompt=True).rstrip() + " "
        start = len(text)
        text += answer + processor.tokenizer.eos_token
        answers.append((start, len(text)))
    return text, answers


def to_sample(
    processor: LlavaProcessor,
    record: Record,
    picture: Image.Image | None,
    patches: int,
    max_length: int | None = None,
    preface: str = "",
    do_pad: bool = True,
) -> dict[str, Any]:
    """Make one training sample.

    Args:
        processor: Of the model to tune.
        record: The conversation.
        picture: Its picture, red green blue; None for text alone.
        patches: Visual tokens the encoder makes of a picture; all count for ``max_length``, since
            the reduction comes later.
        max_length: Most tokens of a sample; None sets no limit.
        preface: See :func:`to_text`.
        do_pad: False crops the picture; see :func:`prumerge.preprocessing.prepare`.

    Returns:
        ``input_ids`` and ``labels`` as lists; ``pixel_values`` [3, height, width] where there is
        a picture.

    Raises:
        RecordError: If the sample is longer than ``max_length``. Cutting it, as LLaVA does, would
            cut off answers.
    """
    text, answers = to_text(processor, record, preface)
    text, answers = _expand(text, answers, processor.image_token, patches)
    tokens = processor.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids = tokens["input_ids"]
    if max_length is not None and len(ids) > max_length:
        raise RecordError(
            f"{record.where}: {len(ids)} tokens, more than max_length={max_length}: shorten the "
            "conversation or raise the limit"
        )
    sample = {"input_ids": ids, "labels": _labels(ids, tokens["offset_mapping"], answers)}
    if picture is not None:
        sample["pixel_values"] = to_pixels(processor, [picture], do_pad)[0]
    return sample


def _expand(text: str, answers: list, image: str, patches: int) -> tuple[str, list]:
    at = text.find(image)
    if at < 0:
        return text, answers
    grown = len(image) * (patches - 1)
    text = text[:at] + image * patches + text[at + len(image) :]
    return text, [(start + grown, end + grown) for start, end in answers]


def _labels(ids: list[int], offsets: list[tuple[int, int]], answers: list) -> list[int]:
    """Label the tokens whose last character lies in an answer."""
    labels, spans = [IGNORED_LABEL] * len(ids), iter(answers)
    start, end = next(spans)
    for place, (first, last) in enumerate(offsets):
        while last > end and (following := next(spans, None)):
            start, end = following
        if first < last and start < last <= end:
            labels[place] = ids[place]
    return labels


def collate(
    samples: list[dict[str, Any]], pad_token_id: int
) -> dict[str, Int[Tensor, "..."] | Any]:
    """Pad samples on the right to one batch.

    Args:
        samples: From :func:`to_sample`; with and without pictures.
        pad_token_id: Fills the gaps, unlabelled and unattended.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels`` [samples, longest] and, where one has a
        picture, ``pixel_values`` [pictures, 3, height, width] in the order of the samples.
    """
    longest = max(len(sample["input_ids"]) for sample in samples)

    def padded(name: str, fill: int) -> Tensor:
        rows = [sample[name] + [fill] * (longest - len(sample[name])) for sample in samples]
        return torch.tensor(rows)

    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    batch = {
        "input_ids": padded("input_ids", pad_token_id),
        "labels": padded("labels", IGNORED_LABEL),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
    }
    pictures = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    if pictures:
        batch["pixel_values"] = torch.stack(pictures)
    return batch
