"""Enlarged picture: what can be seen in few pixels, shown at the size the encoder was trained on.

It tells which questions a picture of that size can answer at all. A picture that is really small
(:mod:`prumerge.rivals.small_picture`) makes the encoder interpolate its position embeddings, and
what is lost by that is no fault of the few pixels.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, rows x columns

Source: VTC-Bench, arXiv 2510.07143, splits questions by whether a down-sampled picture suffices;
the enlargement is our own, for encoders of one size.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prumerge.encoder import Encoded, hidden_states
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction, arrange
from prumerge.rivals.shared import PLAIN, at_hand, counts_to_keep
from prumerge.rivals.small_picture import encode_each, grid_within
from prumerge.settings import Settings


def enlarged_features(
    grid: tuple[int, int], tower: nn.Module, pixel_values: Tensor, layer: int
) -> Tensor:
    """Encode pictures shrunk to a grid of patches and enlarged again.

    Both resizings are bilinear, the shrinking one antialiased.
    """
    size = [side * tower.config.patch_size for side in grid]
    small = interpolate(pixel_values.float(), size=size, mode="bilinear", antialias=True)
    large = interpolate(small, size=pixel_values.shape[-2:], mode="bilinear")
    hidden = hidden_states(tower, large, {layer})[layer]
    return hidden[:, int(hasattr(tower.embeddings, "class_embedding")) :]


@register("enlarged_picture", settings=PLAIN, sends="all")
def encode_enlarged(encoded: Encoded, settings: Settings) -> Reduction:
    """Send all visual tokens of the picture shrunk to fit the budget and enlarged again.

    Nothing of the full picture is used but its number of outliers, where there is no budget.

    Args:
        encoded: ``rerun`` encodes the enlarged pictures.
        settings: The budget is read: the patches of the shrunk picture, as in ``small_picture``.

    Returns:
        Every patch, whatever the budget: it is no way to save tokens, but says what tokens of a
        picture of that size could tell.

    Raises:
        ValueError: If the pictures are not at hand: ``encoded`` was built by hand.
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
