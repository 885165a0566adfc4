"""What the rivals share: how many tokens to send, and how to send them.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    kept     kept patches of the picture that keeps most; shorter pictures are padded
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor
from torch.nn.functional import normalize

from prumerge.encoder import Encoded
from prumerge.outliers import count_outliers
from prumerge.reduction import Reduction, Selection, reduce_to
from prumerge.settings import Settings

PLAIN = Settings(neighbours=0, extra_token=False, order="raster")
# The block that made the features: in LLaVA-1.5 number 22 of 24, from 0.
HEAD_MEAN = PLAIN.with_changes(score="head_mean", score_layer=-2, key_layer=-2)


def counts_to_keep(encoded: Encoded, settings: Settings) -> Int64[Tensor, " images"]:
    """Return patches to keep per picture: the budget, or as many tokens as PruMerge would send.

    Args:
        encoded: What the encoder says.
        settings: The budget, or whisker and quartiles, are read.

    Returns:
        Counts between 1 and the number of patches, one per picture.
    """
    images, patches = encoded.scores.shape
    total = settings.patches_of(patches)
    if total is not None:
        return torch.full((images,), total, device=encoded.scores.device)
    # PruMerge adds one token for the dropped patches; a rival without one keeps a patch more.
    found = count_outliers(encoded.scores, settings).clamp(min=1)
    return found if settings.extra_token else (found + 1).clamp(max=patches)


def send(
    encoded: Encoded, settings: Settings, kept: Bool[Tensor, "images patches"], why: int
) -> Reduction:
    """Send the kept patches; ``neighbours`` and ``extra_token`` of the settings still apply.

    Args:
        encoded: What the encoder says.
        settings: Order, merging and extra token are read.
        kept: Patches that stay.
        why: Their common reason, such as ``OUTLIER``.

    Returns:
        The reduction.
    """
    reason = (kept * why).to(torch.int8)
    return send_for(encoded, settings, reason)


def send_for(
    encoded: Encoded, settings: Settings, reason: Int8[Tensor, "images patches"]
) -> Reduction:
    """Send the patches that have a reason; like :func:`send` with a reason for each."""
    return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)


def members(
    owner: Int64[Tensor, "images patches"], order: Int64[Tensor, "images kept"]
) -> Bool[Tensor, "images kept patches"]:
    """Mark the patches that go into each token.

    Args:
        owner: For each patch the kept one it goes into; -1 for none.
        order: Kept patches.

    Returns:
        True where a patch goes into a token.
    """
    return owner[:, None, :] == order[..., None]


def at_hand(again: Callable[..., Any] | None, name: str) -> Callable[..., Any]:
    """Refuse what was built by hand where a method encodes the pictures again.

    Args:
        again: ``at_grid`` or ``rerun`` of an :class:`prumerge.encoded.Encoded`.
        name: The method.

    Returns:
        The same.

    Raises:
        ValueError: If the pictures are not at hand.
    """
    if again is None:
        raise ValueError(
            f"{name} encodes the pictures again, and this Encoded holds none: "
            "make it with prumerge.encode"
        )
    return again


def behind_projector(encoded: Encoded) -> Float[Tensor, "images patches width"]:
    """Return the features in the language model's space, or the encoder's where it has no model."""
    return encoded.features if encoded.project is None else encoded.project(encoded.features)


def cosines(
    values: Float[Tensor, "images patches width"],
) -> Float[Tensor, "images patches patches"]:
    """Compare all patches of a picture with each other, by cosine, in float32."""
    # Which patches are alike is a decision: no gradient passes through it.
    directions = normalize(values.detach().float(), dim=-1)
    similarity = directions @ directions.transpose(1, 2)
    similarity.diagonal(dim1=1, dim2=2).fill_(1)  # rounding must not tell equals apart
    return similarity


def keep_first(
    order: Int64[Tensor, "images picks"], counts: Int64[Tensor, " images"], patches: int
) -> Bool[Tensor, "images patches"]:
    """Mark the first picks of a greedy search.

    Args:
        order: Patches in the order in which they were picked, none twice.
        counts: Picks to mark per picture, at most ``picks``.
        patches: Visual tokens of one picture.

    Returns:
        True at as many patches as ``counts`` says.

    Example:
        >>> keep_first(torch.tensor([[3, 0, 2]]), torch.tensor([2]), 4).int().tolist()
        [[1, 0, 0, 1]]
    """
    turn = torch.arange(order.shape[1], device=order.device)
    kept = torch.zeros(len(order), patches, dtype=torch.bool, device=order.device)
    return kept.scatter_(1, order, turn < counts[:, None])


def cut(selection: Selection, tokens: Float[Tensor, "images kept width"]) -> Reduction:
    """Cut padded tokens apart, one per kept patch.

    Args:
        selection: Kept patches in the order of the tokens.
        tokens: One row per entry of ``selection.order``.

    Returns:
        The reduction.
    """
    lengths = selection.counts.tolist()
    rows = zip(tokens, selection.order, lengths, strict=True)
    pairs = [(row[:length], places[:length]) for row, places, length in rows]
    return Reduction([row for row, _ in pairs], [places for _, places in pairs], selection)
