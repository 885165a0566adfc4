"""A clip as a strip of frames: what is kept of each, and what one token holds of all of them.

show_clip   frames, and below them what each reduction keeps
show_held   the weights of one token, over all frames
held_by     these weights
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from prumerge.draw.looking import look
from prumerge.draw.pictures import REASONS, attention, kept, outline, picture
from prumerge.methods import Method
from prumerge.models.canvases import TiledReduction
from prumerge.models.slots import Packed
from prumerge.reduction import SPATIAL

Frames = UInt8[np.ndarray, "frames height width 3"]


def show_clip(
    axes: np.ndarray,
    pixels: Frames,
    packed: Packed,
    reductions: Mapping[str, TiledReduction],
    number: int = 0,
) -> None:
    """Draw the frames of one clip of a call in the first line of ``axes``, a column for each.

    In each further line stand the patches that a reduction keeps, with their number above the
    frame and the reduction's name and sum at the left.
    """
    canvases = packed.visuals[number].canvases
    for frame, (axis, canvas) in enumerate(zip(axes[0], canvases, strict=True)):
        picture(axis, pixels[frame], canvas.grid, f"frame {frame + 1}")
    for line, (name, reduction) in zip(axes[1:], reductions.items(), strict=True):
        reasons = reduction.selection.reason[number].cpu().numpy()
        counts = reduction.kept_by_tile[number]
        for axis, seen, canvas, count in zip(line, pixels, canvases, counts, strict=True):
            kept(axis, seen, reasons[canvas.slots.numpy()], canvas.grid, str(count))
        line[0].set_ylabel(f"{name}\n{reduction.kept[number]} tokens")


def held_by(
    packed: Packed, method: Method, token: int, number: int = 0
) -> tuple[Float[np.ndarray, "frames patches"], int]:
    """Return how much of each patch of a clip one token holds, and the slot where it stands.

    Tokens count from 0 in the order sent; see :meth:`prumerge.draw.looking.Look.origin`.
    """
    own = packed.visuals[number]
    shown = look(dataclasses.replace(packed, visuals=(own,)), method)
    weights = shown.origin(token).reshape(len(own.canvases), -1)
    return weights, int(shown.reduction.positions[0][token])


def show_held(
    axes: np.ndarray, pixels: Frames, packed: Packed, weights: np.ndarray, slot: int,
    largest: float, number: int = 0,
) -> None:  # fmt: skip
    """Draw the weights of one token of a clip over its frames, light for ``largest``.

    The token's own patch, in ``slot``, has a blue frame and no part in the colours; those merged
    into it have a white frame, and each frame says how many they are.
    """
    for axis, seen, own, canvas in zip(
        axes, pixels, weights, packed.visuals[number].canvases, strict=True
    ):
        place = (canvas.slots == slot).numpy()
        others = np.where(place, 0, own)
        merged = (others > 0).reshape(canvas.grid)
        attention(axis, seen, others, canvas.grid, str(merged.sum()), largest)
        outline(axis, merged, "white", 0.5)
        outline(axis, place.reshape(canvas.grid), REASONS[SPATIAL][1], 2.0)
