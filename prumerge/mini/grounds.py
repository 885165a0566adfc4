"""What scenes are drawn on: noise, or photographs and textures that come with packages.

The photographs are the gallery's, see :mod:`prumerge.mini.photographs`. Three are held out:
training never shows them, and they come with packages that notebooks need anyway.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from prumerge.mini.photographs import PHOTOGRAPHS
from prumerge.models.preprocessing import open_picture

HELD_OUT = ("temple", "flower", "portrait")
SMALLEST_CROP = 0.35  # of a photograph's shorter edge; smaller ones show next to nothing

Ground = Float[np.ndarray, "edge edge 3"]


def noise(
    rng: np.random.Generator,
    edge: int,
    brightness: tuple[float, float] = (45.0, 95.0),
    blot: int = 24,
) -> Ground:
    """Draw a tint with soft blots of ``blot`` pixels; ``brightness`` is its range, of 255."""
    tint = rng.uniform(*brightness) + rng.normal(0, 10, 3)
    shape = (edge // blot + 2, edge // blot + 2)
    coarse = rng.normal(0, 16, (*shape, 1)) + rng.normal(0, 5, (*shape, 3))
    steps = np.linspace(0, len(coarse) - 1.001, edge)
    whole, part = steps.astype(int), (steps % 1.0)[:, None]
    rows = coarse[whole] * (1 - part[..., None]) + coarse[whole + 1] * part[..., None]
    return tint + rows[:, whole] * (1 - part) + rows[:, whole + 1] * part


def photograph(rng: np.random.Generator, edge: int, held_out: bool) -> Ground:
    """Draw a part of a photograph, mirrored or not, brighter or darker; grey ones are tinted."""
    shown = photographs(held_out)[rng.integers(len(photographs(held_out)))]
    side = int(min(shown.size) * rng.uniform(SMALLEST_CROP, 1.0))
    left, top = (int(rng.integers(0, length - side + 1)) for length in shown.size)
    part = shown.resize(
        (edge, edge), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
    )
    if rng.random() < 0.5:
        part = ImageOps.mirror(part)
    canvas = np.asarray(part, dtype=np.float64) * rng.uniform(0.75, 1.25)
    return canvas * rng.uniform(0.7, 1.2, 3) if _is_grey(part) else canvas


@cache
def photographs(held_out: bool) -> tuple[Image.Image, ...]:
    """Read the gallery's photographs, those of training or those held out, in its order.

    ValueError where one is missing: scenes are the same on every machine or are not drawn.
    """
    chosen = [one for one in PHOTOGRAPHS if (one.name in HELD_OUT) == held_out]
    paths = {one.name: one.find() for one in chosen}
    if lacking := [name for name, path in paths.items() if path is None]:
        raise ValueError(
            f"scenes on photographs lack {', '.join(lacking)}: "
            "pip install 'prumerge[notebooks,tower]'"
        )
    return tuple(open_picture(path) for path in paths.values())


def _is_grey(picture: Image.Image) -> bool:
    pixels: UInt8[np.ndarray, "edge edge 3"] = np.asarray(picture)
    return bool((pixels[..., 0] == pixels[..., 1]).all())
