"""Pictures in tiles as a prompt shows them: the whole picture, seen small, and the stitched tiles.

stitch     values of patches, put where they lie
show_row   a picture with its attention and what is kept of it, the base above the crops
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Num, Shaped, UInt8
from matplotlib.axes import Axes

from prumerge.draw.pictures import attention, kept, picture
from prumerge.models.canvases import TiledReduction
from prumerge.models.slots import Packed, Visual


def stitch(
    visual: Visual, values: Sequence[Num[np.ndarray, " _"]]
) -> tuple[Shaped[np.ndarray, "rows columns"], Shaped[np.ndarray, "high wide"]]:
    """Lay the values of each canvas's patches where the patches lie: in the base, in the crops.

    ``visual`` is a picture of a LLaVA-NeXT: its first canvas is the whole picture, and each row of
    the others, stitched, ends in a newline.
    """
    whole = np.zeros(len(visual.source), dtype=np.result_type(*values))
    for canvas, own in zip(visual.canvases, values, strict=True):
        whole[canvas.slots.numpy()] = own
    base, rows = visual.canvases[0], int((visual.source < 0).sum())
    crops = whole[len(base.slots) :].reshape(rows, -1)[:, :-1]
    return whole[: len(base.slots)].reshape(base.grid), crops


def show_row(
    axes: Sequence[Sequence[Axes]],
    pixels: UInt8[np.ndarray, "height width 3"],
    packed: Packed,
    reduction: TiledReduction,
    number: int,
    largest: float,
) -> None:
    """Draw one picture of a call: the base in the first line of axes, the crops in the second.

    In three columns: the picture, the class attention of each tile, the patches kept. ``largest``
    is the attention that all maps share as their brightest, see
    :func:`prumerge.draw.pictures.attention`.
    """
    visual, scores = packed.visuals[number], packed.parts[0].scores.numpy()
    attended = [scores[canvas.tile][canvas.rows.numpy()] for canvas in visual.canvases]
    reasons = reduction.selection.reason[number].numpy()
    why = [reasons[canvas.slots.numpy()] for canvas in visual.canvases]
    counts = reduction.kept_by_tile[number]
    sent = (counts[0], sum(counts[1:]))
    lines = zip(("base", "crops"), stitch(visual, attended), stitch(visual, why), sent, strict=True)
    for own, (name, heat, reason, count) in zip(axes, lines, strict=True):
        grid = heat.shape
        picture(own[0], pixels, grid, name)
        attention(own[1], pixels, heat.ravel(), grid, "attention", largest)
        kept(own[2], pixels, reason.ravel(), grid, f"{count} of {heat.size} kept")
