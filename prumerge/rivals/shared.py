"""What the rivals share: how many tokens to send, and how to send them."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn.functional import normalize

from prumerge.encoder import Encoded
from prumerge.outliers import count_outliers
from prumerge.reduction import DISTINCT, Reduction, Selection, reduce_to
from prumerge.settings import Settings

PLAIN = Settings(neighbours=0, extra_token=False, order="raster")
# The block that made the features: in LLaVA-1.5 number 22 of 24, from 0.
HEAD_MEAN = PLAIN.with_changes(score="head_mean", score_layer=-2, key_layer=-2)


def counts_to_keep(encoded: Encoded, settings: Settings) -> Int64[Tensor, " images"]:
    """Return patches to keep per picture: the budget, or as many tokens as PruMerge would send."""
    images, patches = encoded.scores.shape
    total = settings.patches_of(patches)
    if total is not None:
        return torch.full((images,), total, device=encoded.scores.device)
    # PruMerge adds one token for the dropped patches; a rival without one keeps a patch more.
    found = count_outliers(encoded.scores, settings).clamp(min=1)
    return found if settings.extra_token else (found + 1).clamp(max=patches)


def send(
    encoded: Encoded, settings: Settings, reason: Integer[Tensor, "images patches"]
) -> Reduction:
    """Send the patches that have a reason; ``neighbours`` and ``extra_token`` still apply."""
    reason = reason.to(torch.int8)
    return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)


def send_picked(
    encoded: Encoded, settings: Settings, pick: Callable[[int], Int64[Tensor, "images picks"]]
) -> Reduction:
    """Send the first picks of a greedy search that finds as many as it is asked for."""
    counts = counts_to_keep(encoded, settings)
    order = pick(max(counts.tolist(), default=1))
    turn = torch.arange(order.shape[1], device=order.device)
    reason = torch.zeros_like(encoded.scores, dtype=torch.int64)
    return send(encoded, settings, reason.scatter_(1, order, DISTINCT * (turn < counts[:, None])))


def members(
    owner: Int64[Tensor, "images patches"], order: Int64[Tensor, "images kept"]
) -> Bool[Tensor, "images kept patches"]:
    """Mark the patches that go into each token; their owner is the kept patch, -1 for none."""
    return owner[:, None, :] == order[..., None]


def at_hand(again: Callable[..., Any] | None, name: str) -> Callable[..., Any]:
    """Refuse what was built by hand where a method encodes the pictures again."""
    if again is None:
        raise ValueError(
            f"{name} encodes the pictures again, and this Encoded holds none: make it with "
            "prumerge.encode; tiles that are part padding, and patches a model pools, have none"
        )
    return again


def behind_projector(encoded: Encoded) -> Float[Tensor, "images patches width"]:
    """Return the features in the language model's space, or the encoder's where it has no model."""
    return encoded.features if encoded.project is None else encoded.project(encoded.features)


def cosines(
    values: Float[Tensor, "images patches width"],
) -> Float[Tensor, "images patches patches"]:
    """Compare all patches of a picture with each other, by cosine, in float32."""
    # Which patches are alike is a decision: no gradient passes through it.
    directions = normalize(values.detach().float(), dim=-1)
    similarity = directions @ directions.transpose(1, 2)
    similarity.diagonal(dim1=1, dim2=2).fill_(1)  # rounding must not tell equals apart
    return similarity


def cut(selection: Selection, tokens: Float[Tensor, "images kept width"]) -> Reduction:
    """Cut padded tokens apart, one per kept patch."""
    lengths = selection.counts.tolist()
    rows, places = (
        [row[:length] for row, length in zip(padded, lengths, strict=True)]
        for padded in (tokens, selection.order)
    )
    return Reduction(rows, places, selection)
