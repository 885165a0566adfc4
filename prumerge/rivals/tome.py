"""ToMe behind the encoder: merge patches with alike keys, pair by pair, until few enough are left.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture
    slots    tokens left in the picture that has most; shorter pictures are padded
    depth    of the averaged keys

Source: ToMe, "Token Merging: Your ViT But Faster" (ICLR 2023), bipartite soft matching. Derived
from the published rule alone; no code of its authors was used.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import DISTINCT, Reduction, arrange, rank_scores
from prumerge.rivals.shared import PLAIN, counts_to_keep, cut, members
from prumerge.settings import Settings
from prumerge.supplement import weighted_sums


def merge_alike(
    keys: Float[Tensor, "images patches depth"],
    counts: Int64[Tensor, " images"],
    most: int | None = None,
) -> Int64[Tensor, "images patches"]:
    """Decide for each patch which one it is merged into.

    In rounds: tokens at even places (the first, the third, ...) each look for the most alike token
    at an odd place; the pairs most alike of all merge, several even ones possibly into the same
    odd one; tokens that are left keep their order. A round merges as many pairs as are wanted, at
    most ``most`` and half of the tokens. Merged tokens are compared by the mean key of all their
    patches.
    Exactly ``counts`` patches of a picture go into themselves; ``most`` None allows half of the
    tokens.

    Source:
        Paper, bipartite soft matching; sizes weigh the means there too, which makes a token the
        plain mean of its patches.

    Example:
        >>> keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 1.0]]])
        >>> merge_alike(keys, torch.tensor([2])).tolist()
        [[3, 1, 1, 3]]
    """
    places = torch.arange(keys.shape[1], device=keys.device)
    owner = places.expand(keys.shape[:2]).contiguous()
    most = keys.shape[1] if most is None else most
    left, longest = torch.full_like(counts, keys.shape[1]), keys.shape[1]
    fewest, widest = [int(count) for count in counts.aminmax()] if len(counts) else [longest] * 2
    while longest > fewest:
        width = max(longest, widest)
        slots = (owner != places).long().argsort(dim=1, stable=True)[:, :width]
        valid = torch.arange(width, device=keys.device) < left[:, None]
        after = torch.maximum(counts, left - (left // 2).clamp(max=most))
        owner = _merge_once(keys, owner, slots, valid, left - after)
        left, longest = after, longest - min(longest // 2, most)
    return owner


def _merge_once(keys: Tensor, owner: Tensor, slots: Tensor, valid: Tensor, pairs: Tensor) -> Tensor:
    """One round: ``pairs`` tokens at even places go into their most alike token at an odd one."""
    patches = members(owner, slots).to(keys.dtype)  # [images slots patches]
    mean = (patches @ keys) / patches.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = normalize(mean, dim=-1)
    similarity = mean[:, 0::2] @ mean[:, 1::2].transpose(1, 2)
    similarity = similarity.masked_fill(~valid[:, None, 1::2], -torch.inf)
    best, partner = similarity.max(dim=-1)
    best = best.masked_fill(~valid[:, 0::2], -torch.inf)
    merges = rank_scores(best) < pairs[:, None]
    even, odd = slots[:, 0::2], slots[:, 1::2]
    into = torch.where(merges, odd.gather(1, partner), even)
    target = torch.arange(keys.shape[1], device=keys.device).expand_as(owner).contiguous()
    return target.scatter_(1, even, into).gather(1, owner)


@register("tome", settings=PLAIN)
def merge_tokens(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the means of groups of patches with alike keys.

    A token stands where the patch stands that the others were merged into. Scores do not take
    part; without a budget the fence on them says how many tokens. ``neighbours`` and
    ``extra_token`` are not read.

    Args:
        encoded: Features, keys and their heads.
        settings: The budget and ``merges_per_round`` are read; ``key_layer`` where pictures are
            encoded.

    Returns:
        Exactly the budget. Every patch goes into exactly one token.

    Source:
        Published: 16 merges in every block of the encoder, where later attention knows the sizes
        of tokens (:mod:`prumerge.rivals.tome_in_encoder`). Here half of the tokens a round, unless
        ``merges_per_round`` says fewer, and behind it: keys are those the features themselves
        give, carried along as means instead of computed anew, and the language model sees a token
        of many patches as one.
    """
    counts = counts_to_keep(encoded, settings)
    owner = merge_alike(encoded.head_mean_keys, counts, settings.merges_per_round)
    return send_groups(encoded, settings, encoded.features, owner)


def send_groups(
    encoded: Encoded,
    settings: Settings,
    features: Float[Tensor, "images patches width"],
    owner: Int64[Tensor, "images patches"],
) -> Reduction:
    """Send the mean of each group of patches, in raster order of the patches they stand at."""
    places = torch.arange(owner.shape[1], device=owner.device)
    reason = ((owner == places) * DISTINCT).to(torch.int8)
    selection = arrange(reason, encoded.scores, settings)
    order = selection.order.clamp(min=0)
    weights = members(owner, order).float()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return cut(selection, weighted_sums(features, weights).to(features.dtype))
