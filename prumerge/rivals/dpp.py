"""Determinantal point process: patches whose features span the largest volume.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture
    picks    patches picked in the picture that keeps most

Source: greedy maximum a posteriori search, "Fast Greedy MAP Inference for Determinantal Point
Process" (NeurIPS 2018); on visual tokens, without the text, the ablation of CDPruner
(:mod:`prumerge.rivals.cdpruner`).
"""

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import Reduction
from prumerge.rivals.shared import PLAIN, behind_projector, cosines, send_picked
from prumerge.settings import Settings

NOTHING_LEFT = 1e-6  # squared, of unit vectors: below it float32 holds rounding alone


def largest_volume(
    kernel: Float[Tensor, "images patches patches"], picks: int
) -> Int64[Tensor, "images picks"]:
    """Pick patches one by one, each for what it has that the picks before do not explain.

    What is left of a patch is its diagonal entry of the kernel less the part that lies in the span
    of the picks; the largest rest is picked. The product of these rests is the determinant of the
    picks' part of the kernel.
    The first picks do not depend on how many follow, and none comes twice. Among equals, and
    where nothing is left of any patch (more picks than features have dimensions), the first of the
    raster is picked.

    Source:
        The greedy search by an incremental Cholesky factor. Published codes divide by what is left
        also where that is rounding alone; here such a pick explains nothing more.

    Example:
        >>> directions = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> largest_volume((directions @ directions.T)[None], 3).tolist()
        [[0, 2, 1]]
    """
    rest = kernel.diagonal(dim1=1, dim2=2).clone()
    smallest = NOTHING_LEFT * rest.amax(dim=1, keepdim=True)
    chosen = torch.zeros_like(rest, dtype=torch.bool)
    explained = kernel.new_zeros(len(kernel), picks, kernel.shape[1])
    order = []
    for step in range(picks):
        rest = torch.where(rest <= smallest, 0, rest)
        pick = rest.masked_fill(chosen, -torch.inf).argmax(dim=1, keepdim=True)
        at_pick = pick[:, None].expand(-1, step, -1)
        before = explained[:, :step]
        row = kernel.gather(1, pick[..., None].expand(-1, -1, kernel.shape[2]))[:, 0]
        row = row - (before.gather(2, at_pick) * before).sum(dim=1)
        left = rest.gather(1, pick)
        direction = torch.where(left > 0, row / left.clamp(min=1e-30).sqrt(), 0)
        explained[:, step] = direction
        rest = rest - direction.square()
        chosen.scatter_(1, pick, True)
        order.append(pick)
    return torch.cat(order, dim=1)


@register("dpp", settings=PLAIN)
def keep_volume(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches that a greedy search for the largest determinant of cosines finds.

    Cosines are taken behind the projector where there is one (always inside ``attach``), else
    between the encoder's features. Neither score nor class token takes part; without a budget the
    fence on the scores says how many.

    Args:
        encoded: Features, and ``project`` where it is not None.
        settings: The budget is read.

    Returns:
        Exactly the budget. The first of the raster is always among them: at the start all patches
        are equal.

    Source:
        CDPruner with the same relevance for all patches.
    """
    kernel = cosines(behind_projector(encoded))
    return send_picked(encoded, settings, partial(largest_volume, kernel))
