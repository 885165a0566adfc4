"""Determinantal point processes: patches that span the largest volume, asked about or not.

Source: greedy maximum a posteriori search, "Fast Greedy MAP Inference for Determinantal Point
Process" (NeurIPS 2018). CDPruner, "Beyond Attention or Similarity: Maximizing Conditional Diversity
for Token Pruning in MLLMs" (NeurIPS 2025), weighs patches by the question; plain ``dpp`` is its own
ablation without the text.
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
    picks' part of the kernel. The first picks do not depend on how many follow, and none comes
    twice. Among equals, and where nothing is left of any patch (more picks than features have
    dimensions), the first of the raster is picked.

    Source: the greedy search by an incremental Cholesky factor. Published codes divide by what is
    left also where that is rounding alone; here such a pick explains nothing more.

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
    fence on the scores says how many. The first patch of the raster is always among them: at the
    start all are equal.

    Source: CDPruner with the same relevance for all patches.
    """
    kernel = cosines(behind_projector(encoded))
    return send_picked(encoded, settings, partial(largest_volume, kernel))


def conditional_kernel(
    similarity: Float[Tensor, "images patches patches"],
    relevance: Float[Tensor, "images patches"],
) -> Float[Tensor, "images patches patches"]:
    """Weigh similarities by how far each patch's relevance lies *below* the highest.

    That is ``w_i S_ij w_j`` with ``w`` from just above 0 at the most relevant patch to 1 at the
    least; plain similarities where all are equally relevant.

    Source: released code: relevance is negated before it is scaled, on purpose, since patches of
    CLIP (all but the class token) point away from the text they show. Where all are equal it
    divides by zero.

    Example:
        >>> import torch
        >>> kernel = conditional_kernel(torch.eye(3)[None], torch.tensor([[0.0, 0.1, 0.2]]))
        >>> kernel.diagonal(dim1=1, dim2=2).round(decimals=3).tolist()
        [[1.0, 0.25, 0.0]]
    """
    away = -relevance
    low, high = away.amin(dim=1, keepdim=True), away.amax(dim=1, keepdim=True)
    weight = (away - low + 1e-6) / (high - low)
    weight = weight.masked_fill(high == low, 1)
    return weight[:, :, None] * similarity * weight[:, None]


@register("cdpruner", settings=PLAIN, reads_question=True)
def keep_for_question(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches of the largest determinant, weighed by what they say of the question.

    It is ``dpp`` with a kernel that knows the question; ValueError if ``encoded`` knows none.
    Similarities are taken behind the projector where there is one.

    Source: released code. A picture asked about twice is encoded once and reduced twice.
    """
    if encoded.relevance is None:
        raise ValueError(
            "cdpruner needs to know the question, and this Encoded holds no relevance: add it with "
            "prumerge.mini.relevance.read_text(...).ask(encoded, questions) and pass the result on"
        )
    kernel = conditional_kernel(cosines(behind_projector(encoded)), encoded.relevance.float())
    return send_picked(encoded, settings, partial(largest_volume, kernel))
