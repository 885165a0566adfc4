"""Token supplement: what the dropped patches give to the kept ones.

Keys say which patches are alike. Each kept patch takes up the features of its nearest neighbours,
weighted by their attention; one extra token may carry what all dropped patches hold together.
All sums are weighted sums of the *original* features (D15), so no patch has to wait for another.

    key_similarity  cosine or dot product of keys
    nearest         the most alike patches of each kept one
    merge           their features added
    extra_token     the dropped patches in one token

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture
    kept     kept patches of the picture that keeps most; shorter pictures are padded
    depth    width of keys, width: width of features

Source: LLaVA-PruMerge, arXiv 2403.15388, step "token supplement" (TS).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import embedding_bag, normalize

from prumerge.settings import Settings


def nearest(
    similarity: Float[Tensor, "images kept patches"],
    allowed: Bool[Tensor, "images kept patches"],
    neighbours: int,
) -> tuple[Int64[Tensor, "images kept neighbours"], Bool[Tensor, "images kept neighbours"]]:
    """Find the most similar allowed patches of each kept one, in no particular order.

    Larger is nearer. The second result is True where a patch is allowed: where too few are, others
    fill up, but never more than there are patches. Of equally similar patches the first ones in the
    raster are found.

    Example:
        >>> similarity = torch.tensor([[[0.2, 0.9, 0.2, 0.2]]])
        >>> sorted(nearest(similarity, similarity < 1, neighbours=2)[0].flatten().tolist())
        [0, 1]
    """
    ranks = _order_like(similarity.masked_fill(~allowed, -torch.inf))
    wanted = min(neighbours, ranks.shape[-1])
    places = ranks.topk(wanted, dim=-1, sorted=False).indices
    return places, allowed.gather(-1, places)


def _order_like(values: Float[Tensor, "... patches"]) -> Int64[Tensor, "... patches"]:
    """Turn values, which are overwritten, into whole numbers of the same order, none equal.

    Of equal values the first has the larger number. topk breaks ties as it likes, differently on
    each device; here it finds none.
    """
    bits = values.add_(0.0).view(torch.int32)  # -0 + 0 is 0
    bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFFFFFF))  # negative floats count backwards
    from_the_end = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    return bits.long().bitwise_left_shift_(32).bitwise_or_(from_the_end)


def key_similarity(
    keys: Float[Tensor, "images patches depth"],
    order: Int64[Tensor, "images kept"],
    kind: str = "cosine",
) -> Float[Tensor, "images kept patches"]:
    """Compare the keys of kept patches with those of all patches, in float32.

    ``kind`` is ``"cosine"`` or ``"dot"``; one block's keys stand with their heads side by side.

    Source:
        D6: cosine in the release, dot product in the paper. They rank alike only where all keys
        are equally long.
    """
    keys = keys.float()
    kept = take(keys, order)
    if kind == "dot":
        return kept @ keys.transpose(1, 2)
    # Dividing the products by the lengths spares a copy of all keys.
    lengths = vector_norm(keys, dim=-1).clamp(min=1e-12)
    return (normalize(kept, dim=-1) @ keys.transpose(1, 2)).div_(lengths[:, None])


def take(
    values: Float[Tensor, "images patches width"], order: Int64[Tensor, "images kept"]
) -> Float[Tensor, "images kept width"]:
    """Pick the rows of ``values`` that ``order`` names, in its order."""
    images = torch.arange(len(order), device=order.device)
    return values[images[:, None], order]  # whole rows: gather would pick number by number


def merge_weights(
    similarity: Float[Tensor, "images kept patches"],
    scores: Float[Tensor, "images patches"],
    order: Int64[Tensor, "images kept"],
    candidates: Bool[Tensor, "images patches"],
    neighbours: int = 32,
    normalise: bool = False,
) -> tuple[Int64[Tensor, "images kept neighbours"], Float[Tensor, "images kept neighbours"]]:
    """Return which patches are added to each kept one, and how much of each.

    The weight of a neighbour is its own attention score; ``normalise`` divides the weights of each
    kept patch by their sum. No patch is its own neighbour. Where there are too few candidates,
    other patches fill up, with weight zero.

    Source:
        Paper, sum of the token supplement; D7 to D9. One patch may be merged into many: the
        "clusters" are no partition.
    """
    patches = torch.arange(scores.shape[1], device=scores.device)
    allowed = candidates[:, None, :] & (patches != order[..., None])
    near, found = nearest(similarity, allowed, neighbours)
    every = scores.float()[:, None].expand(-1, near.shape[1], -1)
    weights = every.gather(2, near) * found
    return near, _normalised(weights) if normalise else weights


def weighted_sums(
    features: Float[Tensor, "images patches width"],
    weights: Float[Tensor, "images kept patches"],
) -> Float[Tensor, "images kept width"]:
    """Sum the features of each picture under every row of weights, in float32 at least.

    Example:
        >>> weighted_sums(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.5, 0.25]]])).tolist()
        [[[1.0]]]
    """
    # Halves lose the small weights of far neighbours.
    precise = torch.promote_types(features.dtype, torch.float32)
    return weights.to(precise) @ features.to(precise)


def extra_token(
    features: Float[Tensor, "images patches width"],
    scores: Float[Tensor, "images patches"],
    dropped: Bool[Tensor, "images patches"],
    normalise: bool = False,
) -> Float[Tensor, "images width"]:
    """Sum the features of all dropped patches, weighted by their attention.

    ``normalise`` divides by the sum of the weights. The token is zero where nothing is dropped.

    Source:
        D10: in the release only, without normalisation (lines 168-169). It is as long as the
        dropped attention mass makes it.

    Example:
        >>> features = torch.tensor([[[1.0], [2.0], [4.0]]])
        >>> scores = torch.tensor([[0.5, 0.25, 0.25]])
        >>> extra_token(features, scores, torch.tensor([[False, True, True]])).tolist()
        [[1.5]]
    """
    weights = scores.float() * dropped
    weights = _normalised(weights) if normalise else weights
    return weighted_sums(features, weights[:, None])[:, 0].to(features.dtype)


def merge(
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    order: Int64[Tensor, "images kept"],
    kept: Bool[Tensor, "images patches"],
    settings: Settings,
) -> Float[Tensor, "images kept width"]:
    """Give each kept patch the weighted features of its nearest neighbours.

    A merged token is ``w_p * y_p + sum_j w_j * y_j`` over the neighbours j of patch p, with
    features y and scores w, summed in at least float32; ``own_term`` says what the weight w_p is.
    Without neighbours (``neighbours=0``) the features come back bit for bit; a patch whose
    neighbours carry no weight at all, or that has none, stays as it is, whatever its own term.

    Args:
        order: Kept patches in the order wanted; rows padded with any patch.
        settings: ``similarity``, ``neighbours``, ``candidates``, ``own_term``,
            ``normalise_weights`` and ``merge_reads`` are read.

    Source:
        D6 to D9, D15. The release loops over tokens; the sums are the same.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
        >>> scores = torch.tensor([[0.6, 0.3, 0.1]])
        >>> kept = torch.tensor([[True, False, False]])
        >>> settings = Settings(neighbours=1)
        >>> merge(features, features, scores, torch.tensor([[0]]), kept, settings).tolist()
        [[[1.5, 0.5]]]
    """
    if settings.neighbours == 0:
        return take(features, order)
    # Which patches are alike is a decision: no gradient passes through it.
    similarity = key_similarity(keys.detach(), order, settings.similarity)
    candidates = ~kept if settings.candidates == "pruned" else torch.ones_like(kept)
    together = settings.own_term == "attention"  # the own weight is one of the sum's
    normalise = settings.normalise_weights and not together
    near, weights = merge_weights(
        similarity, scores, order, candidates, settings.neighbours, normalise
    )
    own = {"one": torch.ones_like, "none": torch.zeros_like}.get(settings.own_term, torch.clone)
    own = own(scores.float().gather(1, order)[..., None])
    own = own.masked_fill((weights == 0).all(dim=-1, keepdim=True), 1)
    near = torch.cat([order[..., None], near], dim=-1)
    weights = torch.cat([own, weights], dim=-1)
    weights = _normalised(weights) if settings.normalise_weights and together else weights
    tokens = _sums_of_few(features, near, weights)
    if settings.merge_reads == "merged":
        dense = weights.new_zeros(*near.shape[:2], features.shape[1]).scatter_add_(2, near, weights)
        tokens = _in_turn(tokens, take(features, order).to(tokens.dtype), dense, order)
    return tokens.to(features.dtype)


def _in_turn(tokens: Tensor, own: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """Let each token read the merged features of those before it (D15).

    With A the weights that earlier tokens have in later ones, the changes c = merged - own obey
    c = (tokens - own) + A c: one triangular system per picture.
    """
    earlier = weights.gather(2, order[:, None].expand(-1, order.shape[1], -1)).tril(-1)
    system = {"upper": False, "unitriangular": True}
    return own + torch.linalg.solve_triangular(-earlier.to(own.dtype), tokens - own, **system)


def _sums_of_few(features: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Sum few patches for each token: gathered and summed in one go, with no copy of them."""
    precise = torch.promote_types(features.dtype, torch.float32)
    table = features.to(precise).flatten(0, 1)  # the patches of all pictures, end to end
    first = torch.arange(0, len(table), features.shape[1], device=places.device)
    rows = (places + first[:, None, None]).flatten(0, 1)
    shares = weights.to(precise).flatten(0, 1)
    sums = embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
    return sums.unflatten(0, places.shape[:2])


def _normalised(weights: Tensor) -> Tensor:
    # Divided by a power of two first, which rounds nothing, so that no sum overflows.
    largest = weights.detach().abs().amax(dim=-1, keepdim=True)
    power = largest / (2 * torch.frexp(largest).mantissa)
    weights = weights / torch.where(largest == 0, 1, power)
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, 1, total)
