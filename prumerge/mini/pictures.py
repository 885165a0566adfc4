"""The pictures a notebook looks at: a user's folder, photographs, or drawn scenes with their truth.

load_pictures     read or draw them
PHOTOGRAPHS       those that come with installed packages
read_picture      read one; ``read_photograph`` of those
to_pixels         as the encoder takes them, and
as_seen           back again, to draw on
encode_pictures   features, keys and scores of many
"""

import dataclasses
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from prumerge.encoder import Encoded
from prumerge.mini.photographs import PHOTOGRAPHS, Photograph  # noqa: F401  handed on
from prumerge.mini.scenes import HELD_OUT_SEED, Scene, draw_scene, most_objects
from prumerge.mini.styles import PLAIN, Style
from prumerge.models.loading import grid_of  # noqa: F401  handed on
from prumerge.models.preprocessing import of_pictures, open_picture, prepare
from prumerge.scores import encode
from prumerge.settings import Settings

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, and what is known about it."""

    name: str  # the file's, or ``scene 3``
    image: Image.Image
    scene: Scene | None = None  # None for a user's picture, about which nothing is known
    licence: str = ""  # of a photograph of the gallery

    @property
    def objects(self) -> int | None:
        """How many objects were drawn; None for a user's picture."""
        return None if self.scene is None else self.scene.objects

    @property
    def covered(self) -> Bool[np.ndarray, " patches"] | None:
        """True for patches on which an object lies, in raster order; None for a user's picture."""
        return None if self.scene is None else (self.scene.owner > 0).ravel()


