"""ToMe: merge patches with alike keys, pair by pair, behind the encoder or in its blocks.

Shapes
    tokens   tokens in a block, the class token first where there is one
    slots    tokens left in the picture that has most, or after a block's merge
    depth    of the averaged keys, or of one head

Source: ToMe, "Token Merging: Your ViT But Faster" (ICLR 2023), bipartite soft matching. Derived
from the published rule alone; no code of its authors was used.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from prumerge.encoder import Encoded, hidden_states
from prumerge.methods import register
from prumerge.reduction import DISTINCT, Reduction, arrange, rank_scores
from prumerge.rivals.shared import PLAIN, at_hand, counts_to_keep, cut, members
from prumerge.settings import Settings
from prumerge.supplement import weighted_sums
from prumerge.tower import Tower, open_tower


def merge_alike(
    keys: Float[Tensor, "images patches depth"],
    counts: Int64[Tensor, " images"],
    most: int | None = None,
) -> Int64[Tensor, "images patches"]:
    """Decide for each patch which one it is merged into; ``counts`` patches go into themselves.

    In rounds: tokens at even places (the first, the third, ...) each look for the most alike token
    at an odd place; the pairs most alike of all merge, several even ones possibly into the same
    odd one; tokens that are left keep their order. A round merges as many pairs as are wanted, at
    most ``most`` (None: any number) and half of the tokens. Merged tokens are compared by the mean
    key of all their patches.

    Source: paper, bipartite soft matching; sizes weigh the means there too, which makes a token the
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


