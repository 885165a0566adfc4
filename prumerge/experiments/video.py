"""The command line: ``python -m prumerge.experiments.video``: make the embedded ``mini-video``.

Features of the frozen tower first, then the training, then the export. Started again, it goes on
where it was stopped, at whatever moment. The shipped model:

    python -m prumerge.experiments.video --export-to data/mini-video

keeps 1.7 GB of features in data/runs/video; see ``training.json`` beside it for the time it took.
A trial of some minutes, without export:

    python -m prumerge.experiments.video --clips 32 --scale 0.01 --folder data/runs/video-trial
"""

import sys
from pathlib import Path
from typing import Any

import torch

from prumerge.experiments.clip_rows import write_scores
from prumerge.experiments.training import check_count, learn, run_training, told
from prumerge.mini.clips import MOST_THINGS
from prumerge.mini.features import Clips, compute_features
from prumerge.mini.model import build_processor
from prumerge.mini.styles import MOVING
from prumerge.mini.video import CLIPS, Filmed, make_clip_batch, schedule
from prumerge.models import load
from prumerge.models.checks import needs
from prumerge.models.frozen import middle_of
from prumerge.models.loading import fingerprint


def make(
    folder: Path, clips: int = CLIPS, scale: float = 1.0, seed: int = 0, **run: Any
) -> list[dict]:
    """Train a ``mini-video``, or go on with it; return the curve.

    ``folder`` keeps features and progress; ``scale`` is a factor on the steps. ``run``: see
    :func:`prumerge.experiments.training.learn`.
    """
    stages = schedule(scale, clips)
    check_count(clips, 2 * MOST_THINGS, "clips")
    mini, _ = load("mini")
    origin, wanted = f"mini {fingerprint('mini', mini)}", Clips(clips, seed=seed)
    tower = middle_of(mini.model.vision_tower, wanted.grid * MOVING.patch_px)
    pictures, layer = build_processor(wanted.grid).image_processor, mini.config.vision_feature_layer
    arguments = (wanted, tower, pictures, layer, origin)
    known = compute_features(folder / "features", *arguments, report=told)
    torch.manual_seed(seed)
    run |= {"scale": scale, "seed": seed, "write_scores": write_scores}
    run |= {"save_every": 50, "report_every": 25, "make": make_clip_batch}
    return learn(Filmed(mini), stages, folder, known, origin, **run)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    return run_training(make, "video", __doc__, CLIPS, arguments, counted="clips")


if __name__ == "__main__":
    with needs("notebooks"):
        sys.exit(main())
