"""What families with a tower of CLIP's build share: which layers are read, and how."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
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


def check_layers(
    model: nn.Module,
    settings: Settings,
    *,
    tower: str = "vision_tower",
    several: bool = True,
    last: bool = False,
) -> None:
    """Refuse an encoder or a layer that cannot be scored, before there are pictures."""
    module = getattr(model.model, tower)
    scored = _scored(module, feature_layers(model, {}, module, several))
    check_tower(module, _in_last_block(module, settings, scored) if last else settings, scored)


def _scored(tower: nn.Module, layers: Sequence[int]) -> int:
    """The last of several layers: the block that reads it is the one that scores."""
    blocks = len(open_tower(tower).blocks)
    return max(layers, key=lambda layer: layer % (blocks + 1))


def _in_last_block(tower: nn.Module, settings: Settings, scored: int) -> Settings:
    """Where features leave the last block, no block reads them: score them in the last."""
    blocks = len(open_tower(tower).blocks)
    if scored % (blocks + 1) != blocks:
        return settings
    named = {name: getattr(settings, name) for name in ("score_layer", "key_layer")}
    return settings.with_changes(**{k: -1 if v is None else v for k, v in named.items()})


def read_tower(
    tower: nn.Module,
    pixel_values: Tensor,
    settings: Settings,
    layers: Sequence[int],
    last: bool = False,
) -> Encoded:
    """Encode as :func:`prumerge.encode` does, with the features of several layers side by side.

    Scores and keys come from the block that reads the last of the layers, or with ``last`` from the
    last block where none does. Pictures of a wrong size are a ``ValueError``.
    """
    check_pictures(tower, pixel_values)
    opened = open_tower(tower)
    blocks = len(opened.blocks)
    scored = _scored(tower, layers)
    settings = _in_last_block(tower, settings, scored) if last else settings
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


def through(part: nn.Module, values: Tensor) -> Tensor:
    """Run a part of a model; under autocast where its precision is not one with the values'.

    So it is in training: weights that are trained are in float32, beside frozen ones that are not.
    """
    kinds = {values.dtype, *(weight.dtype for weight in part.parameters())}
    lowest = min(kinds, key=lambda kind: kind.itemsize)
    with torch.autocast(values.device.type, lowest, enabled=len(kinds) > 1):
        return part(values)


def frames_of(videos: Tensor) -> Tensor:
    """Lay the frames of all videos end to end."""
    if videos.ndim != 5 or not videos.shape[1]:
        raise ValueError(
            "pixel_values_videos must be [videos, frames, channels, height, width] with a frame at "
            f"least, got {list(videos.shape)}"
        )
    return videos.flatten(0, 1)


def regrouped(
    encoded: Encoded, features: Tensor, keys: Tensor, scores: Tensor, grid: tuple[int, int]
) -> Encoded:
    """What an encoder says about the rows that a model made of its patches."""
    return dataclasses.replace(
        encoded,
        features=features,
        keys=keys,
        scores=scores,
        grid=grid,
        class_feature=None,
        at_grid=None,
        rerun=None,
    )


def grouped(
    encoded: Encoded,
    features: Tensor,
    groups: Int64[Tensor, "rows members"],
    grid: tuple[int, int],
) -> Encoded:
    """Average keys and sum scores over the patches that a model makes one row of ``features``."""
    keys, scores = encoded.keys[:, groups].mean(dim=2), encoded.scores[:, groups].sum(dim=2)
    return regrouped(encoded, features, keys, scores, grid)


def squares(
    grid: tuple[int, int], side: int
) -> tuple[Int64[Tensor, "rows members"], tuple[int, int]]:
    """The patches in each square of a grid, row by row, and the grid of squares.

    Example:
        >>> squares((2, 4), 2)[0].tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    patches = torch.arange(grid[0] * grid[1]).view(grid)
    cells = patches.unfold(0, side, side).unfold(1, side, side)
    return cells.reshape(-1, side * side), (cells.shape[0], cells.shape[1])
