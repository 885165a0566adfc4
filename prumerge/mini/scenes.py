"""Mini scenes: things on a ground, drawn from a seed, with the truth about each.

A scene fills a grid of patches (24 x 24 by default). It holds 1 to 12 things (a coloured
shape or handwritten digit of a few patches on an edge, aligned to patches, never overlapping) and
often a sign: a light plate with two or three dark digits, to be read. How all of them look, and on
what they lie, is the scene's style.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageFilter

from prumerge.mini.glyphs import DIGITS, KINDS, glyphs
from prumerge.mini.styles import PLAIN, Style

HELD_OUT_SEED = 90_000  # far from any training seed; the digits' scans differ as well
SIGN_SHARE = 0.4  # share of scenes that carry a sign
REPEAT_SHARE = 0.2  # share of things that repeat a colour, and share that repeat a kind
INK, CHALK = (15, 15, 20), (250, 250, 250)  # of digits on signs, and of outlines


@dataclass(frozen=True)
class Thing:
    """One thing in a scene; ``row`` and ``column`` are its upper left patch."""

    kind: str
    colour: str
    row: int
    column: int
    size: int

    @property
    def name(self) -> str:
        """Colour and kind, as the questions say it: ``red circle``, ``blue 7``."""
        return f"{self.colour} {self.kind}"

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle, in patches."""
        return self.row + self.size / 2, self.column + self.size / 2


@dataclass(frozen=True)
class Sign:
    """A plate with a number on it, as high as each digit is wide."""

    number: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """A drawn picture with its truth.

    ``owner`` tells for each patch shown: 0 for ground, 1 + index into ``things``, or
    1 + ``len(things)`` for the sign.
    """

    grid: int | tuple[int, int]  # patches of the whole frame, in which positions are told: an edge,
    # or rows and columns
    corner: tuple[int, int]  # upper left patch of the part shown; 0, 0 unless it is a window
    things: tuple[Thing, ...]
    sign: Sign | None
    pixels: UInt8[np.ndarray, "height width 3"] | None  # None where it was only laid out
    owner: Int[np.ndarray, "rows columns"]
    style: Style = PLAIN

    @property
    def frame(self) -> tuple[int, int]:
        """Rows and columns of the whole frame, in patches."""
        return frame_of(self.grid)

    @property
    def objects(self) -> int:
        """How many objects there are, the sign included."""
        return len(self.things) + (self.sign is not None)


