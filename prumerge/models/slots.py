"""What a prompt shows of a picture or a video: slots, and the tiles or frames behind them.

A prompt holds a run of placeholders, its slots, for each picture or video. A slot shows one row of
what the encoder makes (a patch of a tile or frame), or a marker: a newline behind each row of
stitched tiles, a class token before each frame. Markers carry nothing of the place where they
stand, so reduction never merges or counts them; ``markers`` of :class:`prumerge.Settings` says
which are sent.

    Canvas   the patches of one tile or frame that a prompt shows, a rectangle of neighbours
    Visual   one picture or video: its slots and canvases
    Packed   all pictures, or all videos, of a call
    trace    which slot shows which row, by the model's own packing

Patches that are padding are in no canvas, so no method sees, keeps or merges them.

Shapes
    slots    of one picture or video, in the order of the prompt
    patches  of one canvas, in raster order
    tiles    pictures of the encoder: tiles or frames

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded


@dataclass(frozen=True, eq=False)
class Canvas:
    """What a prompt shows of one tile or frame: a rectangle of neighbouring patches.

    Args:
        tile: Its number among all tiles of the call.
        rows: Numbers of the patches in the tile.
        slots: Where they stand in the picture or video.
        grid: Rows and columns of patches.
        box: The part of the whole picture it shows, in shares of height and width: top, bottom,
            left, right. None for the whole picture and for frames.
    """

    tile: int
    rows: Int64[Tensor, " patches"]
    slots: Int64[Tensor, " patches"]
    grid: tuple[int, int]
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Visual:
    """One picture or video, slot by slot.

    Args:
        source: The row of encoder output that a slot shows, counted through all tiles of the call;
            marker number m is ``-1 - m``.
        canvases: Its tiles or frames, in the order of the prompt.
        runs: How many slots stand side by side; several numbers where text comes between.
        opens: Whether a marker belongs to the patches behind it (a class token), not to those in
            front (a newline).
    """

    source: Int64[Tensor, " slots"]
    canvases: tuple[Canvas, ...]
    runs: tuple[int, ...]
    opens: bool = False

    @property
    def sizes(self) -> list[int]:
        """Patches of each canvas."""
        return [len(canvas.slots) for canvas in self.canvases]


@dataclass(frozen=True, eq=False)
class Packed:
    """All pictures, or all videos, of a call, as the encoder and the prompts have them.

    Args:
        parts: The tiles, those of one size together; they are counted through all parts.
        visuals: The pictures or videos, in the order handed in.
        project: The map from features to the language model's width.
        markers: What the markers send, in the language model's width.
        beside: The map from features to what the language model's first layers add to a visual
            token, side by side; None where they add nothing.
    """

    parts: tuple[Encoded, ...]
    visuals: tuple[Visual, ...]
    project: Callable[[Tensor], Tensor] = field(repr=False)
    markers: Float[Tensor, "markers width"] | None = None
    beside: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    @property
    def plain(self) -> bool:
        """Whether each picture is one whole tile and nothing else, as in LLaVA-1.5."""
        whole = len(self.parts) == 1 and len(self.parts[0].scores) == len(self.visuals)
        return whole and all(
            len(visual.canvases) == 1 and len(visual.source) == self.parts[0].scores.shape[1]
            for visual in self.visuals
        )


def single(
    encoded: Encoded, project: Callable[[Tensor], Tensor], runs: tuple[int, ...] | None = None
) -> Packed:
    """Pack pictures of one tile each, all of whose patches are shown in raster order."""
    pictures, patches = encoded.scores.shape
    inside = torch.arange(patches)
    visuals = tuple(
        Visual(
            inside + number * patches,
            (Canvas(number, inside, inside, encoded.grid),),
            runs or (patches,),
        )
        for number in range(pictures)
    )
    return Packed((encoded,), visuals, project)


def videos(
    encoded: Encoded,
    frames: int,
    project: Callable[[Tensor], Tensor],
    *,
    newline: Float[Tensor, "1 width"] | None = None,
    class_tokens: Float[Tensor, "tiles width"] | None = None,
) -> Packed:
    """Pack videos of equally many frames, side by side in the prompt.

    Each frame is shown behind its class token, where there are ``class_tokens``, and each video
    before a newline, where there is one.
    """
    tiles, patches = encoded.scores.shape
    maps = torch.arange(tiles * patches).view(-1, frames, patches)
    if class_tokens is not None:
        maps = torch.cat([-1 - torch.arange(tiles).view(-1, frames, 1), maps], dim=2)
    maps = maps.flatten(1)
    if newline is not None:
        maps = torch.nn.functional.pad(maps, (0, 1), value=-1)
    opens = class_tokens is not None
    visuals = tuple(visual_of(own, [encoded.grid] * tiles, opens=opens) for own in maps)
    return Packed((encoded,), visuals, project, class_tokens if opens else newline)


def trace(
    pack: Callable[[list[Tensor], Tensor], Sequence[Tensor]], tiles: Sequence[int], patches: int
) -> list[Int64[Tensor, " _slots"]]:
    """Let a model's own packing say which slot shows which row of its encoder.

    ``pack`` is handed row numbers in place of features, ``[tiles, patches, 1]`` per picture, and -1
    in place of a newline. ``tiles`` counts those of each picture. What is packed by copying alone
    comes out as a slot map.
    """
    rows = torch.arange(sum(tiles) * patches, dtype=torch.float64).view(-1, patches, 1)
    packed = pack(list(rows.split(list(tiles))), rows.new_full((1,), -1))
    return [numbers[:, 0].long() for numbers in packed]


def visual_of(
    source: Int64[Tensor, " slots"],
    grids: Sequence[tuple[int, int]],
    *,
    stitched: bool = False,
    opens: bool = False,
    runs: tuple[int, ...] | None = None,
) -> Visual:
    """Find the canvases in a slot map; ``grids`` are those of all tiles of the call.

    ``stitched`` says that the first tile is the whole picture, and that all others are stitched
    into one rectangle with a newline behind each row: then each knows which part it shows.
    """
    ends = torch.tensor([rows * columns for rows, columns in grids]).cumsum(0)
    tiles = torch.bucketize(source, ends, right=True).masked_fill(source < 0, -1)
    shown = [tile for tile in dict.fromkeys(tiles.tolist()) if tile >= 0]
    canvases = []
    for tile in shown:
        slots = (tiles == tile).nonzero()[:, 0]
        rows = source[slots] - (int(ends[tile - 1]) if tile else 0)
        high, wide = rows // grids[tile][1], rows % grids[tile][1]
        grid = (int(high.max() - high.min()) + 1, int(wide.max() - wide.min()) + 1)
        part = stitched and tile != shown[0]
        box = _box(slots, source, len(canvases[0].slots)) if part else None
        canvases.append(Canvas(tile, rows, slots, grid, box))
    return Visual(source, tuple(canvases), runs or (len(source),), opens)


def _box(
    slots: Int64[Tensor, " patches"], source: Int64[Tensor, " slots"], start: int
) -> tuple[float, float, float, float]:
    """The shares of the stitched rectangle, which begins at ``start``, that some slots cover."""
    rows = int((source < 0).sum())
    width = (len(source) - start) // rows  # the newline included
    high, wide = (slots - start) // width, (slots - start) % width
    edges = (high.min(), high.max() + 1, wide.min(), wide.max() + 1)
    sides = (rows, rows, width - 1, width - 1)
    return tuple(int(edge) / side for edge, side in zip(edges, sides, strict=True))
