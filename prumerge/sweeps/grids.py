"""Grids: YAML files that name points, a few to a job.

::

    about: What does the number of neighbours do?     # one sentence
    common: {questions: choose, budget: [32, 64]}     # for all jobs
    jobs:
      few: {neighbours: [0, 1, 2, 4]}                 # a list is an axis: every combination
      many: {neighbours: [64, 128]}
      pairs:                                          # several products in one job
        - {whisker: 1.0, lower_quantile: 0.1}
        - {whisker: 2.0}

A job is one papermill run: it starts one kernel and loads the model once.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prumerge import paths
from prumerge.settings import suggestion
from prumerge.sweeps.points import Point

GRIDS = paths.ROOT / "sweeps"
"""Committed grids, one file each, with the Snakefile and the worker's notebook."""

CHOOSING = ("neighbours", "weights", "candidates", "scores", "spatial", "order")
"""Grids on the questions ``choose`` whose winners make the preset ``tuned``."""

REPORTING = ("rivals",)
"""Grids on the questions ``report``, run when the preset is chosen."""

_PARTS = ("about", "common", "jobs")


@dataclass(frozen=True)
class Sweep:
    """A grid, read and checked.

    Attributes:
        name: Of the grid's file.
        about: Its question.
        jobs: Points by job.
        committed: Whether these are the points of a grid of the repository, with no other value.
    """

    name: str
    about: str
    jobs: dict[str, list[Point]]
    committed: bool = False

    @property
    def points(self) -> list[Point]:
        """All points, each once, in the order of the file."""
        return list(dict.fromkeys(point for job in self.jobs.values() for point in job))


def names() -> list[str]:
    """Return the names of the committed grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yml"))


def read_sweep(name: str | Path, **overrides: Any) -> Sweep:
    """Read a grid and check every point of it.

    Args:
        name: A committed grid, or the path of one of your own.
        overrides: Values that replace the grid's in all points, such as ``model``.

    Returns:
        The sweep.

    Raises:
        ValueError: If there is no such grid, a part or parameter is unknown, or a value outside
            its limits; the message names the grid and the job.
    """
    path = Path(name) if str(name).endswith(".yml") else GRIDS / f"{name}.yml"
    if not path.is_file():
        raise ValueError(f"no sweep {str(name)!r}: {suggestion(str(name), names())}")
    try:
        grid = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    for part in grid:
        if part not in _PARTS:
            raise ValueError(f"{path.name}: unknown part {part!r}: {suggestion(part, _PARTS)}")
    jobs = _jobs(path, grid, overrides)
    own = path.resolve().parent == GRIDS and (not overrides or jobs == _jobs(path, grid, {}))
    return Sweep(path.stem, grid.get("about", ""), jobs, own)


def _jobs(path: Path, grid: dict[str, Any], overrides: dict[str, Any]) -> dict[str, list[Point]]:
    jobs = {}
    for job, products in (grid.get("jobs") or {}).items():
        try:
            jobs[job] = _points(products, grid.get("common") or {}, overrides)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}, job {job!r}: {error}") from error
    if not jobs:
        raise ValueError(f"{path.name} names no jobs")
    return jobs


def _points(products: Any, common: dict[str, Any], overrides: dict[str, Any]) -> list[Point]:
    products = products if isinstance(products, list) else [products]
    points = []
    for product in products:
        axes = {**common, **product, **overrides}
        choices = [value if isinstance(value, list) else [value] for value in axes.values()]
        for values in itertools.product(*choices):
            points.append(Point.of(dict(zip(axes, values, strict=True))))
    return list(dict.fromkeys(points))
