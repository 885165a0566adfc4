"""VipLLaVA: as LLaVA-1.5, with the features of five encoder layers side by side.

Scores and keys come from the block that reads the last of the five.

Source: ``VipLlavaForConditionalGeneration`` of transformers; arXiv 2312.00784.
"""

from typing import Any

from torch import nn

from prumerge.encoder import Encoded
from prumerge.models.families import Family
from prumerge.models.families.features import check_layers, feature_layers, read_tower
from prumerge.models.slots import Packed, single
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    pictures = arguments["pixel_values"]
    layers = _layers(model, arguments)
    if not isinstance(pictures, Encoded):
        pictures = read_tower(model.model.vision_tower, pictures, settings, layers)
    return {"image": single(pictures, model.model.multi_modal_projector)}


def _layers(model: nn.Module, arguments: dict[str, Any]) -> tuple[int, ...]:
    old = arguments.get("vision_feature_layers")  # its name before transformers 5.22
    named = arguments if old is None else arguments | {"vision_feature_layer": old}
    return feature_layers(model, named, model.model.vision_tower)


FAMILY = Family(pack, check_layers, consumed=("vision_feature_layer", "vision_feature_layers"))