def frame_of(grid: int | tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of a frame, of which one number gives both."""
    return (grid, grid) if isinstance(grid, int) else grid


def most_objects(grid: int | tuple[int, int]) -> int:
    """Return how many things fit a frame well: 12, and 6 below 20 patches along an edge."""
    return 12 if min(frame_of(grid)) >= 20 else 6


def draw_scene(
    rng: np.random.Generator,
    grid: int | tuple[int, int] = 24,
    window: int | None = None,
    objects: int | tuple[int, int] = (1, 12),
    held_out: bool = False,
    sign: bool | None = None,
    corner: tuple[int, int] | None = None,
    style: Style = PLAIN,
    painted: bool = True,
) -> Scene:
    """Draw one scene; the same state of ``rng`` draws the same one.

    Args:
        grid: Patches along an edge of the frame, or its rows and columns.
        window: Patches along an edge of the part that is drawn, whose upper left patch is
            ``corner`` (None: any); None draws the whole frame.
        objects: Number of things, or its range (ends included). Fewer when they do not fit.
        sign: Whether a sign is there; None leaves it to chance.
        painted: False tells what is there without drawing it, which is quick.
    """
    frame = frame_of(grid)
    shown = frame_of(window or grid)
    if corner is None:
        room = zip(frame, shown, strict=True)
        corner = tuple(int(rng.integers(0, whole - part + 1)) for whole, part in room)
    low, high = (objects, objects) if isinstance(objects, int) else objects
    if not 0 <= low <= high:
        raise ValueError(f"objects must be a number or a range from low to high, got {objects}")
    owner = np.zeros(shown, dtype=np.int64)
    plate = _place_sign(rng, owner, style) if _wants_sign(rng, sign, shown, style) else None
    things = _place_things(rng, owner, int(rng.integers(low, high + 1)), style)
    if plate is not None:
        owner[owner == -1] = 1 + len(things)
    pixels = _paint(rng, shown, things, plate, held_out, style) if painted else None
    down, across = corner
    things = tuple(replace(t, row=t.row + down, column=t.column + across) for t in things)
    if plate is not None:
        plate = replace(plate, row=plate.row + down, column=plate.column + across)
    return Scene(grid, corner, things, plate, pixels, owner, style)


def _wants_sign(
    rng: np.random.Generator, sign: bool | None, shown: tuple[int, int], style: Style
) -> bool:
    chance = rng.random() < SIGN_SHARE
    return (chance if sign is None else sign) and min(shown) >= 3 * style.sign_rows


def _place_sign(rng: np.random.Generator, owner: np.ndarray, style: Style) -> Sign:
    number = "".join(rng.choice(DIGITS, size=rng.integers(2, 4)))
    rows, width = style.sign_rows, style.sign_rows * len(number)
    row = int(rng.integers(0, owner.shape[0] - rows + 1))
    column = int(rng.integers(0, owner.shape[1] - width + 1))
    owner[row : row + rows, column : column + width] = -1
    return Sign(number, row, column)


def _place_things(
    rng: np.random.Generator, owner: np.ndarray, count: int, style: Style
) -> list[Thing]:
    things: list[Thing] = []
    colours = list(style.colours)
    for _ in range(20 * count):
        if len(things) == count:
            break
        kind, colour = KINDS[rng.integers(len(KINDS))], colours[rng.integers(len(colours))]
        # Repeats make counting and telling apart worth asking about.
        if things and rng.random() < 2 * REPEAT_SHARE:
            model = things[rng.integers(len(things))]
            kind, colour = (kind, model.colour) if rng.random() < 0.5 else (model.kind, colour)
        size = int(rng.choice(style.digit_sizes if kind in DIGITS else style.sizes))
        row, column = (int(rng.integers(0, edge - size + 1)) for edge in owner.shape)
        if owner[row : row + size, column : column + size].any():
            continue
        things.append(Thing(kind, colour, row, column, size))
        owner[row : row + size, column : column + size] = len(things)
    return things


def _paint(
    rng: np.random.Generator,
    shown: tuple[int, int],
    things: list[Thing],
    plate: Sign | None,
    held_out: bool,
    style: Style,
) -> UInt8[np.ndarray, "height width 3"]:
    patch = style.patch_px
    digit_sizes = tuple(sorted({*style.digit_sizes, style.sign_rows}))

    def mask_of(kind: str, size: int) -> np.ndarray:
        variants = glyphs(held_out, patch, style.sizes, digit_sizes)[kind][size]
        mask = variants[rng.integers(len(variants))]
        # Crisp, or strokes would drown in a photograph.
        return np.clip(2 * mask - 0.5, 0, 1) if style.outline_px else mask

    canvas = style.ground(rng, max(shown) * patch, held_out)
    canvas = canvas[: shown[0] * patch, : shown[1] * patch]
    for thing in things:
        mask, plain = mask_of(thing.kind, thing.size), np.array(style.colours[thing.colour])
        colour, corner = plain + rng.normal(0, 8, 3), (thing.row * patch, thing.column * patch)
        if style.outline_px:
            line = np.array(CHALK if plain.mean() < 60 else INK)
            blend(canvas, _widened(mask, style.outline_px), line, corner)
        blend(canvas, mask, colour, corner)
    if plate is not None:
        edge, top, left = style.sign_rows * patch, plate.row * patch, plate.column * patch
        colour = style.plates[rng.integers(len(style.plates)) if len(style.plates) > 1 else 0]
        canvas[top : top + edge, left : left + edge * len(plate.number)] = colour
        for place, digit in enumerate(plate.number):
            mask = mask_of(digit, style.sign_rows)
            blend(canvas, mask, np.array(INK), (top, left + edge * place))
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def _widened(mask: np.ndarray, by_px: int) -> np.ndarray:
    """Let a mask grow on all sides, within its square."""
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.MaxFilter(2 * by_px + 1))) / 255.0


def blend(
    canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, corner: tuple[int, int]
) -> None:
    """Lay a colour over a canvas as far as the mask covers it, from a corner in pixels on."""
    (top, left), edge = corner, len(mask)
    area = canvas[top : top + edge, left : left + edge]
    area += mask[..., None] * (colour - area)
