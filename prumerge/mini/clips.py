"""Mini clips: scenes that move, drawn from a seed, with the truth about each frame.

A clip is eight frames of 16 x 16 patches, in the look of the mini-LLaVA's scenes. Its things move
one patch a frame in one direction or lie still; some come later than others, some blink. A sign is
there for two or three frames. No two things ever share a patch.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, UInt8

from prumerge.mini.glyphs import DIGITS, KINDS, glyphs
from prumerge.mini.scenes import INK, REPEAT_SHARE, Scene, Sign, Thing, blend
from prumerge.mini.styles import MOVING, Style

FRAMES, GRID = 8, 16
MOST_THINGS = 5
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
NOWHERE = "nowhere"
MOVING_SHARE, COMING_SHARE, BLINKING_SHARE = 0.5, 0.45, 0.5


@dataclass(frozen=True)
class Actor:
    """A thing over time: its upper left patch in each frame, and whether it is there."""

    kind: str
    colour: str
    size: int
    places: tuple[tuple[int, int], ...]
    shown: tuple[bool, ...]
    way: str = NOWHERE

    @property
    def name(self) -> str:
        """Colour and kind, as the questions say it."""
        return f"{self.colour} {self.kind}"

    @property
    def came(self) -> int:
        """The first frame it is in; 0 if it was there from the start."""
        return self.shown.index(True)

    @property
    def blinks(self) -> int:
        """How often it was gone and came back."""
        pairs = zip(self.shown, self.shown[1:], strict=False)
        return sum(before and not after for before, after in pairs)

    def thing(self, frame: int) -> Thing:
        """The thing as it lies in a frame."""
        return Thing(self.kind, self.colour, *self.places[frame], self.size)


@dataclass(frozen=True)
class Clip:
    """A drawn clip with its truth.

    ``owner`` tells for each patch of each frame: 0 for ground, 1 + index into ``actors``, or
    1 + ``len(actors)`` for the sign, which is there in ``sign_frames``.
    """

    grid: int
    actors: tuple[Actor, ...]
    sign: Sign | None
    sign_frames: tuple[int, ...]
    pixels: UInt8[np.ndarray, "frames height width 3"] | None  # None where it was only laid out
    owner: Int[np.ndarray, "frames rows columns"]
    style: Style = MOVING

    def whole(self) -> Scene:
        """All that was ever there, as a scene without pixels; things where they are at last."""
        things = tuple(actor.thing(-1) for actor in self.actors)
        return Scene(self.grid, (0, 0), things, self.sign, None, self.owner[-1], self.style)


def draw_clip(
    rng: np.random.Generator,
    frames: int = FRAMES,
    grid: int = GRID,
    objects: int = 3,
    sign: bool = False,
    held_out: bool = False,
    painted: bool = True,
    style: Style = MOVING,
) -> Clip:
    """Draw one clip; the same state of ``rng`` draws the same one.

    Args:
        objects: Number of things; fewer when they do not fit.
        painted: False tells what happens without drawing it, which is quick.
    """
    taken = np.zeros((grid, grid), dtype=bool)
    plate, plate_frames = _place_sign(rng, frames, taken, style) if sign else (None, ())
    actors = _place_actors(rng, frames, taken, objects, style)
    owner = np.zeros((frames, grid, grid), dtype=np.int64)
    for index, actor in enumerate(actors, start=1):
        for frame in np.flatnonzero(actor.shown):
            (row, column), size = actor.places[frame], actor.size
            owner[frame, row : row + size, column : column + size] = index
    if plate is not None:
        area = _area(plate.row, plate.column, style.sign_rows, len(plate.number))
        for frame in plate_frames:
            owner[frame][area] = 1 + len(actors)
    pixels = None
    if painted:
        pixels = _paint(rng, (frames, grid), actors, plate, plate_frames, held_out, style)
    return Clip(grid, actors, plate, plate_frames, pixels, owner, style)


def _area(row: int, column: int, rows: int, squares: int = 1) -> tuple[slice, slice]:
    return slice(row, row + rows), slice(column, column + rows * squares)


def _place_sign(
    rng: np.random.Generator, frames: int, taken: np.ndarray, style: Style
) -> tuple[Sign, tuple[int, ...]]:
    number, rows = "".join(rng.choice(DIGITS, size=2)), style.sign_rows
    row = int(rng.integers(0, len(taken) - rows + 1))
    column = int(rng.integers(0, len(taken) - 2 * rows + 1))
    taken[_area(row, column, rows, 2)] = True
    length = int(rng.integers(2, 4))
    first = int(rng.integers(0, frames - length + 1))
    return Sign(number, row, column), tuple(range(first, first + length))


def _place_actors(
    rng: np.random.Generator, frames: int, taken: np.ndarray, count: int, style: Style
) -> tuple[Actor, ...]:
    actors: list[Actor] = []
    free = list(range(1, frames - 1))  # when things may come: each at a time of its own
    for _ in range(20 * count):
        if len(actors) == count:
            break
        actor = _draw_actor(rng, frames, len(taken), actors, free, style)
        lane = np.zeros_like(taken)
        for row, column in actor.places:
            lane[_area(row, column, actor.size)] = True
        if (taken & lane).any():
            continue
        taken |= lane
        actors.append(actor)
        if actor.came:
            free.remove(actor.came)
    return tuple(actors)


def _draw_actor(
    rng: np.random.Generator,
    frames: int,
    grid: int,
    actors: list[Actor],
    free: list[int],
    style: Style,
) -> Actor:
    kind, colour = KINDS[rng.integers(len(KINDS))], str(rng.choice(list(style.colours)))
    if actors and rng.random() < 2 * REPEAT_SHARE:  # or names would need a colour or kind only
        model = actors[rng.integers(len(actors))]
        kind, colour = (kind, model.colour) if rng.random() < 0.5 else (model.kind, colour)
    size = int(rng.choice(style.digit_sizes if kind in DIGITS else style.sizes))
    way = str(rng.choice(list(STEPS))) if rng.random() < MOVING_SHARE else NOWHERE
    down, across = STEPS.get(way, (0, 0))
    spans = [abs(step) * (frames - 1) for step in (down, across)]
    row, column = (int(rng.integers(0, grid - size - span + 1)) for span in spans)
    row, column = row + spans[0] * (down < 0), column + spans[1] * (across < 0)
    places = tuple((row + down * frame, column + across * frame) for frame in range(frames))
    # What moves is there for half of the clip at least.
    times = [frame for frame in free if way == NOWHERE or frame <= frames // 2]
    shown = np.ones(frames, dtype=bool)
    if times and rng.random() < COMING_SHARE:
        shown[: rng.choice(times)] = False
    elif rng.random() < BLINKING_SHARE:
        shown[_gaps(rng, frames)] = False
    return Actor(kind, colour, size, places, tuple(bool(there) for there in shown), way)


def _gaps(rng: np.random.Generator, frames: int) -> list[int]:
    """Draw one to three single frames, neither first nor last, none beside another."""
    wanted, gaps = int(rng.integers(1, 4)), []
    for frame in rng.permutation(np.arange(1, frames - 1)).tolist():
        if len(gaps) < wanted and all(abs(frame - other) > 1 for other in gaps):
            gaps.append(frame)
    return gaps


def _paint(
    rng: np.random.Generator,
    shape: tuple[int, int],
    actors: tuple[Actor, ...],
    plate: Sign | None,
    plate_frames: tuple[int, ...],
    held_out: bool,
    style: Style,
) -> UInt8[np.ndarray, "frames height width 3"]:
    patch, (frames, grid) = style.patch_px, shape
    masks = glyphs(held_out, patch, style.sizes, style.digit_sizes)

    def mask_of(kind: str, size: int) -> np.ndarray:
        return masks[kind][size][rng.integers(len(masks[kind][size]))]

    canvas = np.repeat(style.ground(rng, grid * patch, held_out)[None], frames, axis=0)
    for actor in actors:
        mask = mask_of(actor.kind, actor.size)
        colour = np.array(style.colours[actor.colour]) + rng.normal(0, 8, 3)
        for frame in np.flatnonzero(actor.shown):
            row, column = actor.places[frame]
            blend(canvas[frame], mask, colour, (row * patch, column * patch))
    if plate is not None:
        digits = [mask_of(digit, style.sign_rows) for digit in plate.number]
        edge, top, left = style.sign_rows * patch, plate.row * patch, plate.column * patch
        for frame in plate_frames:
            canvas[frame, top : top + edge, left : left + edge * len(digits)] = style.plates[0]
            for place, mask in enumerate(digits):
                blend(canvas[frame], mask, np.array(INK), (top, left + edge * place))
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def still(clip: Clip, frame: int = 0) -> Clip:
    """Return a clip that shows one frame all the time: nothing in it moves, comes or blinks."""
    pixels = (
        None if clip.pixels is None else np.repeat(clip.pixels[[frame]], len(clip.pixels), axis=0)
    )
    owner = np.repeat(clip.owner[[frame]], len(clip.owner), axis=0)
    return replace(clip, pixels=pixels, owner=owner)


def one_busy_frame(rng: np.random.Generator, busy: int, objects: int = MOST_THINGS) -> Clip:
    """Draw a held-out clip of bare ground but for frame number ``busy``, which holds things."""
    bare = draw_clip(rng, objects=0, held_out=True)
    full = draw_clip(rng, objects=objects, held_out=True)
    pixels, owner = bare.pixels.copy(), bare.owner.copy()
    pixels[busy], owner[busy] = full.pixels[-1], full.owner[-1]  # at last nothing is away
    return replace(bare, pixels=pixels, owner=owner)
