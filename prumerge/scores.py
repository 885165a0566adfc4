"""One score per patch from a vision encoder: how much attention it receives.

    encode              features, keys and scores of pictures; runs no block that is not needed
    class_attention     softmax(q_class K^T): full width (release) or mean over heads
    received_attention  mean attention from all patches, where there is no class token
    read_states         the same as encode, from hidden states that are at hand

LLaVA feeds the features that *enter* the encoder's last block to the language model (feature layer
-2). The release takes queries and keys from that same last block, so both follow from the features
by one LayerNorm and two linear maps: the last block itself never runs, and of the attention matrix
only the class token's row is computed (D1).

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    keys     patches and, where it takes part in the softmax, the class token
    width    of the encoder; queries, keys and values have their heads side by side

Source: LLaVA-PruMerge, arXiv 2403.15388, equation of the class attention.
"""

import contextlib
import dataclasses
import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from prumerge.encoder import (
    Encoded,
    gathered,
    hidden_states,
    needed_layers,
    run_again,
    shrunk_features,
)
from prumerge.settings import Settings, resolve_settings
from prumerge.tower import Tower, open_tower

AT_ONCE = 2**26
"""Attention of one head that is held at a time, in numbers: a quarter of a gigabyte."""


def class_attention(
    query: Float[Tensor, "images width"],
    keys: Float[Tensor, "images keys width"],
    heads: int = 1,
) -> Float[Tensor, "images keys"]:
    """Return the attention one query pays to each key, averaged over heads, in float32.

    Per head ``softmax(q K^T / sqrt(width / heads))``, so each row sums to 1. With ``heads=1`` the
    concatenated heads count as one, which adds up their evidence before the softmax and so is
    sharper.

    Source:
        Paper, equation of the class attention, silent about heads. D2: the release uses the full
        width with scale width ** -0.5 (line 109), that is 4 times the mean logit of 16 heads.

    Example:
        >>> class_attention(torch.zeros(1, 4), torch.randn(1, 2, 4)).tolist()
        [[0.5, 0.5]]
    """
    query = query.float().unflatten(-1, (heads, -1))
    keys = keys.float().unflatten(-1, (heads, -1))
    logits = torch.einsum("ihd,ikhd->ihk", query, keys) * query.shape[-1] ** -0.5
    return logits.softmax(dim=-1).mean(dim=1)


