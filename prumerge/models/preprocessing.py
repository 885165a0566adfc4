"""From a picture of any kind to what the processor is given: the one way of all parts.

Notebooks, explorer, sweeps, fine-tuning and evaluation go through here, so that a picture has the
same pixels in each.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from transformers.image_processing_utils import BaseImageProcessor

MOST_ELONGATED = 100
"""Longest edge over shortest. A processor may enlarge the short one first."""

LONGEST_EDGE_PX = 10_000
"""Padded to a square and prepared, such a picture takes 1.3 GB and a few seconds."""

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # what a TIFF tells of its values
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_SWITCH = threading.RLock()
_SHAPES = ("image_grid_pinpoints", "crop_to_patches", "merge_size")


@contextmanager
def truncation_told() -> Iterator[None]:
    """Have Pillow refuse truncated files, whatever the process is set to.

    Importing lmms-eval makes Pillow fill what is missing with grey. Threads decode one after the
    other in here, since the setting is the process's.
    """
    with _SWITCH:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def open_picture(source: str | Path | io.IOBase) -> Image.Image:
    """Decode a picture file as :func:`to_rgb` does; of a moving one, the first picture.

    What is no picture, truncated, or of an extreme shape is a ``ValueError`` with the reason.
    """
    try:
        with truncation_told(), Image.open(source) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:  # Pillow's words name an object in memory
        raise ValueError("no kind of picture that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture into red, green and blue as a person sees it.

    It is turned upright where a camera stored how it was held, and transparent parts are laid on
    white. Greys of more than 8 bits are scaled to 0 to 255: 16-bit ones by 0 to 65,535 (12-bit
    TIFF by 0 to 4,095); 32-bit integers by the first of 0 to 255 and 0 to 65,535 that holds all of
    them, floats by 0 to 1 if that does, else both from their smallest to their largest value (all
    equal: black). A red, green and blue picture stays as it is. An edge above
    :data:`LONGEST_EDGE_PX` or :data:`MOST_ELONGATED` times the other, or LAB, is a ``ValueError``.
    """
    _check_shape(*image.size)
    with truncation_told():
        image.load()
    if image.mode == "LAB":
        raise ValueError("its colours are in LAB: save it in RGB")
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.getbands()[-1] in "Aa" or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured)
    return image if image.mode == "RGB" else image.convert("RGB")


def of_pictures(processor: Any) -> BaseImageProcessor:
    """Return the part of a processor that prepares pictures, which is all that a tower's has."""
    return getattr(processor, "image_processor", processor)


def prepare(
    processor: Any,
    images: Sequence[Image.Image | UInt8[np.ndarray, "height width 3"]],
    do_pad: bool = True,
) -> list[Image.Image]:
    """Make decoded pictures ready for the processor, by :func:`to_rgb`.

    They are padded to squares with the processor's mean colour, as LLaVA-1.5 was trained and
    evaluated; ``do_pad=False`` leaves it to the processor's centre crop, which cuts off edges.
    Squares stay as they are, and so do all pictures where the processor keeps their shape: where it
    makes tiles of them (LLaVA-NeXT, OneVision, InternVL) or takes any number of patches (Qwen), it
    neither pads nor crops, whatever ``do_pad`` is.
    """
    pictures = (Image.fromarray(i) if isinstance(i, np.ndarray) else i for i in images)
    shown = [to_rgb(picture) for picture in pictures]
    if not do_pad or keeps_shape(processor):
        return shown
    colour = tuple(int(255 * value) for value in of_pictures(processor).image_mean)
    return [pad_to_square(image, colour) for image in shown]


def keeps_shape(processor: Any) -> bool:
    """Whether a processor takes pictures of any shape, and neither padded nor cropped squares."""
    return any(hasattr(of_pictures(processor), name) for name in _SHAPES)


def pad_to_square(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Pad a red, green and blue picture to a square, centred, as LLaVA-1.5 does; a square stays."""
    width, height = picture.size
    if width == height:
        return picture
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), colour)
    square.paste(picture, ((edge - width) // 2, (edge - height) // 2))
    return square


def _check_shape(width: int, height: int) -> None:
    if max(width, height) > LONGEST_EDGE_PX:
        raise ValueError(
            f"{width} x {height} pixels: at most {LONGEST_EDGE_PX} along an edge; make it smaller"
        )
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: one edge may be at most {MOST_ELONGATED} times the other; "
            "cut it"
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture of 16 or 32 bits to 8, with what is known about it."""
    values = np.asarray(image)
    if image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _FORMAT) in (None, _UNSIGNED):
        values = values.view(np.uint32)  # Pillow reads them as signed
    if not np.isfinite(values).all():
        raise ValueError("some of its values are no finite numbers")
    low, high = _range(image, float(values.min()), float(values.max()))
    shares = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        shares = 1 - shares
    if "transparency" in image.info:
        shares = np.where(values == image.info["transparency"], 1, shares)
    scaled = Image.fromarray(np.rint(255 * shares).astype(np.uint8))
    scaled.info = {name: told for name, told in image.info.items() if name != "transparency"}
    return scaled


def _range(image: Image.Image, smallest: float, largest: float) -> tuple[float, float]:
    """Return the values that are black and white."""
    if image.mode.startswith("I;16") or image.format == "PNG":
        return 0.0, 2.0 ** (_tag(image, _BITS) or 16) - 1
    for high in (1.0,) if image.mode == "F" else (255.0, 65_535.0):
        if smallest >= 0 and largest <= high:
            return 0.0, high
    return smallest, largest


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a tag that has one value for the whole of a TIFF; None without it."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
