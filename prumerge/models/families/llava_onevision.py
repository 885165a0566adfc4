"""LLaVA-OneVision: the whole picture and stitched tiles, as LLaVA-NeXT, behind a tower like SigLIP.

Large pictures are shrunk after the tiles are stitched, and frames pooled behind the projector, so
reduction stands behind all of it, in the language model's width: a picture is two canvases, the
whole and its stitched tiles. There is no class token: scores are the attention a patch receives.

Source: ``LlavaOnevisionForConditionalGeneration`` of transformers; arXiv 2408.03326.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prumerge.encoder import Encoded
from prumerge.models.families import Family
from prumerge.models.families.features import (
    check_layers,
    feature_layers,
    frames_of,
    read_tower,
    regrouped,
    through,
)
from prumerge.models.families.llava_next import cut, image_sizes, tiles_of
from prumerge.models.slots import Packed, Visual, videos, visual_of
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, packed = model.model, {}
    layers = feature_layers(model, arguments, core.vision_tower)
    pictures, shown = arguments.get("pixel_values"), arguments.get("pixel_values_videos")
    if isinstance(pictures, Packed):
        packed["image"] = pictures
    elif pictures is not None:
        sizes, counts = image_sizes(arguments), arguments.get("batch_num_images")
        tiles = tiles_of(core, sizes)
        if counts is not None:  # several pictures of a prompt are one tile each
            several = [int(n) != 1 for n in counts for _ in range(int(n))]
            tiles = [1 if more else own for own, more in zip(tiles, several, strict=True)]
        encoded = read_tower(core.vision_tower, cut(pictures, tiles), settings, layers, last=True)
        packed["image"] = _pictures(model, encoded, sizes, tiles)
    if isinstance(shown, Packed):
        packed["video"] = shown
    elif shown is not None:
        encoded = read_tower(core.vision_tower, frames_of(shown), settings, layers, last=True)
        projected = through(core.multi_modal_projector, encoded.features)
        rows, columns = (-(-side // 2) for side in encoded.grid)
        pooled = regrouped(
            encoded,
            core.apply_pooling(projected),
            core.apply_pooling(encoded.keys),
            core.apply_pooling(encoded.scores[..., None])[..., 0],
            (rows, columns),
        )
        newline = core.image_newline[None]
        packed["video"] = videos(pooled, shown.shape[1], lambda sent: sent, newline=newline)
    return packed


def _pictures(
    model: nn.Module, encoded: Encoded, sizes: list[list[int]], tiles: list[int]
) -> Packed:
    core, newline = model.model, model.model.image_newline
    patches = encoded.scores.shape[1]

    def stitched(values: Tensor, line: Tensor) -> list[Tensor]:
        aspect = model.config.vision_aspect_ratio
        return core.pack_image_features(list(values.split(tiles)), sizes, line, aspect)[0]

    columns = [
        through(core.multi_modal_projector, encoded.features),
        encoded.keys,
        encoded.scores[..., None],
    ]
    lines = [values.new_full(values.shape[-1:], -1.0) for values in columns]
    shown = [stitched(values, line) for values, line in zip(columns, lines, strict=True)]
    sources, grids, parts, start = [], [], [], 0
    for features, keys, scores in zip(*shown, strict=True):
        closed = scores[:, 0] < 0  # scores are not negative, a newline is
        line = len(features) - patches
        rows = int(closed.sum())
        own = [(encoded.grid, slice(0, patches))]
        if line > 1 and rows:
            own.append(((rows, line // rows - 1), slice(patches, None)))
        source = torch.full((len(features),), -1)
        for grid, part in own:
            here = part if part.stop else patches + (~closed[patches:]).nonzero()[:, 0]
            values = (features[here][None], keys[here][None], scores[here, 0][None])
            parts.append(regrouped(encoded, *values, grid))
            source[here] = torch.arange(start, start + grid[0] * grid[1])
            start += grid[0] * grid[1]
            grids.append(grid)
        sources.append(source)
    visuals = tuple(_visual(source, grids) for source in sources)
    return Packed(tuple(parts), visuals, lambda sent: sent, newline[None])


def _visual(source: Tensor, grids: list[tuple[int, int]]) -> Visual:
    return visual_of(source, grids, stitched=int((source < 0).sum()) > 1)


FAMILY = Family(
    pack,
    partial(check_layers, last=True),
    pixels={"image": ("pixel_values",), "video": ("pixel_values_videos",)},
    consumed=(
        "image_sizes",
        "image_sizes_videos",
        "batch_num_images",
        "vision_aspect_ratio",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    ),
    received=True,
)