@register("tome", settings=PLAIN.with_changes(merges_per_round=16))
def merge_tokens(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the means of groups of patches with alike keys.

    Every patch goes into exactly one token, which stands where the patch stands that the others
    were merged into. Scores do not take part; without a budget the fence on them says how many
    tokens. ``neighbours`` and ``extra_token`` are not read.

    Source: published are 16 merges in every block of the encoder, where later attention knows the
    sizes of tokens (``tome_in_encoder``). Here 16 a round, and behind it: keys are those the
    features themselves give, carried along as means instead of computed anew, and the language
    model sees a token of many patches as one.
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


def merges_per_block(merges: int, blocks: int) -> list[int]:
    """Spread merges over blocks, as evenly as can be, more in the first ones.

    Source: paper: the same number in each block, 16 by default in the authors' examples; 22 or 23
    bring the 23 blocks of LLaVA-1.5 from 576 patches to 64 tokens.

    Example:
        >>> merges_per_block(576 - 64, 5)
        [103, 103, 102, 102, 102]
    """
    return [(merges - block - 1) // blocks + 1 for block in range(blocks)]


def match_pairs(
    keys: Float[Tensor, "images tokens depth"], pairs: int, first: int
) -> Int64[Tensor, "images tokens"]:
    """Return the place of each token when the most alike pairs have merged.

    Tokens at even places each look for the most alike token at an odd place, by cosine; the
    ``pairs`` most alike of all go there. What is left of the even ones comes first afterwards, then
    the odd ones, both in their order. ``first`` is 1 where the first token is the class token,
    which is never merged; else 0.

    Source: paper, bipartite soft matching; the two sets are put behind each other at its end.

    Example:
        >>> keys = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.5]]])
        >>> match_pairs(keys, pairs=1, first=1).tolist()
        [[0, 2, 2, 3, 1]]
    """
    directions = normalize(keys.float(), dim=-1)
    best, partner = (directions[:, 0::2] @ directions[:, 1::2].transpose(1, 2)).max(dim=-1)
    best[:, :first] = -torch.inf
    merging = rank_scores(best) < pairs
    left = best.shape[1] - pairs
    places = torch.empty(keys.shape[:2], dtype=torch.int64, device=keys.device)
    places[:, 0::2] = torch.where(merging, left + partner, (~merging).cumsum(dim=1) - 1)
    places[:, 1::2] = left + torch.arange(places[:, 1::2].shape[1], device=keys.device)
    return places


def attend(
    tower: Tower, block: nn.Module, normed: Float[Tensor, "images tokens width"], sizes: Tensor
) -> tuple[Float[Tensor, "images tokens width"], Float[Tensor, "images tokens depth"]]:
    """Let tokens attend to each other, a token of many patches as if it were many.

    Source: paper, proportional attention: the logarithm of a token's size is added to its logits.
    """
    attention = tower.attention(block)
    query, key, value = (
        project(normed).unflatten(-1, (tower.heads, -1)).transpose(1, 2)
        for project in (attention.queries, attention.keys, attention.value)
    )
    more = sizes.log().to(query.dtype)[:, None, None]
    output = scaled_dot_product_attention(query, key, value, attn_mask=more)
    return attention.output(output.transpose(1, 2).flatten(2)), key.mean(dim=1)


class Tokens(NamedTuple):
    """What a block works on, and what is in it."""

    hidden: Float[Tensor, "images tokens width"]
    sizes: Float[Tensor, "images tokens"]  # patches in each
    stands: Int64[Tensor, "images tokens"]  # where the patch stood that the others went to
    slot: Int64[Tensor, "images patches"]  # which token each patch is in


def merge_pairs(
    tokens: Tokens, keys: Float[Tensor, "images tokens depth"], merges: int, most: int, first: int
) -> Tokens:
    """Merge tokens in rounds, in each at most ``most`` pairs and half of the patches, to means."""
    hidden, sizes, stands, slot = tokens
    while merges:
        pairs = min(merges, most, (sizes.shape[1] - first) // 2)
        places = match_pairs(keys, pairs, first)
        turn = torch.arange(places.shape[1], device=hidden.device)
        goes = places[:, None] == turn[: len(turn) - pairs, None]  # [images slots tokens]
        stands = stands.gather(1, (goes * (1 + turn % 2)).argmax(dim=-1))  # where the odd stood
        weights = goes * sizes[:, None]
        sizes = weights.sum(dim=-1)
        shares = weights / sizes[..., None]
        hidden = weighted_sums(hidden, shares).to(hidden.dtype)
        keys = weighted_sums(keys, shares)
        slot = places.gather(1, slot)
        merges -= pairs
    return Tokens(hidden, sizes, stands, slot)


def merge_in_blocks(
    count: int, most: int | None, tower: nn.Module, pixel_values: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    """Encode and merge; return the feature and the place of the token that each patch went into."""
    opened = open_tower(tower)
    hidden, first = hidden_states(opened, pixel_values, {0})[0], opened.first
    places = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
    tokens = Tokens(hidden, torch.ones_like(places, dtype=torch.float32), places, places[:, first:])
    if not layer:
        raise ValueError(
            "tome_in_encoder merges in the blocks before the features, and feature layer 0 has "
            "none: use tome"
        )
    merges = merges_per_block(places.shape[1] - first - count, layer)
    for block, pairs in zip(opened.blocks, merges, strict=False):
        parts = opened.parts(block)
        change, keys = attend(opened, block, parts.norm(tokens.hidden), tokens.sizes)
        tokens = tokens._replace(hidden=tokens.hidden + parts.scale(change))
        tokens = merge_pairs(tokens, keys, pairs, most or places.shape[1], first)
        change = parts.scale_after(parts.mlp(parts.norm_after(tokens.hidden)))
        tokens = tokens._replace(hidden=tokens.hidden + change)
    rows = tokens.slot[..., None].expand(-1, -1, hidden.shape[-1])
    return tokens.hidden.gather(1, rows), tokens.stands.gather(1, tokens.slot) - first


@register("tome_in_encoder", settings=PLAIN.with_changes(merges_per_round=16), encodes_again=True)
def merge_while_encoding(encoded: Encoded, settings: Settings) -> Reduction:
    """Send what the encoder makes of pictures whose tokens it merges block by block.

    Merges are spread evenly over the blocks; one that has to merge more than ``merges_per_round``
    does so in several rounds, keys carried along as means. A token stands at one of its patches.
    Where nothing is merged, features stay as they are. ValueError if ``encoded`` was built by hand
    (the encoder runs again), or if tokens are to be merged where no block runs before the features.

    Source: paper; one round per block there, which is what happens here with 16 merges a block or
    fewer. An encoder of few blocks needs more of them, and half of all tokens merged at once are no
    longer alike. The class token, which the language model never sees, is not merged. Encoding
    twice, as here, makes timings of this method an upper bound; alone it makes the encoder faster.
    """
    again = at_hand(encoded.rerun, "tome_in_encoder")
    counts = counts_to_keep(encoded, settings)
    patches = encoded.scores.shape[1]
    features, owner = encoded.features.clone(), torch.arange(patches, device=counts.device)
    owner = owner.expand(len(counts), -1).contiguous()
    for count in set(counts.tolist()) - {patches}:
        chosen = (counts == count).nonzero().flatten()
        run = functools.partial(merge_in_blocks, count, settings.merges_per_round)
        found, owner[chosen] = again(run, chosen)
        features[chosen] = found.to(features.dtype)
    return send_groups(encoded, settings, features, owner)
