"""Features of a frozen vision tower, computed once for training and kept on disk.

    Pictures          numbered scenes: number and seed say all about each
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
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from PIL import Image
from torch import Tensor, nn

from prumerge.encoder import hidden_states
from prumerge.mini.scenes import Scene, draw_scene, most_objects
from prumerge.mini.styles import Style
from prumerge.paths import written_whole
from prumerge.tower import open_tower

VALUES, RECORD = "features.f16", "features.json"
CHUNK = 16  # pictures encoded and written together; a resumed run begins at a multiple of it


@dataclass(frozen=True)
class Pictures:
    """Training pictures by number, from 0; a longer list begins with the shorter one.

    Numbers of things come in turn, and every other round has a sign, so that a curriculum can
    choose pictures by their numbers.
    """

    count: int
    style: Style
    grid: int = 24
    seed: int = 0

    def scene(self, number: int, painted: bool = False) -> Scene:
        """Draw a picture, or tell what it holds, which is quick."""
        return draw_scene(
            np.random.default_rng((self.seed, number)),
            self.grid,
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
class Features:
    """The features of all pictures, on disk."""

    pictures: Pictures
    values: Float16[np.ndarray, "pictures patches width"]

    def read(self, numbers: Int[np.ndarray, " some"]) -> Float[Tensor, "some patches width"]:
        return torch.from_numpy(self.values[numbers].astype(np.float32))


def compute_features(
    folder: Path,
    pictures: Pictures,
    tower: nn.Module,
    prepare: Callable[..., Any],
    layer: int,
    origin: str,
    report: Callable[[dict], None] = print,
) -> Features:
    """Encode all pictures that ``folder`` does not hold yet, and open the features.

    A run may be killed at any moment; the next one goes on and ends in the same file.

    Args:
        tower: A stock vision tower with a class token, which is not kept.
        prepare: Its image processor.
        layer: Which of the tower's hidden states is kept, numbered as transformers does.
        origin: Where the tower is from; features of another one do not go on.
        report: Takes a row with pictures done, pictures per second and seconds left.

    Raises:
        ValueError: If the folder holds features of other pictures or of another tower, if the disk
            has no room for them, or if another run is writing them.
    """
    patches, width = pictures.grid**2, tower.config.hidden_size
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / VALUES).open("ab") as file:
        _lock(file, folder)
        _check_record(folder, _record_of(pictures, layer, origin, width))
        size = 2 * patches * width
        if (whole := file.tell() // size) < pictures.count:
            done = whole // CHUNK * CHUNK
            _check_room(folder, size * (pictures.count - done))
            file.truncate(done * size)  # what a kill left of a chunk
            for values in _encoded(pictures, done, tower, prepare, layer, report):
                file.write(values.tobytes())
                file.flush()
    values = np.memmap(folder / VALUES, np.float16, "r")
    values = values[: pictures.count * patches * width].reshape(-1, patches, width)
    return Features(pictures, values)


def _encoded(
    pictures: Pictures, first: int, tower: nn.Module, prepare, layer: int, report
) -> Iterator[Float16[np.ndarray, "chunk patches width"]]:
    began = time.perf_counter()
    for start in range(first, pictures.count, CHUNK):
        end = min(start + CHUNK, pictures.count)
        scenes = [pictures.scene(number, painted=True) for number in range(start, end)]
        yield encode_scenes(scenes, tower, prepare, layer).numpy()
        pace = (end - first) / (time.perf_counter() - began)
        row = {"pictures": end, "of": pictures.count, "pictures_per_s": round(pace, 2)}
        report(row | {"left_s": round((pictures.count - end) / pace)})


@torch.inference_mode()
def encode_scenes(
    scenes: list[Scene], tower: nn.Module, prepare: Callable[..., Any], layer: int
) -> Float16[Tensor, "scenes patches width"]:
    """Return the features of scenes' patches, rounded to float16."""
    shown = [Image.fromarray(scene.pixels) for scene in scenes]
    pixels = prepare(shown, return_tensors="pt")["pixel_values"].to(tower.device, tower.dtype)
    number = layer % (len(open_tower(tower).blocks) + 1)
    hidden = hidden_states(tower, pixels, {number})[number]
    return hidden[:, -scenes[0].owner.size :].to("cpu", torch.float16)


def _record_of(pictures: Pictures, layer: int, origin: str, width: int) -> dict[str, Any]:
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
