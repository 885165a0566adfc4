"""Down-sampled features: the picture is cut into equal rectangles, each sends its mean.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, rows x columns, row after row
    kept     tokens of the picture that sends most

Source: a customary baseline (average pooling), hard to beat in VTC-Bench, arXiv 2510.07143.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction, arrange
from prumerge.rivals.shared import PLAIN, counts_to_keep, cut
from prumerge.settings import Settings
from prumerge.spatial import keep_lattice
from prumerge.supplement import weighted_sums


def area_weights(
    marks: Bool[Tensor, "images rows columns"], order: Int64[Tensor, "images kept"]
) -> Float[Tensor, "images kept patches"]:
    """Return which share of a token comes from which patch.

    The picture is cut into as many bands of equal height as there are marked rows, and each band
    into as many cells of equal width as it has marks. A cell that covers part of a patch takes it
    in that proportion.
    The row of each marked patch sums to 1.

    Example:
        >>> marks = torch.tensor([[[False, True, False]]])
        >>> area_weights(marks, torch.tensor([[1]])).tolist()
        [[[0.3333, 0.3333, 0.3333]]]
    """
    _, rows, columns = marks.shape
    used = marks.any(dim=2)
    row = order // columns
    cells = marks.sum(dim=2).gather(1, row).clamp(min=1)
    band = (used.cumsum(dim=1) - 1).gather(1, row)
    cell = (marks.cumsum(dim=2) - 1).flatten(1).gather(1, order)
    down = _overlap(band, used.sum(dim=1, keepdim=True).clamp(min=1), rows)
    across = _overlap(cell, cells, columns)
    weights = (down[..., :, None] * across[..., None, :]).flatten(2)
    return weights / weights.sum(dim=-1, keepdim=True)


def _overlap(index: Tensor, parts: Tensor, length: int) -> Tensor:
    """How much of each of ``length`` places lies in part ``index`` of ``parts`` equal ones."""
    start = torch.arange(length, device=index.device)
    low, high = index * length / parts, (index + 1) * length / parts
    ends = torch.minimum(high[..., None], start + 1) - torch.maximum(low[..., None], start)
    return ends.clamp(min=0)


@register("down_sampled", settings=PLAIN)
def pool_features(encoded: Encoded, settings: Settings) -> Reduction:
    """Send means of the features in equal rectangles.

    Args:
        encoded: Features and grid.
        settings: The budget is read; ``neighbours`` and ``extra_token`` are not.

    Returns:
        Exactly the budget: where it is no product of two numbers, some bands have one cell more
        than others. A token stands at the patch in the middle of its cell.

    Source:
        Own choice of cells: pooling to the nearest rectangular grid, as others do, would miss most
        budgets. Where the cells are whole patches, both are the same.
    """
    marks = keep_lattice(counts_to_keep(encoded, settings), encoded.grid)
    selection = arrange((marks * SPATIAL).to(torch.int8), encoded.scores, settings)
    order = selection.order.clamp(min=0)
    weights = area_weights(marks.unflatten(1, encoded.grid), order)
    return cut(selection, weighted_sums(encoded.features, weights).to(encoded.features.dtype))
