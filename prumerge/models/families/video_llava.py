"""Video-LLaVA: pictures of one tile, and videos of eight frames, each behind its class token.

A video is 8 x 257 slots. Its class tokens are markers: sent beside the budget, which is of the
2,048 patches that the paper counts.

Source: ``VideoLlavaForConditionalGeneration`` of transformers; arXiv 2311.10122.
"""

from functools import partial
from typing import Any

from torch import nn

from prumerge.encoder import Encoded
from prumerge.models.caches import given
from prumerge.models.families import Family
from prumerge.models.families.features import check_layers, feature_layers, frames_of, read_tower
from prumerge.models.slots import Packed, single, videos
from prumerge.settings import Settings
from prumerge.tower import open_tower

PICTURES, VIDEOS = ("pixel_values", "pixel_values_images"), ("pixel_values_videos",)


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, packed = model.model, {}
    layers = feature_layers(model, arguments, core.image_tower)
    pictures, shown = given(arguments, PICTURES), given(arguments, VIDEOS)
    if pictures is not None:
        if not isinstance(pictures, Encoded):
            pictures = read_tower(core.image_tower, pictures, settings, layers)
        packed["image"] = single(pictures, core.multi_modal_projector)
    if isinstance(shown, Packed):
        packed["video"] = shown
    elif shown is not None:
        encoded = read_tower(core.video_tower, frames_of(shown), settings, layers)
        project = core.multi_modal_projector
        opened = project(encoded.class_feature)
        packed["video"] = videos(encoded, shown.shape[1], project, class_tokens=opened)
    return packed


def _first_layer(model: nn.Module) -> nn.Module:
    return open_tower(model.model.image_tower).patch_layer


FAMILY = Family(
    pack,
    partial(check_layers, tower="image_tower"),
    pixels={"image": PICTURES, "video": VIDEOS},
    first_layer=_first_layer,
)
