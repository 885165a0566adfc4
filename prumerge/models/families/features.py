"""What families with a tower of CLIP's build share: which layers are read, and how."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prumerge.encoder import (
    Encoded,
    check_pictures,
    hidden_states,
    needed_layers,
    run_again,
    shrunk_features,
)
from prumerge.scores import check_tower, read_states
from prumerge.settings import Settings
from prumerge.tower import open_tower


def option(model: nn.Module, arguments: dict[str, Any], name: str) -> Any:
    """An option of a call, or else the config's."""
    return getattr(model.config, name) if arguments.get(name) is None else arguments[name]


def feature_layers(
    model: nn.Module, arguments: dict[str, Any], tower: nn.Module, several: bool = True
) -> tuple[int, ...]:
    """The encoder layers whose features a call, or else the config, wants: -2 for LLaVA-1.5.

    Those of ``several`` layers are laid side by side. What would send the class token as if it were
    a patch, or drop a patch in place of it, is a ``ValueError``.
    """
    layer = option(model, arguments, "vision_feature_layer")
    layers = tuple(layer) if isinstance(layer, list | tuple) else (layer,)
    whole = all(isinstance(own, int) for own in layers)
    if not layers or not whole or (len(layers) > 1 and not several):
        raise ValueError(f"vision_feature_layer must be one layer such as -2, got {layer}")
    opened = open_tower(tower)
    has_class = opened.has_class
    if opened.first > has_class:
        raise ValueError(
            f"{type(opened.module).__name__} has {opened.first - has_class} register or "
            "distillation tokens, which the stock model sends as if they were patches: reduce with "
            "encode and reduce_tokens instead"
        )
    strategy = wanted = "default" if has_class else "full"
    if hasattr(model.config, "vision_feature_select_strategy"):
        strategy = option(model, arguments, "vision_feature_select_strategy")
    if strategy != wanted:
        raise ValueError(
            f"vision_feature_select_strategy must be {wanted!r} for an encoder "
            f"{'with' if has_class else 'without'} class token, got {strategy!r}: reduction "
            "chooses among the patches, all of them and nothing else"
        )
    return layers


def check_layers(tower: nn.Module, settings: Settings, layers: Sequence[int]) -> None:
    """Refuse an encoder or a layer that cannot be scored, before there are pictures."""
    check_tower(tower, settings, _scored(tower, layers))


def _scored(tower: nn.Module, layers: Sequence[int]) -> int:
    """The last of several layers: the block that reads it is the one that scores."""
    blocks = len(open_tower(tower).blocks)
    return max(layers, key=lambda layer: layer % (blocks + 1))


def read_tower(
    tower: nn.Module,
    pixel_values: Tensor,
    settings: Settings,
    layers: Sequence[int],
) -> Encoded:
    """Encode as :func:`prumerge.encode` does, with the features of several layers side by side.

    Scores and keys are those of the last of the layers. Pictures of a wrong size are a
    ``ValueError``.
    """
    check_pictures(tower, pixel_values)
    opened = open_tower(tower)
    blocks = len(opened.blocks)
    scored = _scored(tower, layers)
    check_tower(opened, settings, scored)
    read = needed_layers(settings, scored, blocks)
    numbers = [layer % (blocks + 1) for layer in layers]
    hidden = hidden_states(opened, pixel_values, {*read, *numbers})
    encoded = read_states(opened, hidden, read, settings, opened.grid(pixel_values))
    if len(numbers) > 1:
        wide = torch.cat([hidden[number] for number in numbers], dim=-1)
        own = wide[:, 0] if opened.has_class else None
        return dataclasses.replace(encoded, features=wide[:, opened.first :], class_feature=own)
    return dataclasses.replace(
        encoded,
        at_grid=functools.partial(shrunk_features, opened, pixel_values, read[0]),
        rerun=functools.partial(run_again, opened.module, pixel_values, read[0]),
    )
