"""How unevenly attention is spread over the patches, and how much of a picture kept ones see.

:func:`top_share`, :func:`gini` and :func:`effective_patches` take scores of any scale, at least 0
and not all zero, and divide them by their sum. Leading axes are kept, so one call measures all
blocks, pictures and heads. ``patches`` are a picture's visual tokens, row after row.

Source: LLaVA-PruMerge, arXiv 2403.15388, shows sparsity as a plot; the measures are common ones.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from prumerge.encoder import hidden_states
from prumerge.tower import Tower, open_tower


def top_share(scores: Float[Tensor, "*rows patches"], share: float = 0.1) -> Float[Tensor, "*rows"]:
    """Return how much of the attention the best-scored patches hold.

    ``share``, in (0, 1], of the patches count as best, rounded to whole patches, at least one. The
    result is in [``share``, 1], up to that rounding: 0.1 for an even spread.

    Example:
        >>> top_share(torch.tensor([0.0, 0.0, 1.0, 3.0]), share=0.25)
        tensor(0.7500)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    best = max(1, round(share * scores.shape[-1]))
    return _shares(scores).topk(best, dim=-1).values.sum(dim=-1)


def gini(scores: Float[Tensor, "*rows patches"]) -> Float[Tensor, "*rows"]:
    """Return the Gini coefficient of the attention.

    Half the mean distance between the shares of two patches, over the mean share: 0 for an even
    spread, ``1 - 1 / patches`` for all on one patch.

    Example:
        >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
        tensor([0.0000, 0.7500])
    """
    rising = _shares(scores).sort(dim=-1).values
    patches = rising.shape[-1]
    places = torch.arange(1, patches + 1, device=rising.device)
    return ((2 * places - patches - 1) * rising).sum(dim=-1) / patches


def effective_patches(scores: Float[Tensor, "*rows patches"]) -> Float[Tensor, "*rows"]:
    """Return the exponential of the entropy: all patches for an even spread, 1 for all on one.

    Example:
        >>> effective_patches(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
        tensor([4.0000, 1.0000])
    """
    return torch.special.entr(_shares(scores)).sum(dim=-1).exp()


@torch.no_grad()
def head_attention(
    vision_tower: nn.Module,
    pixel_values: Float[Tensor, "images channels height width"],
    batch_size: int = 16,
) -> Float[Tensor, "blocks images heads patches"]:
    """Return the attention that the class token pays to each patch, in every block and head.

    The encoder's own attention, of which only the class token's row is computed again; its
    attention to itself is left out, so that a row sums to less than 1. Block i reads hidden state
    i. Probabilities are in float32 on the CPU; ``batch_size`` is a matter of memory alone. An
    encoder of an unknown build, or without class token, is a ValueError.
    """
    tower = open_tower(vision_tower)
    if not tower.has_class:
        raise ValueError(
            f"{type(vision_tower).__name__} has no class token whose attention could be read: "
            "measure the scores of encode(..., Settings(score='received')) instead"
        )
    parts, grid = [], tower.grid(pixel_values)
    for part in pixel_values.split(batch_size):
        states = hidden_states(tower, part, set(range(len(tower.blocks))))
        rows = [_class_row(tower, block, states[i], grid) for i, block in enumerate(tower.blocks)]
        parts.append(torch.stack(rows).cpu())
    return torch.cat(parts, dim=1)


def heads_as_one(
    attention: Float[Tensor, "*rows heads patches"],
) -> Float[Tensor, "*rows patches"]:
    """Return the released score of patches from the attention of each head, each row summing to 1.

    The release multiplies queries and keys over all heads at once, which adds up their logits at
    the scale of the full width: a score is the product of what the heads pay, to the power
    ``heads ** -0.5``. Equal to ``Settings(score="full_width")``, whose rows sum to less than 1.

    Example:
        >>> heads_as_one(torch.tensor([[0.1, 0.2]] * 4))
        tensor([0.2000, 0.8000])
    """
    logits = attention.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    return (logits.sum(dim=-2) * attention.shape[-2] ** -0.5).softmax(dim=-1)


def _class_row(tower: Tower, block: nn.Module, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the class token's attention to the patches in one block, [images, heads, patches]."""
    layer, normed = tower.attention(block), tower.norm(block)(hidden)
    query = layer.queries(normed[:, 0]).float().unflatten(-1, (tower.heads, -1))
    keys = tower.turned(layer.keys(normed), grid).float().unflatten(-1, (tower.heads, -1))
    logits = torch.einsum("ihd,ikhd->ihk", query, keys) * query.shape[-1] ** -0.5
    return logits.softmax(dim=-1)[..., tower.first :]


def _shares(scores: Tensor) -> Tensor:
    scores = scores.float()
    total = scores.sum(dim=-1, keepdim=True)
    if not torch.isfinite(scores).all() or (scores < 0).any() or (total == 0).any():
        raise ValueError("scores must be finite, at least 0 and not all zero")
    return scores / total


def distance_to_kept(
    kept: Bool[np.ndarray, "images patches"], grid: tuple[int, int]
) -> Float[np.ndarray, "images patches"]:
    """Measure how far each patch is from the nearest kept one, of which each picture needs one.

    Distances between the middles of patches, in patches: 0 where one is kept, 1 beside it.

    Example:
        >>> distance_to_kept(np.array([[True, False, False, False]]), (2, 2)).round(1).tolist()
        [[0.0, 1.0, 1.0, 1.4]]
    """
    if not kept.any(axis=1).all():
        raise ValueError(f"picture {kept.any(axis=1).argmin()} keeps no patch: no distance to it")
    maps = [distance_transform_edt(~row.reshape(grid)).ravel() for row in kept]
    return np.array(maps, dtype=float).reshape(kept.shape)


def share_of_objects(
    kept: Bool[np.ndarray, " patches"], owner: Integer[np.ndarray, "rows columns"]
) -> float:
    """Return which share of a picture's objects has a kept patch; NaN where there is no object.

    ``owner`` has the number of the object on each patch, from 1; 0 for the ground.

    Example:
        >>> share_of_objects(np.array([True, False, False, False]), np.array([[1, 2], [2, 0]]))
        0.5
    """
    objects = np.unique(owner[owner > 0])
    seen = np.unique(owner.ravel()[kept & (owner.ravel() > 0)])
    return len(seen) / len(objects) if len(objects) else float("nan")