def load_pictures(
    folder: str | Path | None,
    count: int,
    seed: int = 0,
    grid: int = 24,
    style: Style = PLAIN,
) -> list[Picture]:
    """Read a user's pictures or photographs, or draw scenes that training never saw.

    Args:
        folder: Taken in the order of names, hidden files (``._photo.jpg``) passed over. ``photos``
            are :data:`PHOTOGRAPHS`, cropped to the square in their middle (``./photos`` is a
            folder of that name); of a package that is missing, a warning tells. None or empty
            draws scenes with 1, 2, ... up to 12 objects in turn (6 on grids below 20).
        count: Most pictures to read; scenes to draw. ValueError where none can be had.
        seed: Of the drawn scenes. A longer list begins with the shorter one.
        style: Of the drawn scenes: :func:`prumerge.mini.styles.style_of` the model that sees them.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 picture, got {count}")
    if folder == "photos":
        return _photographs(count)
    if folder:
        return [read_picture(path) for path in _files(_path(folder))[:count]]
    rng = np.random.default_rng((HELD_OUT_SEED, seed, 1000))
    most = most_objects(grid)
    how = {"held_out": True, "style": style}
    scenes = [draw_scene(rng, grid, objects=1 + i % most, **how) for i in range(count)]
    return [
        Picture(f"scene {number}", Image.fromarray(scene.pixels), scene)
        for number, scene in enumerate(scenes)
    ]


def read_picture(source: str | Path | io.IOBase, name: str = "") -> Picture:
    """Read one picture, from its path or open file, as a person sees it.

    See :func:`prumerge.models.preprocessing.to_rgb`. Quotes and spaces around a path given as text
    are dropped; without ``name`` the picture is called as its file. ValueError if it is damaged,
    truncated, or of an extreme shape.
    """
    if isinstance(source, str | Path):
        source = _path(source)
    name = name or Path(str(getattr(source, "name", "picture"))).name
    try:
        return Picture(name, open_picture(source))
    except ValueError as error:
        shown = source if isinstance(source, Path) else name
        raise ValueError(
            f"{shown} is no readable picture ({error}): remove or replace it"
        ) from error


def read_photograph(name: str) -> Picture:
    """Read one of :data:`PHOTOGRAPHS`, cropped to the square in its middle.

    ValueError if there is none of that name, or if its package is missing.
    """
    known = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    if name not in known:
        raise ValueError(f"there is no photograph {name!r}: choose one of {', '.join(known)}")
    photograph = known[name]
    path = photograph.find()
    if path is None:
        raise ValueError(f"there is no photograph {name!r} {_without({photograph.package})}")
    return Picture(name, _square(read_picture(path).image), licence=photograph.licence)


def to_pixels(
    processor: ProcessorMixin | BaseImageProcessor,
    pictures: Sequence[Picture | Image.Image],
    do_pad: bool = True,
) -> Float[Tensor, "images *tiles 3 height width"]:
    """Prepare pictures for an encoder: padded to squares, resized to its size, normalised.

    They may be arrays of red, green and blue, of any but an extreme shape. ``do_pad=False`` crops
    instead; see :func:`prumerge.models.preprocessing.prepare`. A processor of tiles makes several
    of each, zeros among them where another picture has more.
    """
    images = [getattr(picture, "image", picture) for picture in pictures]
    images = prepare(processor, images, do_pad)
    return of_pictures(processor)(images, return_tensors="pt")["pixel_values"]


def as_seen(
    processor: ProcessorMixin | BaseImageProcessor,
    pixel_values: Float[Tensor, "images 3 height width"],
) -> UInt8[np.ndarray, "images height width 3"]:
    """Turn prepared pictures back into colours, the padded border too: what the encoder sees."""
    prepared = of_pictures(processor)
    mean, deviation = torch.tensor([prepared.image_mean, prepared.image_std])[..., None, None]
    colours = (pixel_values.float().cpu() * deviation + mean) * 255
    return colours.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def encode_pictures(
    model: nn.Module,
    pixel_values: Float[Tensor, "images 3 height width"],
    settings: Settings | None = None,
    batch_size: int = 16,
) -> Encoded:
    """Encode many pictures, some at a time, with the model's vision tower and feature layer.

    Those of a LLaVA-NeXT are tiles. A vision tower alone hands on what enters its last block, as in
    LLaVA-1.5. ``settings`` say how scores and keys are read, see :func:`prumerge.encode`. All that
    a method may ask for is in float32 on the CPU, without gradients.
    """
    tower, layer, project = model, -2, None
    if isinstance(model, LlavaForConditionalGeneration | LlavaNextForConditionalGeneration):
        tower, layer = model.model.vision_tower, model.config.vision_feature_layer
        project = model.model.multi_modal_projector

    @torch.no_grad()
    def see(pixels: Tensor) -> Encoded:
        seen = encode(tower, pixels, settings, layer)
        seen = dataclasses.replace(
            seen,
            project=project,
            at_grid=torch.no_grad()(seen.at_grid),
            rerun=torch.no_grad()(seen.rerun),
        )
        return seen.to("cpu", torch.float32)

    return Encoded.joined([see(part) for part in pixel_values.split(batch_size)])


def _photographs(count: int) -> list[Picture]:
    """Read those that are here, and tell which packages would bring the others."""
    found = [(photograph, photograph.find()) for photograph in PHOTOGRAPHS]
    missing = {photograph.package for photograph, path in found[:count] if path is None}
    here = [photograph for photograph, path in found if path is not None][:count]
    if not here:
        raise ValueError(f"there are no photographs {_without(missing)}")
    if missing:
        names = ", ".join(photograph.name for photograph, path in found[:count] if path is None)
        warnings.warn(f"the photographs lack {names} {_without(missing)}", stacklevel=3)
    return [read_photograph(photograph.name) for photograph in here]


def _without(packages: set[str]) -> str:
    return f"without {', '.join(sorted(packages))}: pip install 'prumerge[notebooks,tower]'"


def _square(image: Image.Image) -> Image.Image:
    """Cut the largest square out of the middle."""
    side, (width, height) = min(image.size), image.size
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: name one with pictures, or none for drawn scenes")
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
        found = [path for path in found if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        told = f"folder {folder} cannot be read ({error.strerror}): allow it or copy the pictures"
        raise ValueError(told) from error
    if not found:
        raise ValueError(f"{folder} holds no picture: put {', '.join(SUFFIXES)} files there")
    return sorted(found)


def _path(place: str | Path) -> Path:
    """Return the path that a person has typed or pasted, ``~`` for home, perhaps in quotes."""
    path = os.path.expanduser(place)
    if isinstance(place, str) and not os.path.exists(path):
        path = os.path.expanduser(place.strip().strip("'\"").strip())
    return Path(path)
