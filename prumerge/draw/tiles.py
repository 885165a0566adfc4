"""Pictures in tiles as a prompt shows them: the whole picture, seen small, and the stitched tiles.

stitch      values of patches, put where they lie
show_tiles  a picture, its attention and what is kept of it, the base above the crops
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Num, Shaped, UInt8

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


def show_tiles(
    axes: np.ndarray,
    pixels: UInt8[np.ndarray, "height width 3"],
    packed: Packed,
    reductions: Mapping[str, TiledReduction],
    number: int = 0,
    largest: float | None = None,
) -> None:
    """Draw one picture of a call: the base in the first line of ``axes``, the crops in the second.

    Column by column: the picture, the class attention of each tile, and for each reduction, by its
    name, the patches kept. ``largest`` is the brightest attention, the same for both maps; None
    takes the largest of the picture.
    """
    visual, scores = packed.visuals[number], packed.parts[0].scores.detach().cpu().numpy()
    attended = [scores[canvas.tile][canvas.rows.numpy()] for canvas in visual.canvases]
    heats = stitch(visual, attended)
    largest = largest or max(float(heat.max()) for heat in heats)
    for own, name, heat in zip(axes, ("base", "crops"), heats, strict=True):
        picture(own[0], pixels, heat.shape, name)
        attention(own[1], pixels, heat.ravel(), heat.shape, "attention, by tile", largest)
    for column, (name, reduction) in enumerate(reductions.items(), start=2):
        reasons = reduction.selection.reason[number].numpy()
        maps = stitch(visual, [reasons[canvas.slots.numpy()] for canvas in visual.canvases])
        base, *crops = reduction.kept_by_tile[number]
        for own, why, count in zip(axes, maps, (base, sum(crops)), strict=True):
            title = f"{name}: {count} of {why.size}"
            kept(own[column], pixels, why.ravel(), why.shape, title)
