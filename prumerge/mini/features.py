"""Features of a frozen vision tower, computed once for training and kept on disk.

    Pictures, Clips   numbered scenes, or moving ones: number and seed say all about each
    compute_features  fill a folder, or go on where a killed run stopped
    Features          what is there, read a few pictures at a time

Of each picture the patches' features of one layer are kept in float16, 0.4 MiB for 576 patches of
384 values. The file holds one picture behind the other and nothing else, so its length tells how
many are done.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from PIL import Image
from torch import Tensor, nn

from prumerge.encoder import hidden_states
from prumerge.mini.clips import FRAMES, GRID, MOST_THINGS, Clip, draw_clip
from prumerge.mini.scenes import Scene, draw_scene, most_objects
from prumerge.mini.styles import MOVING, Style
from prumerge.paths import written_whole
from prumerge.tower import open_tower

VALUES, RECORD = "features.f16", "features.json"
CHUNK = 16  # pictures encoded and written together; a resumed run begins at a multiple of it


@dataclass(frozen=True)
class Pictures:
    """Training pictures by number, from 0; a longer list begins with the shorter one.

    Numbers of things come in turn, and every other round has a sign, so that a curriculum can
    choose pictures by their numbers. A style of several frames shows one of them in two rounds.
    """

    count: int
    style: Style
    grid: int = 24
    seed: int = 0

    @property
    def rows(self) -> int:
        """How many rows of features one picture has."""
        return self.grid**2

    def scene(self, number: int, painted: bool = False) -> Scene:
        """Draw a picture, or tell what it holds, which is quick."""
        grids = self.style.grids(self.grid)
        return draw_scene(
            np.random.default_rng((self.seed, number)),
            grids[number // (2 * most_objects(self.grid)) % len(grids)],
            objects=1 + number % most_objects(self.grid),
            sign=number // most_objects(self.grid) % 2 == 1,
            style=self.style,
            painted=painted,
        )

    def like(self, objects: tuple[int, int], sign: bool | None) -> Int[np.ndarray, " found"]:
        """Number the pictures with so many things (ends included), with a sign or without.

        ValueError if there is none.
        """
        numbers, most = np.arange(self.count), most_objects(self.grid)
        things = 1 + numbers % most
        fit = (objects[0] <= things) & (things <= objects[1])
        if sign is not None:
            fit &= (numbers // most % 2 == 1) == sign
        if not fit.any():
            raise ValueError(
                f"none of {self.count} pictures has {objects[0]} to {objects[1]} things and "
                f"{'a sign' if sign else 'no sign'}: {2 * most} pictures hold every kind"
            )
        return numbers[fit]


@dataclass(frozen=True)
class Clips:
    """Training clips by number, as :class:`Pictures`; the frames' class tokens are kept too."""

    count: int
    style: Style = MOVING
    grid: int = GRID
    seed: int = 0
    frames: int = FRAMES

    @property
    def rows(self) -> int:
        """How many rows of features one clip has: of each frame class token, then patches."""
        return self.frames * (1 + self.grid**2)

    def scene(self, number: int, painted: bool = False) -> Clip:
        """Draw a clip, or tell what happens in it, which is quick."""
        return draw_clip(
            np.random.default_rng((self.seed, number)),
            self.frames,
            self.grid,
            objects=1 + number % MOST_THINGS,
            sign=number // MOST_THINGS % 2 == 1,
            painted=painted,
            style=self.style,
        )

    def like(self, objects: tuple[int, int]) -> Int[np.ndarray, " found"]:
        """Number the clips with so many things, ends included."""
        things = 1 + np.arange(self.count) % MOST_THINGS
        return np.flatnonzero((objects[0] <= things) & (things <= objects[1]))


@dataclass(frozen=True)
class Features:
    """The features of all pictures, or of all clips, on disk."""

    pictures: Pictures | Clips
    values: Float16[np.ndarray, "pictures patches width"]

    def read(self, numbers: Int[np.ndarray, " some"]) -> Float[Tensor, "some patches width"]:
        return torch.from_numpy(self.values[numbers].astype(np.float32))


