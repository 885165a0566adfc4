"""Frames of clips, read from files: a folder of pictures, or a GIF, WebP or PNG that moves.

open_frames      all of them, or some
FrameFiles       those of a folder, each read when it is asked for
evenly_spaced    as many as a model is shown
"""

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prumerge.models.preprocessing import open_picture, to_rgb, truncation_told

Frame = Any  # Pillow image, or array [height, width, 3] of 8-bit values; anything else is told
FRAMES = 8  # what Video-LLaVA was trained with

SHOWN_MS = "shown_ms"
"""Where the ``info`` of a frame has its begin and end in milliseconds since the clip's begin."""


def evenly_spaced(frames: Sequence[Frame], count: int = FRAMES) -> list[Frame]:
    """Choose ``count`` frames, first and last among them; fewer frames are a ValueError.

    Example:
        >>> evenly_spaced([0, 1, 2, 3, 4, 5, 6], 3)
        [0, 3, 6]
    """
    if not 1 <= count <= len(frames):
        raise ValueError(f"cannot choose {count} of {len(frames)} frames: ask for 1 to all of them")
    places = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    return [frames[place] for place in places]


def tells_times(frames: Sequence[Frame]) -> bool:
    """Whether frames know when they are shown, as :func:`open_frames` notes it."""
    return all(SHOWN_MS in getattr(frame, "info", ()) for frame in frames)


class FrameFiles(Sequence[Image.Image]):
    """The pictures of a folder in the order of their names, each read when it is asked for.

    Long videos are many pictures, of which few are shown. A folder without any is a ValueError, and
    so is, where it is asked for, a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        if not self.files:
            raise ValueError(f"{folder} holds no frames: write a video's frames there as pictures")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Image.Image:
        return _opened(self.files[place])


def open_frames(source: str | Path, count: int | None = None) -> list[Image.Image]:
    """Read a folder of pictures in the order of their names, or a GIF, WebP or PNG that moves.

    Of its frames ``count`` are taken, by :func:`evenly_spaced`; None takes all. What cannot be read
    is a ValueError; a film's frames have to be written out first. Where a moving picture tells how
    long each frame lasts, that is in its ``info`` as :data:`SHOWN_MS`.
    """
    path = Path(source)
    if path.is_dir():
        frames = FrameFiles(path)
        return list(frames if count is None else evenly_spaced(frames, count))
    try:
        with truncation_told(), Image.open(path) as moving:
            frames = _all_of(moving)
            # Cut off between two frames it would be a shorter clip to Pillow.
            if moving.format == "GIF" and not path.read_bytes().endswith(b";"):
                raise OSError("a GIF that is cut off")
    except FileNotFoundError as error:
        raise ValueError(f"no video {path}: name a folder of pictures, or a GIF") from error
    except (OSError, EOFError, SyntaxError, IndexError, struct.error) as error:
        raise ValueError(
            f"{path} is no moving picture that Pillow reads ({error}): write its frames into a "
            "folder, such as ffmpeg does with -i FILM FOLDER/%04d.png"
        ) from error
    return frames if count is None else evenly_spaced(frames, count)


def _all_of(moving: Image.Image) -> list[Image.Image]:
    frames, lasting = [], []
    for place in range(getattr(moving, "n_frames", 1)):
        moving.seek(place)
        frames.append(to_rgb(moving.copy()))
        lasting.append(moving.info.get("duration", 0))
    if all(lasting):
        for frame, lasts, end in zip(frames, lasting, itertools.accumulate(lasting), strict=True):
            frame.info[SHOWN_MS] = end - lasts, end
    return frames


def _opened(file: Path) -> Image.Image:
    try:
        return open_picture(file)
    except ValueError as error:
        raise ValueError(f"{file} is no frame of a video ({error})") from error
