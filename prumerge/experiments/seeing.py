"""Towers side by side: what each of them sees of pictures, in every block and head.

    load_towers   a pretrained tower, and beside it the one inside a LLaVA
    see           pictures -> their class attention, and the scores that a fence is put to
    draw_scenes   drawn scenes as large as a tower's grid
    measure_kept  how many patches a fence keeps of each, and how many of these lie on objects

Shapes
    blocks   of the tower; block i reads hidden state i
    patches  visual tokens of one picture, class token excluded
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prumerge.experiments.attention import head_attention, heads_as_one
from prumerge.mini.pictures import Picture, as_seen, encode_pictures, load_pictures, to_pixels
from prumerge.models.loading import load
from prumerge.models.preprocessing import of_pictures
from prumerge.models.towers import NAME, LoadedTower, load_tower
from prumerge.outliers import check_enough, keep_outliers
from prumerge.settings import Settings, suggestion
from prumerge.tower import Tower, open_tower

OWN = "model"


class Seen(NamedTuple):
    """Pictures as a tower sees them."""

    pictures: list[Picture]
    pixels: UInt8[np.ndarray, "images height width 3"]
    attention: Float[Tensor, "blocks images heads patches"]
    scores: Float[Tensor, "images patches"]
    grid: tuple[int, int]
    read: int  # the block that a method reads


def load_towers(tower: str = NAME, model: str = "mini", device: str = "cpu") -> dict:
    """Load a pretrained tower and, beside it, the one inside a LLaVA; by name, the former first.

    Args:
        tower: ``dinov2-small``, which is the package's here so that it is the same everywhere; what
            :func:`prumerge.models.towers.load_tower` takes; or ``model``: that of the LLaVA alone.
            Where the package is missing a sentence is printed, and the LLaVA's stands in.
        model: What :func:`prumerge.models.load` takes.

    Returns:
        :class:`prumerge.models.towers.LoadedTower` by name. Of the second, ``tower`` is the whole
        LLaVA, which also says which block is read.

    Raises:
        ValueError: If ``tower`` is no name that is known, no folder and no hub id.
    """
    llava, processor = load(model, device)
    own = {model: LoadedTower(llava, processor, f"the vision tower of the LLaVA {model}")}
    if tower in (OWN, model):
        return own
    if tower != NAME and "/" not in tower and not os.path.isdir(os.path.expanduser(tower)):
        told = suggestion(tower, [NAME, OWN, model])
        raise ValueError(f"tower={tower!r} is no tower: {told}, or a folder or hub id")
    try:
        return {tower: load_tower(tower, device, origin="package")} | own
    except ModuleNotFoundError as error:
        print(f"The tower of {model} looks at everything, for want of {tower}: {error}")
        return own


def see(loaded: LoadedTower, pictures: Sequence[Picture], settings: Settings | None = None) -> Seen:
    """Let a tower look at pictures; ``settings`` (None: the paper's fence) say how it is scored.

    The scores are those of :func:`prumerge.encode` in the block behind the features that are handed
    on: of a LLaVA by its own settings, of a tower alone the last.

    Raises:
        ValueError: If the tower has no class token, or too few patches for the fence.
    """
    settings = settings or Settings(score="head_mean")
    tower, pixels = _tower_of(loaded), to_pixels(loaded.processor, pictures)
    grid, bounds = tower.grid(pixels), (settings.whisker, settings.lower_quantile)
    check_enough(grid[0] * grid[1], (*bounds, settings.upper_quantile))
    attention = head_attention(tower.module, pixels)
    layer = -2
    if isinstance(loaded.tower, LlavaForConditionalGeneration):
        layer = loaded.tower.config.vision_feature_layer
    read = layer % (len(tower.blocks) + 1)
    if settings.score == "head_mean":
        scores = attention[read].mean(dim=1)
    elif settings.score == "full_width":
        scores = heads_as_one(attention[read])
    else:
        scores = encode_pictures(loaded.tower, pixels, settings).scores
    return Seen(list(pictures), as_seen(loaded.processor, pixels), attention, scores, grid, read)


def draw_scenes(loaded: LoadedTower, count: int, seed: int = 0) -> list[Picture]:
    """Draw scenes that training never saw, with a patch of the tower's for every patch of theirs.

    ValueError where the tower's pictures are no squares.
    """
    size, patch = of_pictures(loaded.processor).crop_size, _tower_of(loaded).patch_px
    rows, columns = size["height"] // patch[0], size["width"] // patch[1]
    if rows != columns:
        raise ValueError(f"scenes are squares, and this tower takes {rows} x {columns} patches")
    return load_pictures("", count, seed, rows)


def measure_kept(
    scores: Float[Tensor, "images patches"], pictures: Sequence[Picture], **fence: float
) -> pd.DataFrame:
    """Put scores to a fence, and tell what it keeps, one row per picture.

    ``fence`` is what :func:`prumerge.outliers.keep_outliers` takes. Columns: ``kept``, the share of
    the patches; ``on objects``, the share of these that lie on objects, and ``attention on
    objects``, that of the scores, both NaN for a picture without drawn objects; ``objects``, how
    many there are.
    """
    kept = keep_outliers(scores, **fence).numpy()
    unknown = np.full(kept.shape[1], np.nan)
    covered = np.stack([unknown if p.covered is None else p.covered for p in pictures])
    shares = (scores / scores.sum(dim=1, keepdim=True)).numpy()
    table = pd.DataFrame({"kept": kept.mean(axis=1)})
    table["on objects"] = pd.Series((kept * covered).sum(axis=1)) / kept.sum(axis=1)
    table["attention on objects"] = (shares * covered).sum(axis=1)
    table["objects"] = np.array([p.objects for p in pictures], dtype=float)
    return table


def _tower_of(loaded: LoadedTower) -> Tower:
    if isinstance(loaded.tower, LlavaForConditionalGeneration):
        return open_tower(loaded.tower.model.vision_tower)
    return open_tower(loaded.tower)
