"""Mini scenes: things on a textured ground, drawn from a seed, with the truth about each.

A scene fills a square grid of patches (24 x 24 by default, 8 pixels each). It holds 1 to 12 things
(a coloured shape of 2 to 4 patches on an edge or handwritten digit of 3 or 4, aligned to patches,
never overlapping) and often a sign: a light plate with two or three dark digits, to be read.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from prumerge.mini.glyphs import COLOURS, DIGIT_SIZES, DIGITS, KINDS, PATCH_PIXELS, SIZES, glyphs

HELD_OUT_SEED = 90_000  # far from any training seed; the digits' scans differ as well
SIGN_SHARE = 0.4  # share of scenes that carry a sign
REPEAT_SHARE = 0.2  # share of things that repeat a colour, and share that repeat a kind
SIGN_ROWS = 3  # height of a sign and width of each of its digits, in patches


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
    """A plate with a number on it, three rows high and three columns wide per digit."""

    number: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """A drawn picture with its truth.

    ``owner`` tells for each patch shown: 0 for ground, 1 + index into ``things``, or
    1 + ``len(things)`` for the sign.
    """

    grid: int  # patches along an edge of the whole frame, in which positions are told
    corner: tuple[int, int]  # upper left patch of the part shown; 0, 0 unless it is a window
    things: tuple[Thing, ...]
    sign: Sign | None
    pixels: UInt8[np.ndarray, "height width 3"]
    owner: Int[np.ndarray, "rows columns"]

    @property
    def objects(self) -> int:
        """How many objects there are, the sign included."""
        return len(self.things) + (self.sign is not None)


def most_objects(grid: int) -> int:
    """Return how many things fit a frame well: 12, and 6 below 20 patches along an edge."""
    return 12 if grid >= 20 else 6


def draw_scene(
    rng: np.random.Generator,
    grid: int = 24,
    window: int | None = None,
    objects: int | tuple[int, int] = (1, 12),
    held_out: bool = False,
    sign: bool | None = None,
    corner: tuple[int, int] | None = None,
) -> Scene:
    """Draw one scene; the same state of ``rng`` draws the same one.

    Args:
        grid: Patches along an edge of the frame.
        window: Patches along an edge of the part that is drawn, whose upper left patch is
            ``corner`` (None: any); None draws the whole frame.
        objects: Number of things, or its range (ends included). Fewer when they do not fit.
        sign: Whether a sign is there; None leaves it to chance.
    """
    shown = window or grid
    if corner is None:
        corner = tuple(int(c) for c in rng.integers(0, grid - shown + 1, size=2))
    low, high = (objects, objects) if isinstance(objects, int) else objects
    if not 0 <= low <= high:
        raise ValueError(f"objects must be a number or a range from low to high, got {objects}")
    owner = np.zeros((shown, shown), dtype=np.int64)
    plate = _place_sign(rng, owner) if _wants_sign(rng, sign, shown) else None
    things = _place_things(rng, owner, int(rng.integers(low, high + 1)))
    if plate is not None:
        owner[owner == -1] = 1 + len(things)
    pixels = _paint(rng, shown, things, plate, held_out)
    down, across = corner
    things = tuple(replace(t, row=t.row + down, column=t.column + across) for t in things)
    if plate is not None:
        plate = replace(plate, row=plate.row + down, column=plate.column + across)
    return Scene(grid, corner, things, plate, pixels, owner)


def _wants_sign(rng: np.random.Generator, sign: bool | None, shown: int) -> bool:
    chance = rng.random() < SIGN_SHARE
    return (chance if sign is None else sign) and shown >= 3 * SIGN_ROWS


def _place_sign(rng: np.random.Generator, owner: np.ndarray) -> Sign:
    number = "".join(rng.choice(DIGITS, size=rng.integers(2, 4)))
    width = SIGN_ROWS * len(number)
    row = int(rng.integers(0, len(owner) - SIGN_ROWS + 1))
    column = int(rng.integers(0, len(owner) - width + 1))
    owner[row : row + SIGN_ROWS, column : column + width] = -1
    return Sign(number, row, column)


def _place_things(rng: np.random.Generator, owner: np.ndarray, count: int) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(20 * count):
        if len(things) == count:
            break
        kind, colour = KINDS[rng.integers(len(KINDS))], list(COLOURS)[rng.integers(len(COLOURS))]
        # Repeats make counting and telling apart worth asking about.
        if things and rng.random() < 2 * REPEAT_SHARE:
            model = things[rng.integers(len(things))]
            kind, colour = (kind, model.colour) if rng.random() < 0.5 else (model.kind, colour)
        size = int(rng.choice(DIGIT_SIZES if kind in DIGITS else SIZES))
        row, column = (int(v) for v in rng.integers(0, len(owner) - size + 1, size=2))
        if owner[row : row + size, column : column + size].any():
            continue
        things.append(Thing(kind, colour, row, column, size))
        owner[row : row + size, column : column + size] = len(things)
    return things


def _paint(
    rng: np.random.Generator, shown: int, things: list[Thing], plate: Sign | None, held_out: bool
) -> UInt8[np.ndarray, "height width 3"]:
    def mask_of(kind: str, size: int) -> np.ndarray:
        variants = glyphs(held_out)[kind][size]
        return variants[rng.integers(len(variants))]

    canvas = _ground(rng, shown * PATCH_PIXELS)
    for thing in things:
        mask = mask_of(thing.kind, thing.size)
        colour = np.array(COLOURS[thing.colour]) + rng.normal(0, 8, 3)
        _blend(canvas, mask, colour, thing.row, thing.column)
    if plate is not None:
        height, width = SIGN_ROWS * PATCH_PIXELS, SIGN_ROWS * PATCH_PIXELS * len(plate.number)
        top, left = plate.row * PATCH_PIXELS, plate.column * PATCH_PIXELS
        canvas[top : top + height, left : left + width] = (205, 200, 180)
        for place, digit in enumerate(plate.number):
            mask, column = mask_of(digit, SIGN_ROWS), plate.column + SIGN_ROWS * place
            _blend(canvas, mask, np.array((15, 15, 20)), plate.row, column)
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator, edge: int) -> Float[np.ndarray, "edge edge 3"]:
    tint = rng.uniform(45, 95) + rng.normal(0, 10, 3)
    shape = (edge // 24 + 2, edge // 24 + 2)
    coarse = rng.normal(0, 16, (*shape, 1)) + rng.normal(0, 5, (*shape, 3))
    steps = np.linspace(0, len(coarse) - 1.001, edge)
    whole, part = steps.astype(int), (steps % 1.0)[:, None]
    rows = coarse[whole] * (1 - part[..., None]) + coarse[whole + 1] * part[..., None]
    return tint + rows[:, whole] * (1 - part) + rows[:, whole + 1] * part


def _blend(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray, row: int, column: int) -> None:
    top, left, edge = row * PATCH_PIXELS, column * PATCH_PIXELS, len(mask)
    area = canvas[top : top + edge, left : left + edge]
    area += mask[..., None] * (colour - area)