def compute_features(
    folder: Path,
    pictures: Pictures | Clips,
    tower: nn.Module,
    prepare: Callable[..., Any],
    layer: int,
    origin: str,
    report: Callable[[dict], None] = print,
    see: Callable[..., Float16[Tensor, "scenes patches width"]] | None = None,
) -> Features:
    """Encode all pictures that ``folder`` does not hold yet, and open the features.

    A run may be killed at any moment; the next one goes on and ends in the same file.

    Args:
        tower: A stock vision tower with a class token, which is kept of clips only.
        prepare: Its image processor.
        layer: Which of the tower's hidden states is kept, numbered as transformers does.
        origin: Where the tower is from; features of another one do not go on.
        report: Takes a row with pictures done, pictures per second and seconds left.
        see: Encodes scenes, called as :func:`encode_scenes`, which is the default.

    Raises:
        ValueError: If the folder holds features of other pictures or of another tower, if the disk
            has no room for them, or if another run is writing them.
    """
    rows, width = pictures.rows, tower.config.hidden_size
    see = partial(see or encode_scenes, tower=tower, prepare=prepare, layer=layer)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / VALUES).open("ab") as file:
        _lock(file, folder)
        _check_record(folder, _record_of(pictures, layer, origin, width))
        size = 2 * rows * width
        if (whole := file.tell() // size) < pictures.count:
            done = whole // CHUNK * CHUNK
            _check_room(folder, size * (pictures.count - done))
            file.truncate(done * size)  # what a kill left of a chunk
            for values in _encoded(pictures, done, see, report):
                file.write(values.tobytes())
                file.flush()
    values = np.memmap(folder / VALUES, np.float16, "r")
    values = values[: pictures.count * rows * width].reshape(-1, rows, width)
    return Features(pictures, values)


def _encoded(
    pictures: Pictures | Clips, first: int, see: Callable[..., Tensor], report
) -> Iterator[Float16[np.ndarray, "chunk patches width"]]:
    began = time.perf_counter()
    for start in range(first, pictures.count, CHUNK):
        end = min(start + CHUNK, pictures.count)
        scenes = [pictures.scene(number, painted=True) for number in range(start, end)]
        yield see(scenes).numpy()
        pace = (end - first) / (time.perf_counter() - began)
        row = {"pictures": end, "of": pictures.count, "pictures_per_s": round(pace, 2)}
        report(row | {"left_s": round((pictures.count - end) / pace)})


@torch.inference_mode()
def encode_scenes(
    scenes: list[Scene] | list[Clip], tower: nn.Module, prepare: Callable[..., Any], layer: int
) -> Float16[Tensor, "scenes rows width"]:
    """Return the features of scenes' patches, or of all tokens of clips' frames, in float16."""
    edge = scenes[0].owner.shape[-1]
    frames = np.concatenate([s.pixels.reshape(-1, *s.pixels.shape[-3:]) for s in scenes])
    shown = [Image.fromarray(frame) for frame in frames]
    pixels = prepare(shown, return_tensors="pt")["pixel_values"].to(tower.device, tower.dtype)
    number = layer % (len(open_tower(tower).blocks) + 1)
    hidden = hidden_states(tower, pixels, {number})[number]
    tokens = hidden if isinstance(scenes[0], Clip) else hidden[:, -(edge**2) :]
    return tokens.reshape(len(scenes), -1, hidden.shape[-1]).to("cpu", torch.float16)


def _record_of(pictures: Pictures | Clips, layer: int, origin: str, width: int) -> dict[str, Any]:
    first = hashlib.sha256(pictures.scene(0, painted=True).pixels.tobytes()).hexdigest()[:12]
    return {
        "tower": origin,
        "layer": layer,
        "width": width,
        "grid": pictures.grid,
        "style": pictures.style.name,
        "seed": pictures.seed,
        "first_picture": first,  # other photographs, or another way to draw, make another
    }


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    path = folder / RECORD
    if not path.exists():
        with written_whole(path) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    if apart := [name for name in record if found.get(name) != record[name]]:
        told = ", ".join(f"{name} {found.get(name)!r}, not {record[name]!r}" for name in apart)
        raise ValueError(
            f"{folder} holds other features ({told}): name another folder, or empty it"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder} needs {needed / 1e9:.1f} GB more and its disk has {free / 1e9:.1f}: name "
            "a folder on another disk, or fewer pictures"
        )


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"another run writes into {folder}: wait for it, or end it") from error
