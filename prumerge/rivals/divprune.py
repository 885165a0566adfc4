"""DivPrune: patches as far from each other as can be, whatever the class token attends to.

Source: DivPrune, "Diversity-based Visual Token Pruning for Large Multimodal Models" (CVPR 2025).
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


def farthest_first(
    features: Float[Tensor, "images patches width"], picks: int
) -> Int64[Tensor, "images picks"]:
    """Pick patches one by one, each as far as can be from the nearest one picked before.

    Distances are one minus the cosine. The first pick is the patch whose nearest other patch is
    farthest away. The first picks do not depend on how many follow, and none comes twice. Among
    equally far patches the first of the raster is picked.

    Source: paper, max-min diversity problem and its greedy solution. The authors' code may pick a
    patch again when all that are left equal picked ones; here it may not.

    Example:
        >>> angles = torch.tensor([0.0, 0.1, 1.0, 2.0])
        >>> features = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
        >>> farthest_first(features, 3).tolist()
        [[3, 0, 2]]
    """
    distance = 1 - cosines(features)
    itself = torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=2)
    chosen = torch.zeros_like(nearest, dtype=torch.bool)
    order = []
    for step in range(picks):
        pick = nearest.masked_fill(chosen, -torch.inf).argmax(dim=1, keepdim=True)
        chosen.scatter_(1, pick, True)
        to_pick = distance.gather(1, pick[..., None].expand(-1, -1, distance.shape[2]))[:, 0]
        # Before the first pick, "nearest" meant any other patch; from here on only picked ones.
        nearest = torch.minimum(nearest, to_pick) if step else to_pick
        order.append(pick)
    return torch.cat(order, dim=1)


@register("divprune", settings=PLAIN)
def keep_diverse(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches that a greedy search for the largest smallest distance finds.

    Distances are taken behind the projector, in the space of the language model, where there is
    one (always inside ``attach``), else between the encoder's features. Neither score nor class
    token takes part; without a budget the fence on the scores says how many.

    Source: the authors' code works on projected tokens, one picture at a time. The search takes one
    step per token, and inside ``attach`` all patches are projected first: both count in timings.
    """
    return send_picked(encoded, settings, partial(farthest_first, behind_projector(encoded)))
