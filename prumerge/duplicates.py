"""PruMerge+'s branch for training with its duplicates, as released.

A patch chosen both by score and for its place is sent twice there. The list of the others, which
takes each index to be sent once, then lacks as many patches as are sent twice, the first ones of
the raster: they reach neither a neighbour's sum nor the extra token. An adapter that was trained on
such tokens sees its exact input only with both.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    sent     patches of one picture that are sent, those sent twice counted twice

Source: LLaVA-PruMerge, release at commit 097c041, lines 216-269, and ``complement_idx``.
"""

import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from prumerge.reduction import SPATIAL, Reduction, Selection, rank_scores, spread
from prumerge.settings import Settings
from prumerge.supplement import extra_token, merge, take


def listed(
    reason: Int8[Tensor, "images patches"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> tuple[Int64[Tensor, "images sent"], Int64[Tensor, "images others"]]:
    """List the patches sent, and the others as the release lists them.

    Args:
        reason: Why each patch stays, from the fixed branch.
        scores: Attention each patch receives.
        settings: ``order`` and the spatial part are read.
        grid: Rows and columns of patches; None: square.

    Returns:
        Patches in the order sent: by score, then by place; and those that are not sent, in raster
        order, without as many of the first as are sent twice.
    """
    images, patches = scores.shape
    by_score = (reason > 0) & (reason != SPATIAL)
    chosen = by_score.sum(dim=1)
    by_place = spread(chosen, patches, settings, grid)
    places = torch.arange(patches, device=scores.device).expand(images, -1)
    keys = rank_scores(scores) if settings.order == "attention" else places
    best = keys.masked_fill(~by_score, patches).argsort(dim=1, stable=True)
    even = places.masked_fill(~by_place, patches).sort(dim=1).values
    # The fixed branch sends as many patches of each kind whatever the picture.
    counts = torch.stack([by_score, by_place]).sum(dim=2).amax(dim=1).tolist() if images else (0, 0)
    order = torch.cat([best[:, : counts[0]], even[:, : counts[1]]], dim=1)
    order = order.sort(dim=1).values if settings.order == "raster" else order
    others = places.masked_fill(reason > 0, -1).argsort(dim=1, stable=True)[:, order.shape[1] :]
    return order, others


def reduce_with_duplicates(
    reason: Int8[Tensor, "images patches"],
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> Reduction:
    """Send what the release's branch for training sends.

    Args:
        reason: Why each patch stays, from the fixed branch.
        features: Visual tokens.
        keys: Keys of the patches.
        scores: Attention each patch receives.
        settings: Order, merging and extra token are read.
        grid: Rows and columns of patches; None: square.

    Returns:
        As many tokens for each picture: 145 of 576 patches. A patch that is sent twice is a
        neighbour of itself, and counts twice among the neighbours of others.
    """
    order, others = listed(reason, scores, settings, grid)
    images, sent = order.shape
    pool = torch.cat([order, others], dim=1)  # what can be merged, one entry per list entry
    features, keys = take(features, pool), take(keys, pool)
    weights = scores.gather(1, pool)
    turn = torch.arange(pool.shape[1], device=pool.device)
    kept: Bool[Tensor, "images pool"] = (turn < sent).expand(images, -1)
    tokens = merge(features, keys, weights, turn[:sent].expand(images, -1), kept, settings)
    positions = order
    if settings.extra_token and others.shape[1]:
        extra = extra_token(features, weights, ~kept, settings.normalise_weights)
        tokens = torch.cat([tokens, extra[:, None]], dim=1)
        positions = torch.nn.functional.pad(order, (0, 1), value=scores.shape[1] - 1)
    counts = torch.full((images,), sent)
    return Reduction(list(tokens), list(positions), Selection(reason, order, counts))
