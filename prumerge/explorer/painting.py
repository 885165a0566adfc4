"""Pictures of what is kept, attended to and merged, as pixels, fast enough to follow a slider.

The manner is that of :mod:`prumerge.draw`, whose figures take a few hundred milliseconds each;
these take a few.
"""

import io

import matplotlib
import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageColor
from scipy.ndimage import binary_erosion

from prumerge.draw.overlays import DIMMED, HEAT, REASONS
from prumerge.selection import DROPPED

EDGE_PX = 336  # of a painted picture, about
LINE_PX = 2


def enlarge(pixels: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int]) -> np.ndarray:
    """Resize a picture so that every patch has the same whole number of pixels.

    Args:
        pixels: The picture as the encoder sees it.
        grid: Rows and columns of patches.

    Returns:
        About :data:`EDGE_PX` pixels on its longer edge, as numbers from 0 to 255.
    """
    cell = _cell(grid)
    size = (grid[1] * cell, grid[0] * cell)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)).copy()


def paint_kept(
    pixels: UInt8[np.ndarray, "height width 3"],
    reason: Integer[np.ndarray, " patches"],
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Paint a picture with its kept patches outlined and the dropped ones dimmed.

    Args:
        pixels: The picture as the encoder sees it.
        reason: Why each patch stays, 0 where it does not; see :class:`prumerge.Selection`.
        grid: Rows and columns of patches.

    Returns:
        The painted picture; colours are those of :data:`prumerge.draw.REASONS`.
    """
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
    """Paint weights over a grey, darkened picture, the light ones large.

    Args:
        pixels: The picture as the encoder sees it.
        scores: A weight per patch, in raster order; at least 0, else taken as 0. The square root
            of its share of the largest is painted.
        grid: Rows and columns of patches.

    Returns:
        The painted picture.
    """
    grey = enlarge(pixels, grid).mean(axis=2, keepdims=True) * 0.6
    weights = np.maximum(scores, 0)
    largest = max(float(weights.max()), np.finfo(np.float32).tiny)
    shares = np.sqrt(weights / largest).reshape(grid)
    colours = 255 * matplotlib.colormaps[HEAT](shares)[..., :3]
    cover = np.where(shares > 0, 0.25 + 0.7 * shares, 0)
    cover = _spread(cover, grid)[..., None]
    return (grey * (1 - cover) + _spread(colours, grid) * cover).astype(np.uint8)


def paint_origin(
    pixels: UInt8[np.ndarray, "height width 3"],
    weights: Float[np.ndarray, " patches"],
    place: int,
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Paint what one token is made of, and outline the patch at which it stands.

    Args:
        pixels: The picture as the encoder sees it.
        weights: How much of each patch the token holds. The token's own patch weighs so much more
            than its neighbours that it is left out of the colours.
        place: The patch of the token.
        grid: Rows and columns of patches.

    Returns:
        The painted picture.
    """
    others = weights.copy()
    others[place] = 0
    canvas = paint_attention(pixels, others, grid)
    own = np.zeros(weights.size, bool)
    own[place] = True
    _outline(canvas, own.reshape(grid), grid, "#4CC9FF")
    return canvas


def to_png(canvas: UInt8[np.ndarray, "rows columns 3"]) -> bytes:
    """Write pixels as PNG, quickly rather than small."""
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "png", compress_level=1)
    return file.getvalue()


def _cell(grid: tuple[int, int]) -> int:
    return max(2 * LINE_PX + 1, EDGE_PX // max(grid))


def _spread(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Give each pixel the value of its patch."""
    return values.repeat(_cell(grid), axis=0).repeat(_cell(grid), axis=1)


def _outline(canvas: np.ndarray, mask: np.ndarray, grid: tuple[int, int], colour: str) -> None:
    marked = _spread(mask, grid)
    canvas[marked & ~binary_erosion(marked, iterations=LINE_PX)] = ImageColor.getrgb(colour)
