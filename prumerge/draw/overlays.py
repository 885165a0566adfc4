"""A picture, and on it what the encoder attends to and what a method keeps.

Pictures are drawn in units of patches, so that a grid of any size and the picture under it lie on
each other. Orange marks patches kept for their score, blue those kept for their place, pink those
that fill a budget, green those kept for their features: Okabe and Ito's hues, made lighter for
dark pictures.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prumerge.selection import DISTINCT, DROPPED, FILL, OUTLIER, SPATIAL

REASONS = {
    OUTLIER: ("kept for its score", "#FFA600"),
    SPATIAL: ("kept for its place", "#4CC9FF"),
    FILL: ("fills the budget", "#FF8AD8"),
    DISTINCT: ("kept for its features", "#35E0A8"),
}
HEAT = "inferno"  # rises evenly in lightness, also in grey
DIMMED = 0.62  # share of light taken from dropped patches


def picture(
    axes: Axes,
    pixels: UInt8[np.ndarray, "height width 3"],
    grid: tuple[int, int],
    title: str = "",
) -> Axes:
    """Draw a picture, one unit per patch, without ticks.

    Args:
        axes: Where to.
        pixels: The picture as the encoder sees it.
        grid: Rows and columns of patches.
        title: A few words above it.

    Returns:
        ``axes``.
    """
    axes.imshow(pixels, extent=_extent(grid))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    return axes


def attention(
    axes: Axes,
    pixels: UInt8[np.ndarray, "height width 3"],
    scores: Float[np.ndarray, " patches"],
    grid: tuple[int, int],
    title: str = "",
) -> Axes:
    """Draw an attention map over a grey, darkened picture.

    Light stands for attention, as a share of the picture's largest; its square root is drawn, so
    that patches with a tenth of the largest score still show.

    Args:
        axes, pixels, grid, title: As for :func:`picture`.
        scores: Attention each patch receives, in raster order; at least 0.

    Returns:
        ``axes``.
    """
    grey = (pixels.mean(axis=2, keepdims=True) * 0.6).repeat(3, axis=2).astype(np.uint8)
    shares = np.sqrt(scores / max(float(scores.max()), np.finfo(np.float32).tiny)).reshape(grid)
    colours = plt.get_cmap(HEAT)(shares)
    colours[..., 3] = 0.25 + 0.7 * shares
    return _cover(picture(axes, grey, grid, title), colours)


def kept(
    axes: Axes,
    pixels: UInt8[np.ndarray, "height width 3"],
    reason: Integer[np.ndarray, " patches"],
    grid: tuple[int, int],
    title: str = "",
) -> Axes:
    """Draw a picture with its kept patches outlined and the dropped ones dimmed.

    Args:
        axes, pixels, grid, title: As for :func:`picture`.
        reason: Why each patch stays, 0 where it does not; see :class:`prumerge.Selection`.

    Returns:
        ``axes``. The colours are those of :data:`REASONS`; :func:`legend` explains them.
    """
    reason = reason.reshape(grid)
    shade = np.zeros((*grid, 4))
    shade[..., 3] = DIMMED * (reason == DROPPED)
    _cover(picture(axes, pixels, grid, title), shade)
    for code, (_, colour) in REASONS.items():
        outline(axes, reason == code, colour)
    return axes


def outline(
    axes: Axes, mask: Bool[np.ndarray, "rows columns"], colour: str, width: float = 1.0
) -> Axes:
    """Draw the borders of marked patches; neighbours have none between them.

    Args:
        axes: Where a picture is drawn in units of patches.
        mask: True at the marked patches.
        colour: Of the line.
        width: Of the line, in points.

    Returns:
        ``axes``.
    """
    framed = np.pad(mask, 1)
    rows, columns = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    level = [((column, row), (column + 1, row)) for row, column in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = [
        ((column, row), (column, row + 1)) for row, column in zip(rows, columns, strict=True)
    ]
    lines = LineCollection(level + upright, colors=colour, linewidths=width, capstyle="projecting")
    axes.add_collection(lines, autolim=False)
    return axes


def legend(figure: Figure, reasons: Sequence[int] = (OUTLIER, SPATIAL, FILL)) -> Figure:
    """Explain the outlines of :func:`kept` below a figure.

    Args:
        figure: With constrained layout, which makes room.
        reasons: Those that occur.

    Returns:
        ``figure``.
    """
    handles = [
        Line2D([], [], color=REASONS[code][1], lw=2, label=REASONS[code][0]) for code in reasons
    ]
    handles.append(Line2D([], [], color="#555555", lw=5, label="dropped"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _cover(axes: Axes, colours: Float[np.ndarray, "rows columns 4"]) -> Axes:
    """Lay one translucent colour over each patch of a drawn picture."""
    axes.imshow(colours, extent=_extent(colours.shape[:2]), interpolation="nearest")
    return axes


def _extent(grid: tuple[int, int]) -> tuple[int, int, int, int]:
    rows, columns = grid
    return 0, columns, rows, 0
