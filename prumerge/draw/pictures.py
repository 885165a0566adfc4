"""A picture, and on it what the encoder attends to and what a method keeps and merges.

    picture, attention, similarity, merged, kept, outline, legend
                                                 on the axes of a figure, in units of patches;
                                                 ``colour_bar`` explains the colours of maps
    paint_attention, paint_kept, paint_origin    as pixels, in a few milliseconds, to follow a
                                                 slider; ``to_png`` writes them

The hues are Okabe and Ito's, made lighter for dark pictures.
"""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageColor
from scipy.ndimage import binary_erosion

from prumerge.reduction import DISTINCT, DROPPED, FILL, OUTLIER, SPATIAL

REASONS = {
    OUTLIER: ("kept for its score", "#FFA600"),
    SPATIAL: ("kept for its place", "#4CC9FF"),
    FILL: ("fills the budget", "#FF8AD8"),
    DISTINCT: ("kept for its features", "#35E0A8"),
}
HEAT = "inferno"  # of attention and weights; rises evenly in lightness, also in grey
ALIKE = "viridis"  # of similarities, as evenly
DIMMED = 0.62  # share of light taken from dropped patches
EDGE_PX = 336  # of a painted picture, about
GAP_PX = 8  # between pictures of one mosaic
LINE_PX = 2


def picture(
    axes: Axes, pixels: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int], title: str = ""
) -> Axes:
    """Draw a picture as the encoder sees it, one unit per patch, without ticks.

    ``grid``, here and below: rows and columns of patches.
    """
    axes.imshow(pixels, extent=(0, grid[1], grid[0], 0))
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
    largest: float | None = None,
) -> Axes:
    """Draw an attention map over a grey, darkened picture.

    Light stands for attention, as a share of ``largest``, above 0: the picture's largest score, or
    one number for all panels that are compared (:func:`colour_bar` explains it). The square root is
    drawn, so that patches with a tenth of it still show. Scores below 0 count as 0, those above
    ``largest`` as that.
    """
    grey = _darkened(pixels).repeat(3, axis=2).astype(np.uint8)
    colours, cover = _heat(scores, grid, largest)
    colours[..., 3] = cover
    return _cover(picture(axes, grey, grid, title), colours)


def similarity(
    axes: Axes,
    pixels: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, " patches"],
    grid: tuple[int, int],
    title: str = "",
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Axes:
    """Draw how alike each patch is to one of them, such as cosines of keys, over a grey picture.

    Evenly from dark at the lower limit to yellow at the upper; values beyond them count as they.
    :func:`colour_bar` with the same limits explains the colours.
    """
    grey = _darkened(pixels).repeat(3, axis=2).astype(np.uint8)
    colours = plt.get_cmap(ALIKE)(Normalize(*limits, clip=True)(values.reshape(grid)))
    colours[..., 3] = 0.75
    return _cover(picture(axes, grey, grid, title), colours)


def merged(
    axes: Sequence[Axes] | np.ndarray,
    pixels: UInt8[np.ndarray, "height width 3"],
    alike: Float[np.ndarray, " patches"],
    weights: Float[np.ndarray, " patches"],
    place: int,
    grid: tuple[int, int],
    limits: tuple[float, float],
    largest: float,
) -> Sequence[Axes] | np.ndarray:
    """Draw what is merged into the patch at ``place``, which is framed in blue.

    On the first axes how ``alike`` every patch is (:func:`similarity`, with ``limits``), on the
    second the weights (:func:`attention`, with ``largest``), whose patches have a white frame.
    """
    similarity(axes[0], pixels, alike, grid, f"alike: mean {alike.mean():.2f}", limits)
    attention(axes[1], pixels, weights, grid, f"weights: sum {weights.sum():.2g}", largest)
    outline(axes[1], (weights > 0).reshape(grid), "white", 0.5)
    for each in axes:
        outline(each, (np.arange(weights.size) == place).reshape(grid), REASONS[SPATIAL][1], 2.0)
    return axes


def colour_bar(
    panels: Sequence[Axes], largest: float | tuple[float, float], label: str
) -> Colorbar:
    """Explain the colours beside panels of one scale.

    ``largest`` of those that :func:`attention` drew, or the ``limits`` of :func:`similarity`.
    """
    if isinstance(largest, tuple):
        scale = ScalarMappable(Normalize(*largest), ALIKE)
    else:
        scale = ScalarMappable(PowerNorm(0.5, vmin=0, vmax=largest), HEAT)
    return panels[0].figure.colorbar(scale, ax=list(panels), label=label, aspect=15, pad=0.02)


