"""Grids: YAML files that name points, a few to a job.

::

    about: What does the number of neighbours do?     # one sentence
    common: {questions: choose, budget: [32, 64]}     # for all jobs; a list: all jobs with each
    jobs:
      few: {neighbours: [0, 1, 2, 4]}                 # a list is an axis: every combination
      many: {neighbours: [64, 128]}
      pairs:                                          # several products in one job
        - {whisker: 1.0, lower_quantile: 0.1}
        - {whisker: 2.0}

A point is one method with its settings, asked one set of questions of one model. A job is one
papermill run: it starts one kernel and loads the model once. Everything is checked before the first
point runs, so that a slip in a grid costs nothing.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from prumerge.experiments.sweeps.answers import check_questions
from prumerge.methods import INSIDE, Method, import_file, resolve
from prumerge.methods import names as method_names
from prumerge.models.loading import fingerprint, grid_of, read_config
from prumerge.models.stages import find_dropping, resolve_inside
from prumerge.paths import EMBEDDED
from prumerge.settings import Settings, suggestion

GRIDS = Path(__file__).resolve().with_name("grids")
"""Committed grids, one file each."""

CHOOSING = ("neighbours", "weights", "candidates", "scores", "spatial")
"""Grids on the questions ``choose`` whose winners make the preset ``tuned``."""

REPORTING = ("rivals", "inside", "printed", "steps", "readings", "tuned", "ranking", "tiles")
"""Grids on the questions ``report``."""

_PARTS = ("about", "common", "jobs")
_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))
FIELDS = ("questions", "per_family", "model", "module", "method", *_SETTINGS)
"""What a grid may name: the questions, the model, the method, and every setting."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One method asked one set of questions of one model; ValueError where that cannot be.

    ``changes`` are the settings that differ from the method's own; ``module`` is the file of a
    method of your own, imported first, or empty; ``model`` is as for :func:`prumerge.models.load`.
    """

    method: str = "prumerge"
    changes: tuple[tuple[str, Any], ...] = ()
    questions: str = "choose"
    per_family: int = 100
    model: str = "mini"
    module: str = ""

    def __post_init__(self) -> None:
        check_questions(self.questions, self.per_family)
        budget, patches = self.resolved.settings.budget, patches_of(self.model)
        if isinstance(budget, int) and budget > patches:
            raise ValueError(
                f"budget={budget} is more than the {patches} visual tokens of model {self.model!r}"
            )
        if self.inside:
            layers = read_config(self.model).get_text_config().num_hidden_layers
            total = self.resolved.settings.tokens_of(patches)
            find_dropping(self.method).reads(layers, patches, total)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Point":
        """Make a point of a flat mapping; ValueError tells which name is none of ``FIELDS``."""
        for name in values:
            if name not in FIELDS:
                raise ValueError(f"unknown parameter {name!r}: {suggestion(name, FIELDS)}")
        own = {name: value for name, value in values.items() if name not in _SETTINGS}
        for name in ("module", "model"):
            if own.get(name) and Path(own[name]).exists() and own[name] not in EMBEDDED:
                own[name] = str(Path(own[name]).resolve())  # workers run in another folder
        changes = {name: value for name, value in values.items() if name in _SETTINGS}
        point = cls(changes=tuple(sorted(changes.items())), **own)
        # What is spelled out but changes nothing must not make another point.
        find = resolve_inside if point.inside else resolve
        usual = vars(find(point.method).settings)
        kept = [(name, value) for name, value in point.changes if value != usual[name]]
        return dataclasses.replace(point, changes=tuple(kept))

    @property
    def values(self) -> dict[str, Any]:
        """The flat mapping that :meth:`of` takes."""
        own = {name: getattr(self, name) for name in FIELDS if name not in _SETTINGS}
        return own | dict(self.changes)

    @property
    def inside(self) -> bool:
        """Whether the method drops tokens inside the language model; see ``methods.INSIDE``."""
        return self.method in INSIDE and not self.module

    @property
    def resolved(self) -> Method:
        """The method with its settings."""
        if self.inside:
            return resolve_inside(self.method, **dict(self.changes))
        if self.module:
            import_file(self.module)
        if self.method not in method_names() and not self.module:
            hint = "name its file with `module`, if it is one of your own"
            near = suggestion(self.method, method_names())
            raise ValueError(f"unknown {self.method!r}: {near}; {hint}")
        return resolve(self.method, **dict(self.changes))

    def key(self, weights: str) -> str:
        """Name everything that decides the answers, in 12 characters.

        Settings count where they differ from ``Settings()``: a field that is new in a later version
        does not make rows of an earlier one another point's.
        """
        content = Path(self.module).read_text() if self.module else ""
        settings, usual = vars(self.resolved.settings), vars(Settings())
        changed = {name: value for name, value in settings.items() if value != usual[name]}
        parts = [self.method, changed, self.questions, self.per_family, self.model, content]
        text = json.dumps([*parts, weights], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache
def patches_of(model: str) -> int:
    """Return the most visual tokens that a model makes of one picture: 576 for LLaVA-1.5."""
    config = read_config(model)
    edge, whole = config.vision_config.image_size, grid_of(config) ** 2
    areas = [
        height * width // edge**2 for height, width in getattr(config, "image_grid_pinpoints", [])
    ]
    return whole * (1 + max(areas)) if areas else whole


@lru_cache
def weights_of(model: str) -> str:
    """Name a model's weights without loading them; see :func:`fingerprint`."""
    return fingerprint(model, SimpleNamespace(config=read_config(model)))


def suffix_of(models: Iterable[str], per_family: Iterable[int]) -> str:
    """Tell rows of other models or of fewer questions apart, in the names of their files.

    Example:
        >>> suffix_of(["mini"], [100]), suffix_of(["llava-hf/llava-1.5-7b-hf"], [4])
        ('', '-llava-1.5-7b-hf-4-per-family')
    """
    others = {model.rstrip("/").rpartition("/")[2] for model in models} - {Point.model}
    counts = [f"{count}-per-family" for count in sorted({*per_family} - {Point.per_family})]
    return "".join(f"-{part}" for part in [*sorted(others), *counts])


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid, read and checked; ``committed`` if it has the points of the repository's own grid."""

    name: str
    about: str
    jobs: dict[str, list[Point]]
    committed: bool = False

    @property
    def points(self) -> list[Point]:
        """All points, each once, in the order of the file."""
        return list(dict.fromkeys(point for job in self.jobs.values() for point in job))

    @property
    def suffix(self) -> str:
        """See :func:`suffix_of`."""
        return suffix_of((p.model for p in self.points), (p.per_family for p in self.points))


def names() -> list[str]:
    """Return the names of the committed grids."""
    return sorted(path.stem for path in GRIDS.glob("*.yml"))


def read_sweep(name: str | Path, **overrides: Any) -> Sweep:
    """Read a committed grid or a file of your own with ``overrides``, and check every point."""
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


def _points(products: Any, common: Any, overrides: dict[str, Any]) -> list[Point]:
    points = []
    for shared, product in itertools.product(_listed(common), _listed(products)):
        axes = {**shared, **product, **overrides}
        for values in itertools.product(*map(_listed, axes.values())):
            points.append(Point.of(dict(zip(axes, values, strict=True))))
    return list(dict.fromkeys(points))


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]
