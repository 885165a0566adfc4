"""What all commands that train an embedded model share: their arguments, and progress in lines."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from prumerge.paths import RUNS


def told(row: dict) -> None:
    """Print a row of progress, of features or of the curve."""
    print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)


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
