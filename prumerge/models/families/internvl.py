"""InternVL: tiles of 448 pixels whose patches are shuffled two by two before the projector.

Each run of placeholders is a picture of one or more tiles, or a frame; the whole picture, seen
small, is the last of several tiles. Reduction stands behind the shuffle, where one row is one slot.
Keys are averaged and scores summed over the four.

Source: ``InternVLForConditionalGeneration`` of transformers.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prumerge.models.families import Family
from prumerge.models.families.features import check_layers, feature_layers, grouped, read_tower
from prumerge.models.prompts import runs_in
from prumerge.models.slots import Packed, visual_of
from prumerge.settings import Settings
from prumerge.tower import open_tower


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, pixels = model.model, arguments["pixel_values"]
    if isinstance(pixels, Packed):
        return {"image": pixels}
    layers = feature_layers(model, arguments, core.vision_tower)
    encoded = read_tower(core.vision_tower, pixels, settings, layers, last=True)
    features = encoded.features
    if layers == (-1,):
        features = open_tower(core.vision_tower).module.layernorm(features)

    def shuffled(values: Tensor) -> Tensor:
        small = core.pixel_shuffle(values.unflatten(1, encoded.grid), model.config.downsample_ratio)
        return small.flatten(1, 2)

    patches = torch.arange(encoded.scores.shape[1])[None, :, None]
    groups = shuffled(patches)[0]  # [slots, patches of a slot]
    grid = tuple(int(side * model.config.downsample_ratio) for side in encoded.grid)
    small = grouped(encoded, shuffled(features), groups, grid)
    tiles, each = small.scores.shape
    counts = _tiles_of(arguments["input_ids"], model.config.image_token_id, tiles, each)
    sources = torch.arange(tiles * each).split([each * count for count in counts])
    visuals = tuple(visual_of(own, [grid] * tiles) for own in sources)
    return {"image": Packed((small,), visuals, core.multi_modal_projector)}


def _tiles_of(input_ids: Tensor, token: int, tiles: int, each: int) -> list[int]:
    """How many tiles each of the last runs of placeholders shows, of ``tiles`` in all."""
    lengths = runs_in(input_ids, token)[1].tolist()
    counts: list[int] = []
    while lengths and sum(counts) < tiles and lengths[-1] % each == 0:
        counts.insert(0, lengths.pop() // each)
    return counts if sum(counts) == tiles else [1] * tiles  # which the prompts then do not show


FAMILY = Family(pack, partial(check_layers, last=True))
