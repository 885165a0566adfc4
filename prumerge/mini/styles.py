"""How scenes look: the size of patches, colours, sizes of things, ground; one style a model.

PLAIN      of the mini-LLaVA: 8-pixel patches, six colours, dark ground
LARGE      of ``mini-next``: the same on frames of several tiles
PICTURED   of ``pocket``: 14-pixel patches, nine colours, mostly on photographs
MOVING     of ``mini-video``: as PLAIN, asked about in words for what happens
style_of   that in which a model is asked about scenes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prumerge.mini import grounds
from prumerge.mini.glyphs import COLOURS, PATCH_PIXELS, SIZES

Colour = tuple[int, int, int]


def _dark(rng: np.random.Generator, edge: int, held_out: bool) -> grounds.Ground:
    return grounds.noise(rng, edge)


def _pictured(rng: np.random.Generator, edge: int, held_out: bool) -> grounds.Ground:
    if rng.random() < PHOTOGRAPH_SHARE:
        return grounds.photograph(rng, edge, held_out)
    return grounds.noise(rng, edge, brightness=(45.0, 190.0), blot=edge // 8)


PHOTOGRAPH_SHARE = 0.8  # of grounds in the pictured style; the others are plain, dark to bright


@dataclass(frozen=True, eq=False)
class Style:
    """How a scene is drawn; ``ground(rng, edge, held_out)`` gives what lies behind the things."""

    name: str
    patch_px: int
    colours: Mapping[str, Colour]
    sizes: tuple[int, ...]  # edges of a shape, in patches
    digit_sizes: tuple[int, ...]  # large enough to be legible
    ground: Callable[[np.random.Generator, int, bool], grounds.Ground]
    plates: tuple[Colour, ...] = ((205, 200, 180),)  # of signs, in turn by chance
    outline_px: int = 0  # of a dark or light line around things; 0 draws none
    sign_rows: int = 3  # height of a sign and width of each of its digits, in patches
    frames: tuple[tuple[int, int], ...] = ()  # rows and columns of pictures in turn, if not square

    def grids(self, grid: int | tuple[int, int]) -> tuple[int | tuple[int, int], ...]:
        """Return the sizes of pictures in turn; ``grid`` is that of a model of one tile."""
        return self.frames or (grid,)


MORE_COLOURS: dict[str, Colour] = {
    "orange": (245, 145, 30),
    "purple": (140, 65, 200),
    "black": (20, 20, 25),
}
PLAIN = Style("mini", PATCH_PIXELS, COLOURS, SIZES, SIZES[1:], _dark)
# As many pictures of 2 x 2 tiles as of all other shapes; 36 patches do not fill their tiles.
_SHAPES = ((24, 48), (48, 24), (36, 48), (24, 72), (48, 36), (72, 24))
LARGE = replace(
    PLAIN, name="mini-next", frames=tuple(f for shape in _SHAPES for f in ((48, 48), shape))
)
PICTURED = Style(
    "pocket",
    14,
    COLOURS | MORE_COLOURS,
    (2, 3, 4, 5),
    (4, 5),
    _pictured,
    ((205, 200, 180), (240, 240, 235), (250, 225, 120), (190, 215, 245)),
    outline_px=2,
    sign_rows=4,
)
MOVING = replace(PLAIN, name="moving")
STYLES = {style.name: style for style in (PLAIN, LARGE, PICTURED, MOVING)}


def style_of(model: Any) -> Style:
    """Return the style that a model (or its config) was trained on; the plain one for any other."""
    return STYLES[getattr(getattr(model, "config", model), "scenes", PLAIN.name)]