def kept(
    axes: Axes,
    pixels: UInt8[np.ndarray, "height width 3"],
    reason: Integer[np.ndarray, " patches"],
    grid: tuple[int, int],
    title: str = "",
) -> Axes:
    """Draw a picture with its kept patches outlined and the dropped ones dimmed.

    ``reason`` tells why each patch stays, 0 where it does not; see :class:`prumerge.Selection`.
    The colours are those of :data:`REASONS`; :func:`legend` explains them.
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
    """Draw the borders of marked patches, ``width`` points wide; neighbours have none between."""
    framed = np.pad(mask, 1)
    rows, columns = np.nonzero(framed[1:, 1:-1] != framed[:-1, 1:-1])
    level = [((x, y), (x + 1, y)) for y, x in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(framed[1:-1, 1:] != framed[1:-1, :-1])
    upright = [((x, y), (x, y + 1)) for y, x in zip(rows, columns, strict=True)]
    lines = LineCollection(level + upright, colors=colour, linewidths=width, capstyle="projecting")
    axes.add_collection(lines, autolim=False)
    return axes


def legend(figure: Figure, reasons: Sequence[int] = (OUTLIER, SPATIAL, FILL)) -> Figure:
    """Explain the outlines of :func:`kept` below a figure, whose constrained layout makes room."""
    told = [REASONS[code] for code in reasons]
    handles = [Line2D([], [], color=colour, lw=2, label=words) for words, colour in told]
    handles.append(Line2D([], [], color="#555555", lw=5, label="dropped"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def enlarge(pixels: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int]) -> np.ndarray:
    """Resize a picture so that every patch has as many pixels, about :data:`EDGE_PX` on an edge."""
    cell = _cell(grid)
    size = (grid[1] * cell, grid[0] * cell)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)).copy()


def paint_kept(
    pixels: UInt8[np.ndarray, "height width 3"],
    reason: Integer[np.ndarray, " patches"],
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Paint a picture with its kept patches outlined, the others dimmed, as :func:`kept`."""
    canvas = enlarge(pixels, grid)
    reason = reason.reshape(grid)
    light = np.where(reason == DROPPED, 1 - DIMMED, 1.0)
    canvas = (canvas * _spread(light, grid)[..., None]).astype(np.uint8)
    for code, (_, colour) in REASONS.items():
        _outline(canvas, reason == code, grid, colour)
    return canvas


def paint_attention(
    pixels: UInt8[np.ndarray, "height width 3"],
    scores: Float[np.ndarray, " patches"],
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Paint as :func:`attention` draws; patches with a score of 0 stay uncovered."""
    grey, (colours, cover) = _darkened(enlarge(pixels, grid)), _heat(scores, grid)
    cover = _spread(np.where(scores.reshape(grid) > 0, cover, 0), grid)[..., None]
    return (grey * (1 - cover) + _spread(255 * colours[..., :3], grid) * cover).astype(np.uint8)


def paint_origin(
    pixels: UInt8[np.ndarray, "height width 3"],
    weights: Float[np.ndarray, " patches"],
    place: int,
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Paint how much of each patch one token holds, and outline the patch at which it stands.

    That patch weighs so much more than its neighbours that it is left out of the colours.
    """
    others = weights.copy()
    others[place] = 0
    canvas = paint_attention(pixels, others, grid)
    own = np.arange(weights.size).reshape(grid) == place
    _outline(canvas, own, grid, REASONS[SPATIAL][1])
    return canvas


def mosaic(
    parts: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Lay pictures side by side on white, ``columns`` in a line, with a gap between."""
    if len(parts) == 1:
        return parts[0]
    high, wide = (max(part.shape[edge] for part in parts) + GAP_PX for edge in (0, 1))
    lines = -(-len(parts) // columns)
    canvas = np.full((lines * high - GAP_PX, columns * wide - GAP_PX, 3), 255, np.uint8)
    for number, part in enumerate(parts):
        top, left = (number // columns) * high, (number % columns) * wide
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def to_png(canvas: UInt8[np.ndarray, "rows columns 3"]) -> bytes:
    """Write pixels as PNG, quickly rather than small."""
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "png", compress_level=1)
    return file.getvalue()


def _cover(axes: Axes, colours: Float[np.ndarray, "rows columns 4"]) -> Axes:
    """Lay one translucent colour over each patch of a drawn picture."""
    rows, columns = colours.shape[:2]
    axes.imshow(colours, extent=(0, columns, rows, 0), interpolation="nearest")
    return axes


def _darkened(pixels: np.ndarray) -> Float[np.ndarray, "height width 1"]:
    return pixels.mean(axis=2, keepdims=True) * 0.6


def _heat(
    scores: Float[np.ndarray, " patches"], grid: tuple[int, int], largest: float | None = None
) -> tuple[Float[np.ndarray, "rows columns 4"], Float[np.ndarray, "rows columns"]]:
    """Colour the square root of each share of the largest score, and tell how much it covers."""
    weights = np.maximum(scores, 0)
    most = max(float(weights.max()) if largest is None else largest, np.finfo(np.float32).tiny)
    shares = np.sqrt(np.minimum(weights / most, 1)).reshape(grid)
    return plt.get_cmap(HEAT)(shares), 0.25 + 0.7 * shares


def _cell(grid: tuple[int, int]) -> int:
    return max(2 * LINE_PX + 1, EDGE_PX // max(grid))


def _spread(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Give each pixel the value of its patch."""
    return values.repeat(_cell(grid), axis=0).repeat(_cell(grid), axis=1)


def _outline(canvas: np.ndarray, mask: np.ndarray, grid: tuple[int, int], colour: str) -> None:
    marked = _spread(mask, grid)
    canvas[marked & ~binary_erosion(marked, iterations=LINE_PX)] = ImageColor.getrgb(colour)
