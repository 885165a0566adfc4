"""Video-LLaVA: pictures of one tile, and videos of eight frames, each behind its class token.

A video is 8 x 257 slots. Its class tokens are markers: sent beside the budget, which is of the
2,048 patches that the paper counts.

Source: ``VideoLlavaForConditionalGeneration`` of transformers; arXiv 2311.10122.
"""

from typing import Any

import torch
from torch import Tensor, nn

from prumerge.encoder import Encoded
from prumerge.models.families import Family, given
from prumerge.models.families.features import check_layers, feature_layers, read_tower
from prumerge.models.slots import Packed, single, visual_of
from prumerge.settings import Settings
from prumerge.tower import open_tower

PICTURES, VIDEOS = ("pixel_values", "pixel_values_images"), ("pixel_values_videos",)


def check(model: nn.Module, settings: Settings) -> None:
    tower = model.model.image_tower
    check_layers(tower, settings, feature_layers(model, {}, tower))


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, packed = model.model, {}
    layers = feature_layers(model, arguments, core.image_tower)
    pictures, videos = given(arguments, PICTURES), given(arguments, VIDEOS)
    if pictures is not None:
        if not isinstance(pictures, Encoded):
            pictures = read_tower(core.image_tower, pictures, settings, layers)
        packed["image"] = single(pictures, core.multi_modal_projector)
    if isinstance(videos, Packed):
        packed["video"] = videos
    elif videos is not None:
        encoded = read_tower(core.video_tower, frames_of(videos), settings, layers)
        packed["video"] = _videos(encoded, videos.shape[1], core.multi_modal_projector)
    return packed


def frames_of(videos: Tensor) -> Tensor:
    """Lay the frames of all videos end to end."""
    if videos.ndim != 5 or not videos.shape[1]:
        raise ValueError(
            "pixel_values_videos must be [videos, frames, channels, height, width] with a frame at "
            f"least, got {list(videos.shape)}"
        )
    return videos.flatten(0, 1)


def _videos(encoded: Encoded, frames: int, projector: nn.Module) -> Packed:
    tiles, patches = encoded.scores.shape
    markers = -1 - torch.arange(tiles)[:, None]
    rows = torch.arange(tiles * patches).view(tiles, patches)
    maps = torch.cat([markers, rows], dim=1).view(-1, frames * (patches + 1))
    visuals = tuple(visual_of(own, [encoded.grid] * tiles, opens=True) for own in maps)
    return Packed((encoded,), visuals, projector, projector(encoded.class_feature))


FAMILY = Family(
    pack,
    check,
    pixels={"image": PICTURES, "video": VIDEOS},
    first_layer=lambda model: open_tower(model.model.image_tower).patch_layer,
)
