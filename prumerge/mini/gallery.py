"""Photographs as a pretrained tower sees them: what notebooks look at beside drawn scenes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from prumerge.encoder import Encoded
from prumerge.mini.pictures import Picture, as_seen, encode_pictures, load_pictures, to_pixels
from prumerge.mini.styles import PLAIN, Style
from prumerge.models.towers import NAME, load_tower
from prumerge.settings import Settings


class Gallery(NamedTuple):
    """Pictures, and what a tower says of them; ``origin`` tells in a sentence which tower."""

    pictures: list[Picture]
    seen: UInt8[np.ndarray, "images height width 3"]
    encoded: Encoded
    origin: str


def see_pictures(
    images: str = "photos",
    count: int = 13,
    tower: str = NAME,
    device: str = "cpu",
    settings: Settings | None = None,
    style: Style = PLAIN,
) -> Gallery | None:
    """Encode pictures with a vision tower alone, such as photographs with a pretrained one.

    ``dinov2-small`` is the package's here, so that the same is seen wherever it is installed. Where
    it is not, a sentence is printed and None comes back: what needs no tower still runs.

    Args:
        images: ``photos``, a folder, or empty for drawn scenes, see
            :func:`prumerge.mini.pictures.load_pictures`.
        style: Of drawn scenes.
        tower: What :func:`prumerge.models.towers.load_tower` takes.

    Raises:
        ValueError: If another tower, or no picture, can be read.
    """
    try:
        module, processor, origin = load_tower(tower, device, origin="package")
    except ModuleNotFoundError as error:
        print(f"Nothing is seen by {tower} here: {error}")
        return None
    pictures = load_pictures(images, count, style=style)
    pixels = to_pixels(processor, pictures)
    encoded = encode_pictures(module, pixels, settings)
    return Gallery(pictures, as_seen(processor, pixels), encoded, origin)