def received_attention(
    queries: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images keys width"],
    heads: int,
) -> Float[Tensor, "images keys"]:
    """Return the attention each key receives, averaged over queries and heads, in float32.

    Each row sums to 1. Not in the paper, which needs a class token; others' ports of PruMerge to
    encoders without one use this mean.
    """
    queries = queries.float().unflatten(-1, (heads, -1))
    keys = keys.float().unflatten(-1, (heads, -1))
    total = torch.zeros(keys.shape[:2], device=keys.device)
    # One head, and of large pictures a part of its rows, at a time: whole matrices of all heads
    # would not fit beside an encoder that takes thousands of patches.
    images, patches = queries.shape[:2]
    rows = max(1, AT_ONCE // max(1, images * keys.shape[1]))
    for head in range(heads):
        own = keys[:, :, head].transpose(1, 2)
        for asking in queries[:, :, head].split(rows, dim=1):
            logits = asking @ own
            total += (logits * queries.shape[-1] ** -0.5).softmax(dim=-1).sum(dim=1) / patches
    return total / heads


def encode(
    vision_tower: nn.Module,
    pixel_values: Float[Tensor, "images channels height width"],
    settings: Settings | None = None,
    feature_layer: int = -2,
) -> Encoded:
    """Run a vision encoder as far as needed and score its patches (D1 to D3).

    Args:
        vision_tower: CLIP's, SigLIP's, a DINO, ViT, DeiT or InternViT, see
            :func:`prumerge.tower.open_tower`; such as ``model.model.vision_tower`` of a LLaVA.
        pixel_values: Preprocessed pictures; moved to the type and device of the encoder.
        settings: ``score``, ``softmax_class``, ``score_layer`` and ``key_layer`` are read. None:
            the release's.
        feature_layer: Hidden state handed on: 0 is the input of the first block, -1 the output of
            the last. LLaVA-1.5: -2.

    Returns:
        Features equal to ``hidden_states[feature_layer]`` of the encoder, without class token and
        registers, with keys and scores. Keys are as attention sees them: rotated under RoPE.
        These two decide what is kept and merged, and are computed in float32 from the hidden
        states, in whatever type the encoder runs and under autocast too. What remains: the states
        of an encoder in half precision are themselves rounded, and so a patch near the fence may
        fall on its other side than in float32 throughout.

    Raises:
        ValueError: If the encoder is built otherwise, if it has no class token and the score needs
            one, if a layer does not exist, or if no block reads the selected features.
    """
    settings = Settings() if settings is None else resolve_settings(settings)
    tower = open_tower(vision_tower)
    check_tower(tower, settings, feature_layer)
    layers = needed_layers(settings, feature_layer, len(tower.blocks))
    hidden = hidden_states(tower, pixel_values, set(layers))
    return dataclasses.replace(
        read_states(tower, hidden, layers, settings, tower.grid(pixel_values)),
        at_grid=functools.partial(shrunk_features, tower, pixel_values, layers[0]),
        rerun=functools.partial(run_again, tower.module, pixel_values, layers[0]),
    )


def read_states(
    vision_tower: nn.Module | Tower,
    hidden: dict[int, Tensor],
    layers: tuple[int, int, int],
    settings: Settings,
    grid: tuple[int, int],
) -> Encoded:
    """Score patches from hidden states that are at hand; :func:`encode` without the blocks.

    ``hidden`` holds those of ``layers``, class token included; ``layers`` numbers features, scores
    and keys as :func:`prumerge.encoder.needed_layers` does. There are no pictures to encode again.
    """
    tower = open_tower(vision_tower)
    _check_class_token(tower, settings)
    features, *inputs = (hidden[layer] for layer in layers)
    blocks = [tower.blocks[layer] for layer in layers[1:]]
    first = tower.first
    with contextlib.ExitStack() as within:
        within.enter_context(torch.autocast(features.device.type, enabled=False))
        within.enter_context(InFloat32())
        for block in dict.fromkeys(blocks):
            within.enter_context(gathered(block, tower.attention(block).query))
        queries, keys = _queries_and_keys(tower, blocks[0], inputs[0], settings, grid)
        scores = _score(queries, keys, settings, first, tower.heads)
        if settings.score == "value_weighted":
            normed = _normed(tower, blocks[0], inputs[0][:, first:])
            scores = weigh_by_values(scores, tower.attention(blocks[0]).value(normed))
        if blocks[1] is not blocks[0]:
            keys = _keys(tower, blocks[1], _normed(tower, blocks[1], inputs[1]), grid)
    class_feature = features[:, 0] if tower.has_class else None
    return Encoded(features[:, first:], keys[:, first:], scores, grid, class_feature, tower.heads)


class InFloat32(TorchFunctionMode):
    """Within, linear maps and norms of half-precision numbers and weights compute in float32.

    The modules are called as they are, so that hooks which bring offloaded weights, and adapters
    around a map, keep working.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.nn.functional.linear, torch.nn.functional.layer_norm):
            args, kwargs = tree_map_only(Tensor, at_least_float32, (args, kwargs))
        return function(*args, **(kwargs or {}))


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_tower(vision_tower: nn.Module | Tower, settings: Settings, feature_layer: int) -> None:
    """Refuse an encoder that :func:`encode` would refuse, before there are pictures."""
    tower = open_tower(vision_tower)
    _check_class_token(tower, settings)
    needed_layers(settings, feature_layer, len(tower.blocks))


def _check_class_token(tower: Tower, settings: Settings) -> None:
    if settings.score != "received" and not tower.has_class:
        raise ValueError(
            f"score={settings.score!r} needs a class token and {type(tower.module).__name__} has "
            "none: use score='received'"
        )


def _queries_and_keys(
    tower: Tower, block: nn.Module, hidden: Tensor, settings: Settings, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Project the input of a block: the class token's query, or those of all patches, and keys."""
    normed = _normed(tower, block, hidden)
    received = settings.score == "received"
    asking = normed[:, tower.first :] if received else normed[:, :1]
    queries = tower.attention(block).queries(asking)
    if received:  # the class token stands nowhere, and is not turned
        queries = tower.turned(queries, grid)
    return queries, _keys(tower, block, normed, grid)


def _keys(tower: Tower, block: nn.Module, normed: Tensor, grid: tuple[int, int]) -> Tensor:
    return tower.turned(tower.attention(block).keys(normed), grid)


def _normed(tower: Tower, block: nn.Module, hidden: Tensor) -> Tensor:
    return tower.norm(block)(at_least_float32(hidden))


def _score(queries: Tensor, keys: Tensor, settings: Settings, first: int, heads: int) -> Tensor:
    """Return the attention of the patches, the class token's own share dropped (D3)."""
    if not settings.softmax_class:
        keys, first = keys[:, first:], 0
    if settings.score == "received":
        return received_attention(queries, keys, heads)[:, first:]
    heads = 1 if settings.score == "full_width" else heads
    return class_attention(queries[:, 0], keys, heads)[:, first:]


def weigh_by_values(
    scores: Float[Tensor, "images patches"], values: Float[Tensor, "images patches width"]
) -> Float[Tensor, "images patches"]:
    """Weigh the attention a patch receives by how much it hands on: the length of its value.

    In float32, each row divided by its sum. Not in the paper; the score of ATS,
    :mod:`prumerge.rivals.ats`.

    Example:
        >>> values = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [10.0, 0.0]]])
        >>> weigh_by_values(torch.tensor([[0.4, 0.2, 0.2]]), values).tolist()
        [[0.4, 0.2, 0.4]]
    """
    products = scores.float() * values.float().norm(dim=-1)
    return products / products.sum(dim=1, keepdim=True)
