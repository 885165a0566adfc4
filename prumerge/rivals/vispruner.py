"""VisPruner: the best-scored patches, and of the rest those least like any other.

``slots`` are the patches left in the picture that has most; shorter pictures are padded.

Source: VisPruner, "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token
Pruning in VLMs" (ICCV 2025).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import DISTINCT, OUTLIER, Reduction, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, cosines, counts_to_keep, send
from prumerge.settings import Settings

STEP = 8  # patches dropped per round, as released


def drop_duplicates(
    features: Float[Tensor, "images patches width"],
    sequence: Int64[Tensor, "images slots"],
    lengths: Int64[Tensor, " images"],
    targets: Int64[Tensor, " images"],
) -> Int64[Tensor, "images patches"]:
    """Drop patches that have a double until as many as wanted are left; return 1 at those left.

    In rounds: each patch at an even place of the sequence (the first, the third, ...) looks for
    the most alike patch at an odd place; the up to eight patches most alike to theirs are dropped.
    The next sequence is the even ones that are left, most alike first, then the odd ones.
    Lengths and targets lie on the CPU.

    Source: released code, which needs an even number of patches: an odd one ends in an error there.
    Ties decide much: patches of a flat area have cosines of 1 with each other, to the last bit or
    nearly so, and which of them goes is for the sort to say. Here the first of the sequence goes
    first; the released code leaves it to the device.
    """
    similarity = cosines(features)
    left = torch.where(targets > 0, lengths, 0)
    while True:
        sequence = sequence[:, : max(left.tolist(), default=0)]
        valid = torch.arange(sequence.shape[1]) < left[:, None]
        drops = (left - targets).clamp(max=STEP).minimum((left + 1) // 2)
        if not (drops > 0).any():
            break
        sequence = _drop_once(similarity, sequence, valid.to(sequence.device), drops)
        left = left - drops.clamp(min=0)
    marks = torch.zeros(features.shape[:2], dtype=torch.long, device=features.device)
    return marks.scatter_add_(1, sequence, valid.long().to(sequence.device))


def _drop_once(similarity: Tensor, sequence: Tensor, valid: Tensor, drops: Tensor) -> Tensor:
    """One round; what is dropped, and padding, comes last."""
    even, odd = sequence[:, 0::2], sequence[:, 1::2]
    pairs = similarity.gather(1, even[..., None].expand(-1, -1, similarity.shape[2]))
    pairs = pairs.gather(2, odd[:, None].expand(-1, even.shape[1], -1))
    best = pairs.masked_fill(~valid[:, None, 1::2], -torch.inf).amax(dim=-1)
    rank = rank_scores(best.masked_fill(~valid[:, 0::2], -torch.inf))
    last = sequence.shape[1]
    keys = torch.empty_like(sequence)
    keys[:, 0::2] = torch.where(rank < drops.to(rank.device)[:, None], last, rank)
    keys[:, 1::2] = even.shape[1] + torch.arange(odd.shape[1], device=sequence.device)
    keys = keys.masked_fill(~valid, last)
    return sequence.gather(1, keys.argsort(dim=1, stable=True))


@register("vispruner", settings=HEAD_MEAN)
def keep_important_and_diverse(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the best-scored patches and, of the others, those left when doubles are dropped.

    ``outlier_share`` is the share kept for its score: rounded down, at least one patch; 1 gives
    ``fastervlm``.

    Source: released code: block 22 of CLIP ViT-L/14, mean over heads, half of the budget by score,
    raster order.
    """
    counts = counts_to_keep(encoded, settings)
    important = (settings.outlier_share * counts).long().clamp(min=1)
    ranks = rank_scores(encoded.scores)
    chosen = ranks < important[:, None]
    # The others by falling score: the first places of a sequence that has the chosen ones last.
    sequence = (ranks + chosen * ranks.shape[1]).argsort(dim=1)
    number = torch.stack([ranks.shape[1] - important, counts - important]).cpu()
    diverse = drop_duplicates(encoded.features, sequence, number[0], number[1])
    return send(encoded, settings, torch.where(chosen, OUTLIER, diverse * DISTINCT))
