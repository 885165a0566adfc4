"""The things a mini scene is made of: handwritten digits and plain shapes, as coverage masks.

A glyph is an alpha mask in [0, 1] of ``size x size`` pixels. Digits are 8 x 8 scans, enlarged and
slightly turned; shapes are drawn. Digits used for evaluation come from scans that training never
sees. ``digits.npz`` holds the scans, in 17 greys, and what they show: the 1,797 that scikit-learn
has (UCI optical recognition of handwritten digits, E. Alpaydin and C. Kaynak, CC BY 4.0).
"""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw

PATCH_PIXELS = 8
SIZES = (2, 3, 4)  # edge of a shape, in patches; digits start at 3, to stay legible
DIGITS = tuple("0123456789")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
KINDS = SHAPES + DIGITS
COLOURS = {
    "red": (225, 55, 50),
    "green": (50, 190, 75),
    "blue": (70, 110, 245),
    "yellow": (245, 220, 60),
    "pink": (235, 90, 215),
    "white": (245, 245, 245),
}
HELD_OUT_DIGITS = 360  # the last scans of the set; they come from other writers than the first ones
TRAIN_VARIANTS, SHAPE_VARIANTS = 4, 12


@cache
def glyphs(
    held_out: bool,
    patch_px: int = PATCH_PIXELS,
    sizes: tuple[int, ...] = SIZES,
    digit_sizes: tuple[int, ...] = SIZES[1:],
) -> dict[str, dict[int, Float32[np.ndarray, "variants pixels pixels"]]]:
    """Build the masks by kind and size, the same at every call, for training or held out.

    ``sizes`` are the edges of shapes in patches, ``digit_sizes`` those of digits.
    """
    rng = np.random.default_rng(20240322 + held_out)
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        scans, digits = stored["scans"], stored["digits"]
    chosen = slice(-HELD_OUT_DIGITS, None) if held_out else slice(None, -HELD_OUT_DIGITS)
    images, labels = scans[chosen] / 16.0, digits[chosen]
    edges, legible = ({size: size * patch_px for size in chosen} for chosen in (sizes, digit_sizes))
    masks = {shape: _shape_masks(shape, edges, rng) for shape in SHAPES}
    for digit in DIGITS:
        masks[digit] = _digit_masks(images[labels == int(digit)], legible, held_out, rng)
    return masks


def _digit_masks(
    scans: np.ndarray, edges: dict[int, int], held_out: bool, rng: np.random.Generator
) -> dict[int, np.ndarray]:
    variants = 1 if held_out else TRAIN_VARIANTS
    masks = {size: [] for size in edges}
    for scan in scans:
        picture = Image.fromarray((scan * 255).astype(np.uint8))
        for variant in range(variants):
            turned = variant > 0
            angle = rng.uniform(-12, 12) if turned else 0.0
            zoom = rng.uniform(0.85, 1.1) if turned else 1.0
            for size, pixels in edges.items():
                masks[size].append(_fit(picture, pixels, angle, zoom))
    return {size: np.stack(found).astype(np.float32) for size, found in masks.items()}


def _fit(picture: Image.Image, pixels: int, angle: float, zoom: float) -> np.ndarray:
    inner = max(1, round(pixels * 0.95 * zoom))
    enlarged = picture.resize((inner, inner), Image.Resampling.BICUBIC)
    enlarged = enlarged.rotate(angle, Image.Resampling.BILINEAR)
    canvas = Image.new("L", (pixels, pixels))
    canvas.paste(enlarged, ((pixels - inner) // 2, (pixels - inner) // 2))
    return np.asarray(canvas) / 255.0


def _shape_masks(
    shape: str, edges: dict[int, int], rng: np.random.Generator
) -> dict[int, np.ndarray]:
    masks = {}
    for size, pixels in edges.items():
        drawn = [_draw_shape(shape, pixels, rng.uniform(0.78, 1.0)) for _ in range(SHAPE_VARIANTS)]
        masks[size] = np.stack(drawn).astype(np.float32)
    return masks


def _draw_shape(shape: str, pixels: int, zoom: float, oversample: int = 4) -> np.ndarray:
    edge = pixels * oversample
    canvas = Image.new("L", (edge, edge))
    pen = ImageDraw.Draw(canvas)
    middle, radius = edge / 2, edge / 2 * zoom * 0.95
    box = [middle - radius, middle - radius, middle + radius, middle + radius]
    if shape in ("circle", "ring"):
        pen.ellipse(box, fill=255)
        if shape == "ring":
            inner = radius * 0.5
            pen.ellipse([middle - inner, middle - inner, middle + inner, middle + inner], fill=0)
    elif shape == "square":
        pen.rectangle([edge / 2 + (b - edge / 2) * 0.88 for b in box], fill=255)
    elif shape == "cross":
        arm = radius * 0.33
        pen.rectangle([middle - arm, middle - radius, middle + arm, middle + radius], fill=255)
        pen.rectangle([middle - radius, middle - arm, middle + radius, middle + arm], fill=255)
    else:
        spikes, inner = (3, 0.5) if shape == "triangle" else (5, 0.42)
        turn = np.arange(2 * spikes) * np.pi / spikes - np.pi / 2
        reach = radius * np.where(np.arange(2 * spikes) % 2, inner, 1.0)
        points = np.stack([middle + reach * np.cos(turn), middle + reach * np.sin(turn)], axis=1)
        pen.polygon([tuple(point) for point in points], fill=255)
    small = canvas.resize((pixels, pixels), Image.Resampling.BOX)
    return np.asarray(small) / 255.0
