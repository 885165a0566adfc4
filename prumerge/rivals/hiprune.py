"""HiPrune: what a middle block of the encoder attends to, its neighbours, and a deep one's choice.

Source: HiPrune, "Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
Models" (2025).
"""

import functools

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from prumerge.encoder import Encoded, hidden_states
from prumerge.methods import register
from prumerge.reduction import OUTLIER, SPATIAL, Reduction, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, at_hand, counts_to_keep, send
from prumerge.scores import read_states
from prumerge.settings import Settings
from prumerge.tower import open_tower

ANCHORED = 0.1  # share of the budget for anchors and their four neighbours, as released
MIDDLE = 9 / 24  # of the blocks, as released for CLIP ViT-L/14: its ninth


def middle_scores(
    settings: Settings, grid: tuple[int, int], tower: nn.Module, pixel_values: Tensor, layer: int
) -> Float[Tensor, "images patches"]:
    """Return the attention patches receive in the middle block."""
    block = max(1, round(MIDDLE * len(open_tower(tower).blocks))) - 1
    hidden = hidden_states(tower, pixel_values, {block})
    return read_states(tower, hidden, (block, block, block), settings, grid).scores


def with_neighbours(
    anchors: Bool[Tensor, "images patches"], columns: int
) -> Bool[Tensor, "images patches"]:
    """Mark anchors and the patches beside, above and below them.

    A neighbour beyond the first or last patch of the raster is that patch; beside the end of a row
    stands the begin of the next.

    Source: released code, where neighbours are index differences.

    Example:
        >>> anchors = torch.tensor([[False, False, False, True, False, False]])
        >>> with_neighbours(anchors, columns=3).int().tolist()
        [[1, 0, 1, 1, 1, 1]]
    """
    images, patches = anchors.shape
    places = torch.arange(patches, device=anchors.device)
    marks = anchors.clone()
    for step in (-1, 1, -columns, columns):
        beside = (places + step).clamp(0, patches - 1).expand(images, -1)
        marks = marks | torch.zeros_like(marks.int()).scatter_add_(1, beside, anchors.int()).bool()
    return marks


def anchor_first(
    middle: Float[Tensor, "images patches"],
    deep: Float[Tensor, "images patches"],
    counts: Int64[Tensor, " images"],
    columns: int,
) -> tuple[Bool[Tensor, "images patches"], Bool[Tensor, "images patches"]]:
    """Mark at most ``counts`` anchors and neighbours, and the deep block's best to fill them up."""
    anchors = rank_scores(middle) < (ANCHORED * counts / 5).round()[:, None]
    around = with_neighbours(anchors, columns)
    room = counts - around.sum(dim=1)
    ranks = rank_scores(deep.float().masked_fill(around, -torch.inf))
    return around, ranks < room[:, None]


@register("hiprune", settings=HEAD_MEAN.with_changes(score="received"), encodes_again=True)
def keep_hierarchy(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches of a middle block with their neighbours, and the best-scored of a deep one.

    A tenth of the budget goes to the middle block: for each five tokens one anchor, the patch that
    receives most attention, with its four neighbours. The deep block's best fill up the rest; below
    26 tokens there is no anchor, and all are theirs. ``score`` is read for both blocks. ValueError
    if ``encoded`` was built by hand: the encoder runs up to the middle block again.

    Source: released code: blocks 9 and 23 of CLIP ViT-L/14, counted from 1, by the attention that a
    patch receives from all tokens, the class token's included; here from all patches.
    """
    again = at_hand(encoded.rerun, "hiprune")
    every = torch.arange(len(encoded.scores), device=encoded.scores.device)
    middle = again(functools.partial(middle_scores, settings, encoded.grid), every)
    counts = counts_to_keep(encoded, settings)
    around, filled = anchor_first(middle, encoded.scores, counts, encoded.grid[1])
    return send(encoded, settings, torch.where(around, SPATIAL, filled * OUTLIER))
