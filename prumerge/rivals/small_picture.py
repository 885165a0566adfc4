"""Down-sampling: a smaller picture, the same enlarged again, or means of neighbouring tokens.

``small_picture`` is the honest alternative to dropping tokens after a large picture was encoded,
and the cheaper one: the encoder saves work too. But it interpolates its position embeddings then,
and what is lost by that is no fault of the few pixels: ``enlarged_picture`` shows the same pixels
at the size the encoder was trained on, and so tells which questions a picture of that size can
answer at all. ``down_sampled`` averages features instead of pixels.

Source: customary baselines, hard to beat in VTC-Bench, arXiv 2510.07143, which splits questions by
whether a down-sampled picture suffices; the enlargement is our own, for encoders of one size.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prumerge.encoder import Encoded, hidden_states
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction, arrange
from prumerge.rivals.shared import PLAIN, at_hand, counts_to_keep, cut
from prumerge.settings import Settings
from prumerge.spatial import keep_even, keep_lattice
from prumerge.supplement import weighted_sums
from prumerge.tower import open_tower


def grid_within(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Return a smaller grid of about the same proportions with at most so many patches.

    It has ``floor(sqrt(tokens * rows / columns))`` rows, at least one, and as many columns as the
    tokens then allow; never more of either than ``grid`` has, nor more rows than tokens.

    Example:
        >>> grid_within(64, (24, 24)), grid_within(130, (24, 24)), grid_within(2, (24, 24))
        ((8, 8), (11, 11), (1, 2))
    """
    rows, columns = grid
    fewer_rows = min(max(math.isqrt(tokens * rows // columns), 1), rows, tokens)
    return fewer_rows, min(tokens // fewer_rows, columns)


@register("small_picture", settings=PLAIN, sends="at most", encodes_again=True)
def encode_smaller(encoded: Encoded, settings: Settings) -> Reduction:
    """Send all visual tokens of the picture shrunk to fit the budget.

    It is shrunk to the largest grid that fits, of about its proportions, and the encoder's position
    embeddings are interpolated to that. A token stands at the patch of the full picture in the
    middle of what it shows. Nothing of the full picture is used but, without a budget, its number
    of outliers. ``neighbours``, ``extra_token`` and ``order`` are not read. ValueError if
    ``encoded`` was built by hand: the pictures are not at hand.

    Source: models whose encoder takes any size are shown smaller pictures in VTC-Bench. CLIP was
    trained at one size, so interpolation costs it something (``enlarged_picture`` leaves that out);
    and encoding twice, as here, makes timings of this method an upper bound.
    """
    again = at_hand(encoded.at_grid, "small_picture")
    counts = counts_to_keep(encoded, settings).tolist()
    grids = [grid_within(count, encoded.grid) for count in counts]
    sides = torch.tensor(grids, dtype=torch.long, device=encoded.scores.device).reshape(-1, 2)
    marks = keep_even(sides[:, 0], encoded.grid[0])[:, :, None]
    marks = (marks & keep_even(sides[:, 1], encoded.grid[1])[:, None]).flatten(1)
    reason = (marks * SPATIAL).to(torch.int8)
    selection = arrange(reason, encoded.scores, settings)
    tokens = encode_each(encoded, grids, again)
    places = zip(selection.order, map(len, tokens), strict=True)
    return Reduction(tokens, [row[:length] for row, length in places], selection)


def encode_each(
    encoded: Encoded,
    grids: list[tuple[int, int]],
    again: Callable[[tuple[int, int], Tensor], Tensor],
) -> list[Float[Tensor, "_ _"]]:
    """Encode all pictures of one grid together; the full pictures' features serve the full grid."""
    tokens = {}
    for grid in dict.fromkeys(grids):
        chosen = [image for image, own in enumerate(grids) if own == grid]
        if grid == encoded.grid:
            tokens |= {image: encoded.features[image] for image in chosen}
        else:
            found = again(grid, torch.tensor(chosen)).to(encoded.features.dtype)
            tokens |= dict(zip(chosen, found, strict=True))
    return [tokens[image] for image in range(len(grids))]


def enlarged_features(
    grid: tuple[int, int], tower: nn.Module, pixel_values: Tensor, layer: int
) -> Tensor:
    """Encode pictures shrunk to a grid of patches, antialiased, and enlarged, both bilinear."""
    opened = open_tower(tower)
    size = [side * patch for side, patch in zip(grid, opened.patch_px, strict=True)]
    small = interpolate(pixel_values.float(), size=size, mode="bilinear", antialias=True)
    large = interpolate(small, size=pixel_values.shape[-2:], mode="bilinear")
    return hidden_states(opened, large, {layer})[layer][:, opened.first :]


@register("enlarged_picture", settings=PLAIN, sends="all", encodes_again=True)
def encode_enlarged(encoded: Encoded, settings: Settings) -> Reduction:
    """Send all visual tokens of the picture shrunk to fit the budget and enlarged again.

    Every patch is sent, whatever the budget, which is that of ``small_picture``: it is no way to
    save tokens, but says what tokens of a picture of that size could tell. Nothing of the full
    picture is used but, without a budget, its number of outliers. ValueError if ``encoded`` was
    built by hand: the pictures are not at hand.
    """
    again = at_hand(encoded.rerun, "enlarged_picture")
    grids = [
        grid_within(count, encoded.grid) for count in counts_to_keep(encoded, settings).tolist()
    ]
    tokens = encode_each(
        encoded,
        grids,
        lambda grid, chosen: again(functools.partial(enlarged_features, grid), chosen),
    )
    selection = arrange(
        torch.full_like(encoded.scores, SPATIAL, dtype=torch.int8), encoded.scores, settings
    )
    return Reduction(tokens, list(selection.order), selection)


def area_weights(
    marks: Bool[Tensor, "images rows columns"], order: Int64[Tensor, "images kept"]
) -> Float[Tensor, "images kept patches"]:
    """Return which share of a token comes from which patch; the row of each marked patch sums to 1.

    The picture is cut into as many bands of equal height as there are marked rows, and each band
    into as many cells of equal width as it has marks. A cell that covers part of a patch takes it
    in that proportion.

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

    Where the budget is no product of two numbers, some bands have one cell more than others. A
    token stands at the patch in the middle of its cell. ``neighbours`` and ``extra_token`` are not
    read.

    Source: own choice of cells: pooling to the nearest rectangular grid, as others do, would miss
    most budgets. Where the cells are whole patches, both are the same.
    """
    marks = keep_lattice(counts_to_keep(encoded, settings), encoded.grid)
    selection = arrange((marks * SPATIAL).to(torch.int8), encoded.scores, settings)
    order = selection.order.clamp(min=0)
    weights = area_weights(marks.unflatten(1, encoded.grid), order)
    return cut(selection, weighted_sums(encoded.features, weights).to(encoded.features.dtype))
