"""Questions about pictures, answered in batches whose pictures send unequal numbers of tokens."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from prumerge.asking import Answer, ask, prompt_of
from prumerge.evaluation.options import Options
from prumerge.models import load
from prumerge.models.adapters import adapter_fingerprint, apply_adapter
from prumerge.models.loading import fingerprint
from prumerge.models.random_weights import RANDOM, build
from prumerge.placement import device_of
from prumerge.preprocessing import prepare
from prumerge.scores import encode

VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
"""What LLaVA-1.5 was trained and evaluated with in front of each conversation."""


class Answerer:
    """A loaded LLaVA and the method, ready for batches of questions.

    Args:
        options: Which model, how reduced, how asked.
        device: Where it runs.

    Attributes:
        model: The model.
        processor: Its processor.
        method: How pictures are reduced; None for the stock model.
        identity: What decides an answer besides the question: weights, method, settings, precision,
            picture handling. Equal identities may share a journal.
    """

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        make = build if options.pretrained in RANDOM else load
        self.model, self.processor = make(options.pretrained, device, options.dtype)
        adapter = options.adapter
        if adapter:
            self.model = apply_adapter(self.model, adapter, options.do_pad)
        self.method = reducer = options.reducer()
        self.identity: dict[str, Any] = {
            "pretrained": options.pretrained,
            "weights": fingerprint(options.pretrained, self.model),
            "method": options.method,
            "settings": vars(reducer.settings) if reducer else None,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "do_pad": options.do_pad,
            "conversation": options.conversation,
            "adapter": f"{adapter} ({adapter_fingerprint(adapter)})" if adapter else None,
        }
        if options.module:  # another version of the method gives other answers
            self.identity["module"] = Path(options.module).read_text(encoding="utf-8")

    def prompt(self, question: str) -> str:
        """Put a question into the model's conversation, one picture in front.

        Raises:
            ValueError: If the prompt does not show exactly one picture.
        """
        prompt = prompt_of(self.processor, question)
        if self.options.conversation == "vicuna_v1":
            prompt = VICUNA_V1 + prompt
        shown = prompt.count(self.processor.image_token)
        if shown != 1:
            raise ValueError(
                f"the prompt has {shown} {self.processor.image_token} instead of one: {prompt!r}"
            )
        return prompt

    def answer(
        self,
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        generation: dict[str, Any],
        until: Sequence[str] = (),
    ) -> list[Answer]:
        """Answer one prompt about each picture, greedily.

        Args:
            pictures: Pictures, red green blue.
            prompts: As made by :meth:`prompt`.
            generation: For ``generate``, such as ``max_new_tokens``.
            until: Texts before which an answer ends.

        Returns:
            As many answers. They do not depend on which questions share a batch, except for
            methods that pool over it (``pooling="batch"``) and for rounding in half precision.
        """
        shown, places = distinct(pictures)
        shown = prepare(self.processor, shown, self.options.do_pad)
        pixels = self.processor.image_processor(shown, return_tensors="pt")["pixel_values"]
        seen = pixels.to(device_of(self.model.get_input_embeddings()), self.model.dtype)
        if self.method is not None:
            layer = self.model.config.vision_feature_layer
            tower = self.model.model.vision_tower
            with torch.inference_mode():
                seen = encode(tower, seen, self.method.settings, layer)
        how = (seen, prompts, places, self.method)
        answers = ask(self.model, self.processor, *how, **generation)
        return [dataclasses.replace(a, text=_ended(a.text, until)) for a in answers]


def distinct(pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], list[int]]:
    """Find the pictures that are asked about several times, up to eighteen in MME.

    Args:
        pictures: One per question.

    Returns:
        The different pictures in the order of their first question, and which of them each
        question is about.
    """
    first: dict[str, int] = {}
    places = [first.setdefault(picture_hash(picture), len(first)) for picture in pictures]
    return [pictures[places.index(place)] for place in range(len(first))], places


def picture_hash(picture: Image.Image) -> str:
    """Name a picture by its pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]


def _ended(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text.strip()
