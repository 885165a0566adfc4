"""What all commands that train an embedded model share: arguments, progress in lines, the end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prumerge.experiments.rows import provenance
from prumerge.mini.export import export, training_record
from prumerge.mini.features import Features
from prumerge.mini.model import Learner
from prumerge.mini.questions import write_scores
from prumerge.mini.training import Stage, train
from prumerge.paths import RUNS


def told(row: dict) -> None:
    """Print a row of progress, of features or of the curve."""
    print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def check_count(count: int, least: int, counted: str = "pictures") -> None:
    """Refuse fewer pictures or clips than there are kinds."""
    if count < least:
        raise ValueError(f"{counted} must be at least {least}, of every kind one, got {count}")


def learn(
    model: Learner,
    stages: list[Stage],
    folder: Path,
    known: Features,
    origin: str,
    *,
    scale: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    export_to: Path | None = None,
    write_scores: Callable[[Path, int], pd.DataFrame] = write_scores,
    **options: Any,
) -> list[dict]:
    """Train a model behind a frozen tower, or go on with it; return the curve.

    ``known`` are the tower's features, ``origin`` tells where it is from. What is exported is asked
    few questions where ``scale``, of the stages, is below 0.05. ``options`` are those of
    :func:`prumerge.mini.training.train`.
    """
    curve = train(model, stages, folder, device, seed, report=told, known=known, **options)
    if export_to is not None:
        made = provenance(device) | {"tower": origin, "kept": known.pictures.count}
        export(model, export_to, curve, training_record(stages, curve, seed, made))
        scores = write_scores(export_to, 100 if scale > 0.05 else 2)
        print(scores.round(2).to_string(index=False))
    return curve


def run_training(
    make: Callable[..., object],
    name: str,
    about: str | None,
    count: int,
    arguments: list[str] | None = None,
    *,
    counted: str = "pictures",
) -> int:
    """Read a command line and call ``make`` with it; 1 when something given cannot be used.

    Args:
        make: Takes ``folder``, ``counted``, ``scale``, ``seed``, ``device`` and ``export_to``.
        name: The command's, in messages and of its folder in ``data/runs``.
        about: What help says.
        count: How many pictures or clips, ``counted``, the shipped model learned from.
    """
    parser = argparse.ArgumentParser(prog=f"prumerge.experiments.{name}", description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    folder = RUNS / name.replace("_", "-")
    parser.add_argument("--folder", type=Path, default=folder, help="features, progress")
    parser.add_argument(f"--{counted}", type=int, default=count, help="to learn from")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export-to", type=Path, help="folder of the finished model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = vars(parser.parse_args(arguments))
    torch.set_num_threads(chosen.pop("threads"))
    try:
        make(**chosen)
    except (ValueError, ModuleNotFoundError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
