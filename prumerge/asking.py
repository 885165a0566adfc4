"""Asking any LLaVA about pictures, with or without a reducer attached."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.preprocessing import prepare


def prompt_of(processor: LlavaProcessor, question: str) -> str:
    """Put a question about one picture into the words that a model was trained on.

    Args:
        processor: Its chat template is used.
        question: One question.

    Returns:
        The prompt, picture first.

    Raises:
        ValueError: If the processor has no chat template.
    """
    if processor.chat_template is None:
        raise ValueError(
            "the processor has no chat template: take a checkpoint in transformers' form"
        )
    content = [{"type": "image"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    return processor.apply_chat_template(conversation, add_generation_prompt=True)


def answer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    max_new_tokens: int = 8,
    batch_size: int = 16,
    do_pad: bool = True,
) -> list[str]:
    """Answer one question about each picture, greedily.

    Args:
        model: A LLaVA; an attached reducer works as in any other call.
        processor: Prepares pictures and prompts.
        images: Pictures.
        questions: As many questions.
        max_new_tokens: Longest answer.
        batch_size: Pictures at a time.
        do_pad: False crops the pictures; see :func:`prumerge.preprocessing.prepare`.

    Returns:
        The answers without the prompts.

    Raises:
        ValueError: If there are not as many questions as pictures, or a picture has an extreme
            shape.
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
        ).to(model.device, model.dtype)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        given += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return given
