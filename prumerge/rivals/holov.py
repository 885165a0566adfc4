"""HoloV: each part of the picture sends tokens, more where attention and contrast are high.

The parts are ``runs`` of neighbouring patches of the raster.

Source: HoloV, "Don't Just Chase Highlighted Tokens in MLLMs: Revisiting Visual Holistic Context
Retention" (NeurIPS 2025).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, Reduction, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, behind_projector, cosines, counts_to_keep, send
from prumerge.settings import Settings

RUNS, CONTRAST = 16, 0.09  # as released


def contrasts(
    similarity: Float[Tensor, "images patches patches"], run: Int64[Tensor, " patches"]
) -> Float[Tensor, "images patches"]:
    """Return how unevenly a patch is like the others of its run; 0 where there are none.

    Squared differences between a patch's similarities in its run, its own counted as 0, and their
    mean over the others are summed and divided by the number of the others.

    Source: released code, which sets a patch's similarity to itself to 0 and lets it take part in
    the sum.

    Example:
        >>> contrasts(torch.ones(1, 4, 4), torch.tensor([0, 0, 1, 1])).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """
    together = run == run[:, None]
    others = (together.sum(dim=1) - 1).clamp(min=1)
    itself = torch.eye(len(run), dtype=torch.bool, device=run.device)
    alike = similarity.masked_fill(itself | ~together, 0)
    mean = alike.sum(dim=2) / others
    return ((alike - mean[..., None]).square() * together).sum(dim=2) / others


def share_out(
    counts: Int64[Tensor, " images"],
    worth: Float[Tensor, "images runs"],
    room: Int64[Tensor, " runs"],
) -> Int64[Tensor, "images runs"]:
    """Give each run tokens in proportion to its worth, rounded down, at most its patches.

    What is left goes one each to the best runs with room, again and again.

    Source: released code for the first two steps.

    Example:
        >>> share_out(torch.tensor([7]), torch.tensor([[5.0, 3.0, 2.0]]), torch.tensor([4, 4, 4]))
        tensor([[4, 2, 1]])
    """
    total = worth.sum(dim=1, keepdim=True)
    part = torch.where(total > 0, worth / total.clamp(min=1e-30), 1 / worth.shape[1])
    quota = (counts[:, None] * part).floor().long().minimum(room)
    for _ in range(int(room.max())):
        left = counts - quota.sum(dim=1)
        ranks = rank_scores(part.masked_fill(quota >= room, -torch.inf))
        quota = quota + ((ranks < left[:, None]) & (quota < room))
    return quota


@register("holov", settings=HEAD_MEAN)
def keep_everywhere(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the best-scored patches of each part of the picture.

    The raster is cut into 16 runs of neighbouring patches. A run is worth the mean over its patches
    of score plus 0.09 times contrast, both scaled to the same mean over the picture; its share of
    the budget follows from that, and within a run the score alone decides. Similarities are taken
    behind the projector where there is one.

    Source: released code. It needs a number of patches that 16 divides; here the lengths of runs
    may differ by one, and smaller pictures have as many runs as patches.
    """
    scores = encoded.scores
    patches = scores.shape[1]
    runs = min(RUNS, patches)
    run = torch.arange(patches, device=scores.device) * runs // patches
    contrast = contrasts(cosines(behind_projector(encoded)), run)
    typical = contrast.mean(dim=1, keepdim=True)
    even = torch.where(typical > 0, contrast / typical.clamp(min=1e-30), 0)
    worth = scores + CONTRAST * even * scores.mean(dim=1, keepdim=True)
    room = run.bincount(minlength=runs)
    means = worth.new_zeros(len(worth), runs).index_add_(1, run, worth) / room
    quota = share_out(counts_to_keep(encoded, settings), means, room)
    before = rank_scores(scores) + patches * run  # by run, then by score
    first = (room.cumsum(dim=0) - room)[run]
    place = before.argsort(dim=1).argsort(dim=1) - first
    return send(encoded, settings, (place < quota[:, run]) * OUTLIER)
