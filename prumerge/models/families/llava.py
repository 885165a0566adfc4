"""LLaVA-1.5 and what is built like it: one tile per picture, all patches shown in raster order.

Source: ``LlavaForConditionalGeneration`` of transformers; arXiv 2310.03744.
"""

from functools import partial
from typing import Any

from torch import nn

from prumerge.encoder import Encoded
from prumerge.models.families import Family
from prumerge.models.families.features import check_layers, feature_layers, read_tower
from prumerge.models.slots import Packed, single
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    tower, pictures = model.model.vision_tower, arguments["pixel_values"]
    layers = feature_layers(model, arguments, tower, several=False)
    if not isinstance(pictures, Encoded):
        pictures = read_tower(tower, pictures, settings, layers)
    return {"image": single(pictures, model.model.multi_modal_projector)}


def _slots(model: nn.Module) -> int:
    return model.config.image_seq_length


FAMILY = Family(pack, partial(check_layers, several=False), each=_slots)
