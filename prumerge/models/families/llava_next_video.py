"""LLaVA-NeXT-Video: pictures as LLaVA-NeXT, and videos whose frames are pooled.

A frame of 24 x 24 patches is 12 x 12 slots; reduction stands behind the pooling and before the
projector, where one row is one slot. Keys are averaged and scores summed over what is pooled.

Source: ``LlavaNextVideoForConditionalGeneration`` of transformers.
"""

import dataclasses
from typing import Any

from torch import nn

from prumerge.models.families import llava_next
from prumerge.models.families.features import (
    feature_layers,
    frames_of,
    grouped,
    read_tower,
    squares,
)
from prumerge.models.slots import Packed, videos
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, packed = model.model, {}
    if arguments.get("pixel_values") is not None:
        packed |= llava_next.pack(model, arguments, settings)
    shown = arguments.get("pixel_values_videos")
    if isinstance(shown, Packed):
        packed["video"] = shown
    elif shown is not None:
        layers = feature_layers(model, arguments, core.vision_tower)
        encoded = read_tower(core.vision_tower, frames_of(shown), settings, layers)
        groups, grid = squares(encoded.grid, model.config.spatial_pool_stride)
        pooled = grouped(encoded, core.vision_resampler(encoded.features), groups, grid)
        packed["video"] = videos(pooled, shown.shape[1], core.multi_modal_projector)
    return packed


FAMILY = dataclasses.replace(
    llava_next.FAMILY,
    pack=pack,
    pixels={"image": ("pixel_values",), "video": ("pixel_values_videos",)},
)
