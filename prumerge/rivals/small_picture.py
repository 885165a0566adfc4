"""Down-sampled picture: show the encoder fewer pixels and send all it makes of them.

The honest alternative to dropping tokens after a large picture was encoded, and the cheaper one:
the encoder saves work too.

Shapes
    images   pictures in the batch
    patches  visual tokens of one full picture, rows x columns

Source: a customary baseline, hard to beat in VTC-Bench, arXiv 2510.07143.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction, arrange
from prumerge.rivals.shared import PLAIN, at_hand, counts_to_keep
from prumerge.settings import Settings
from prumerge.spatial import keep_even


def grid_within(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Return a smaller grid of about the same proportions with at most so many patches.

    Returns:
        ``floor(sqrt(tokens * rows / columns))`` rows, at least one, and as many columns as the
        tokens then allow; never more of either than ``grid`` has, nor more rows than tokens.

    Example:
        >>> grid_within(64, (24, 24)), grid_within(130, (24, 24)), grid_within(2, (24, 24))
        ((8, 8), (11, 11), (1, 2))
    """
    rows, columns = grid
    fewer_rows = min(max(math.isqrt(tokens * rows // columns), 1), rows, tokens)
    return fewer_rows, min(tokens // fewer_rows, columns)


@register("small_picture", settings=PLAIN, sends="at most")
def encode_smaller(encoded: Encoded, settings: Settings) -> Reduction:
    """Send all visual tokens of the picture shrunk to fit the budget.

    Nothing of the full picture is used but its number of outliers, where there is no budget. The
    position embeddings of the encoder are interpolated to the smaller grid.

    Args:
        encoded: ``at_grid`` encodes the shrunk pictures.
        settings: The budget is read; ``neighbours``, ``extra_token`` and ``order`` are not.

    Returns:
        At most the budget: the largest grid that fits, of about the picture's proportions. A token
        stands at the patch of the full picture in the middle of what it shows.

    Raises:
        ValueError: If the pictures are not at hand: ``encoded`` was built by hand.

    Source:
        Models whose encoder takes any size are shown smaller pictures in VTC-Bench. CLIP was
        trained at one size, so interpolation costs it something (``enlarged_picture`` leaves that
        out); and encoding twice, as here, makes timings of this method an upper bound.
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
    """Encode all pictures that share a grid together.

    The full pictures' features serve where a grid is the full one.
    """
    tokens = {}
    for grid in dict.fromkeys(grids):
        chosen = [image for image, own in enumerate(grids) if own == grid]
        if grid == encoded.grid:
            tokens |= {image: encoded.features[image] for image in chosen}
        else:
            found = again(grid, torch.tensor(chosen)).to(encoded.features.dtype)
            tokens |= dict(zip(chosen, found, strict=True))
    return [tokens[image] for image in range(len(grids))]
