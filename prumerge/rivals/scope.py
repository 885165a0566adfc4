"""SCOPE: patches that the class token attends to and that stand for what no other stands for yet.

Source: SCOPE, "Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs"
(NeurIPS 2025).
"""

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import Reduction
from prumerge.rivals.shared import HEAD_MEAN, behind_projector, cosines, send_picked
from prumerge.settings import Settings


def cover_greedily(
    similarity: Float[Tensor, "images patches patches"],
    scores: Float[Tensor, "images patches"],
    picks: int,
) -> Int64[Tensor, "images picks"]:
    """Pick patches one by one, each for its score times what it adds to the coverage.

    A patch is covered as well as the most similar pick covers it, and not at all before the first;
    dissimilar picks (cosine below 0) cover nothing. A pick adds up what it improves over all
    patches. The first picks do not depend on how many follow, and none comes twice. Where nothing
    is left to gain, the first patch of the raster is picked.

    Source: paper, greedy maximisation of saliency times coverage gain, with its exponent of the
    saliency at the default of 1.

    Example:
        >>> similarity = torch.tensor([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> cover_greedily(similarity, torch.tensor([[0.5, 0.3, 0.2]]), 3).tolist()
        [[0, 2, 1]]
    """
    covered = torch.zeros_like(scores)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    order, buffer = [], torch.empty_like(similarity)  # a new one each step would take longer
    for _ in range(picks):
        added = torch.sub(similarity, covered[:, None], out=buffer).clamp_(min=0).sum(dim=2)
        gain = (scores * added).masked_fill(chosen, -torch.inf)
        pick = gain.argmax(dim=1, keepdim=True)
        chosen.scatter_(1, pick, True)
        by_pick = similarity.gather(1, pick[..., None].expand(-1, -1, similarity.shape[2]))[:, 0]
        covered = torch.maximum(covered, by_pick)
        order.append(pick)
    return torch.cat(order, dim=1)


@register("scope", settings=HEAD_MEAN)
def keep_covering(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches of high score that between them stand for the whole picture.

    Similarities are taken behind the projector where there is one (always inside ``attach``), else
    between the encoder's features.

    Source: paper. One step per token, each over all pairs of patches: it counts in timings.
    """
    similarity = cosines(behind_projector(encoded))
    return send_picked(encoded, settings, partial(cover_greedily, similarity, encoded.scores))
