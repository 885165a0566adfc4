"""Several questions about one picture: prepare and encode the picture once per batch.

Benchmarks ask up to eighteen questions about a picture. The encoder does not read the questions, so
its result is the same for all of them; only rows are handed on several times.
"""

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prumerge.attachment import Attachment


def picture_hash(picture: Image.Image) -> str:
    """Name a picture by its pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]


def distinct(pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], Int64[Tensor, " asked"]]:
    """Find the pictures that are asked about several times.

    Args:
        pictures: One per question.

    Returns:
        The different pictures in the order of their first question, and which of them each
        question is about.
    """
    first: dict[str, int] = {}
    places = [first.setdefault(picture_hash(picture), len(first)) for picture in pictures]
    return [pictures[places.index(place)] for place in range(len(first))], torch.tensor(places)


def picture_arguments(
    model: LlavaForConditionalGeneration,
    attachment: Attachment | None,
    pixel_values: Float[Tensor, "pictures ..."],
    places: Int64[Tensor, " asked"],
) -> dict[str, Any]:
    """Encode each picture once, and name the result as ``generate`` wants it.

    Args:
        model: The model.
        attachment: The reducer at work in it, or None.
        pixel_values: The different pictures, prepared.
        places: Which of them each question is about.

    Returns:
        Keyword arguments for ``generate``, one row per question.
    """
    places = places.to(pixel_values.device)
    if attachment is not None:
        layer = model.config.vision_feature_layer
        return {"pixel_values": attachment.encode(pixel_values, layer).at(places)}
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return {"pixel_values": pixel_values[places]}  # transformers before 5.18
    encoded = model.model.get_image_features(pixel_values, return_dict=True)
    encoded.pooler_output = [encoded.pooler_output[place] for place in places.tolist()]
    return {"mm_encoder_outputs": {"image": encoded}}
