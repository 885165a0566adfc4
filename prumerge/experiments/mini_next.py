"""The command line: ``python -m prumerge.experiments.mini_next``: make the embedded ``mini-next``.

Features of the mini-LLaVA's tower first, then the training, then the export. Started again, it goes
on where it was stopped, at whatever moment. The shipped model:

    python -m prumerge.experiments.mini_next --export-to data/mini-next

keeps 1 GB of features in data/runs/mini-next and takes some forty minutes on one core; to ask it
with all tokens, for ``scores.csv``, a quarter of an hour more. A trial, without export:

    python -m prumerge.experiments.mini_next --pictures 24 --scale 0.01 --folder data/runs/trial
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from prumerge.experiments.training import check_count, learn, run_training, told
from prumerge.mini.features import compute_features
from prumerge.mini.mini_next import (
    PICTURES,
    TOWER,
    MiniNext,
    TiledPictures,
    draw_batch,
    encode_tiles,
    schedule,
)
from prumerge.mini.scenes import most_objects
from prumerge.models import load
from prumerge.models.checks import needs
from prumerge.models.loading import fingerprint


def make(
    folder: Path,
    pictures: int = PICTURES,
    scale: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    mini: LlavaForConditionalGeneration | None = None,
    **run: Any,
) -> list[dict]:
    """Train a ``mini-next``, or go on with it; return the curve.

    ``folder`` keeps features and progress. ``scale`` is a factor on the steps. ``mini``: None
    begins with the mini-LLaVA. ``run``: see :func:`prumerge.experiments.training.learn`. The grid
    ``tiles`` of the sweeps says what the model answers.
    """
    origin = "given"
    if mini is None:
        mini, _ = load(TOWER, device, "float32")
        origin = f"mini-LLaVA {fingerprint(TOWER, mini)}"
    model = MiniNext(mini)
    stages = schedule(model.size.grid, scale)
    check_count(pictures, 2 * most_objects(model.size.grid))
    known = compute_features(
        folder / "features",
        TiledPictures(pictures, model.style, model.size.grid, seed),
        mini.model.vision_tower,
        model.processor().image_processor,
        mini.config.vision_feature_layer,
        origin,
        told,
        partial(encode_tiles, model=model.llava.model),
    )
    torch.manual_seed(seed)
    run |= {"scale": scale, "seed": seed, "device": device, "save_every": 20}
    return learn(model, stages, folder, known, origin, make=draw_batch, **run)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    return run_training(make, "mini_next", __doc__, PICTURES, arguments)


if __name__ == "__main__":
    with needs("notebooks"):
        sys.exit(main())
