"""The command line: ``python -m prumerge.experiments.pocket``: make the embedded model ``pocket``.

Features of the frozen tower first, then the training, then the export and its scores. Started
again, it goes on where it was stopped, at whatever moment. The shipped model:

    python -m prumerge.experiments.pocket --export-to data/pocket

keeps 2.7 GB of features in data/runs/pocket and wants scikit-image (photographs) and the package
of the tower, see :mod:`prumerge.models.towers`. On two cores the features take about twenty minutes
and the training an hour. A trial of some minutes, without export:

    python -m prumerge.experiments.pocket --pictures 96 --scale 0.01 --folder data/runs/pocket-trial
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prumerge.experiments.training import check_count, learn, run_training, told
from prumerge.mini.features import Features, Pictures, compute_features
from prumerge.mini.pocket import PICTURES, TOWER, Behind, Size, schedule
from prumerge.mini.scenes import most_objects
from prumerge.mini.styles import PICTURED
from prumerge.models import load
from prumerge.models.checks import needs
from prumerge.models.frozen import fitted
from prumerge.models.towers import LoadedTower, load_tower


def make(
    folder: Path,
    pictures: int = PICTURES,
    scale: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    size: Size = Size(),  # noqa: B008  frozen
    tower: LoadedTower | None = None,
    language: str | None = None,
    **run: Any,
) -> list[dict]:
    """Train a ``pocket``, or go on with it; return the curve.

    ``folder`` keeps features and progress. ``scale`` is a factor on the steps. ``tower``: None
    loads the one that is shipped with. ``language`` names a LLaVA whose language model is gone on
    from; None begins from nothing. ``run``: see :func:`prumerge.experiments.training.learn`.
    """
    stages = schedule(size.grid, scale)
    check_count(pictures, 2 * most_objects(size.grid))
    tower = tower or load_tower(TOWER, device, "float32", origin="package")
    wanted = Pictures(pictures, PICTURED, size.grid, seed)
    known = _features(folder / "features", wanted, size.feature_layer, tower)
    torch.manual_seed(seed)
    prepared = tower.processor
    model = Behind(tower.tower.config, size, prepared.image_mean, prepared.image_std)
    if language is not None:
        model.speak_like(load(language)[0])
    model.standardise(known.read(np.arange(min(64, pictures))))
    run |= {"scale": scale, "seed": seed, "device": device, "save_every": 100}
    return learn(model, stages, folder, known, tower.origin, **run)


def _features(folder: Path, pictures: Pictures, layer: int, tower: LoadedTower) -> Features:
    shown = fitted(tower.tower, pictures.grid * pictures.style.patch_px)
    arguments = (shown, tower.processor, layer, tower.origin)
    return compute_features(folder, pictures, *arguments, report=told)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    return run_training(partial(make, language="mini"), "pocket", __doc__, PICTURES, arguments)


if __name__ == "__main__":
    with needs("notebooks"):
        sys.exit(main())
