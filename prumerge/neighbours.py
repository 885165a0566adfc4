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
from torch.nn.functional import normalize


def nearest(
    similarity: Float[Tensor, "images kept patches"],
    allowed: Bool[Tensor, "images kept patches"],
    neighbours: int,
) -> Bool[Tensor, "images kept patches"]:
    """Mark the most similar allowed patches of each kept one.

    Args:
        similarity: Of each kept patch to every patch; larger is nearer, no unit.
        allowed: Patches that may be a neighbour.
        neighbours: Patches to mark per kept one, at least 1.

    Returns:
        True at ``neighbours`` patches, or at all allowed ones where there are fewer. Among
        equally similar patches the first ones in the raster are marked.

    Example:
        >>> similarity = torch.tensor([[[0.2, 0.9, 0.2, 0.2]]])
        >>> nearest(similarity, similarity < 1, neighbours=2).int().tolist()
        [[[1, 1, 0, 0]]]
    """
    similarity = similarity.masked_fill(~allowed, -torch.inf)
    wanted = min(neighbours, similarity.shape[-1])
    # The value of the last neighbour does not depend on how a device breaks ties; the patches do.
    last = similarity.topk(wanted, dim=-1).values[..., -1:]
    nearer = similarity > last
    tied = similarity == last
    places = wanted - nearer.sum(dim=-1, keepdim=True)
    return (nearer | (tied & (tied.cumsum(dim=-1, dtype=torch.int32) <= places))) & allowed


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
    if kind == "cosine":
        keys = normalize(keys, dim=-1)
    return take(keys, order) @ keys.transpose(1, 2)


def take(
    values: Float[Tensor, "images patches width"], order: Int64[Tensor, "images kept"]
) -> Float[Tensor, "images kept width"]:
    """Pick the rows of ``values`` that ``order`` names, in its order."""
    return values.gather(1, order[..., None].expand(-1, -1, values.shape[-1]))
