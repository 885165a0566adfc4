"""Which patches are alike: similarity of keys, and the nearest of them.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture
    kept     kept patches of the picture that keeps most; shorter pictures are padded
    depth    width of keys, width: width of anything else

Source: LLaVA-PruMerge, arXiv 2403.15388, step "token supplement" (TS), nearest neighbours.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize


def nearest(
    similarity: Float[Tensor, "images kept patches"],
    allowed: Bool[Tensor, "images kept patches"],
    neighbours: int,
) -> tuple[Int64[Tensor, "images kept neighbours"], Bool[Tensor, "images kept neighbours"]]:
    """Find the most similar allowed patches of each kept one.

    Args:
        similarity: Of each kept patch to every patch; larger is nearer, no unit.
        allowed: Patches that may be a neighbour.
        neighbours: Patches to find per kept one, at least 1; no more than there are patches.

    Returns:
        The patches, in no particular order, and True where one is allowed: where too few are,
        others fill up. Among equally similar patches the first ones in the raster are found.

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
    """Compare the keys of kept patches with those of all patches.

    Args:
        keys: Keys of one encoder block, heads side by side.
        order: Kept patches.
        kind: ``"cosine"`` or ``"dot"``.

    Returns:
        Similarities in float32.

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
