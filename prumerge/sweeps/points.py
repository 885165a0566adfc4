"""A point of a sweep: one method with its settings, asked one set of questions of one model.

Everything is checked before the first point runs, so that a slip in a grid costs nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prumerge import paths
from prumerge.methods import Method, import_file, names, resolve
from prumerge.models.loading import fingerprint, grid_of, read_config
from prumerge.settings import Settings, suggestion
from prumerge.sweeps.questions import check_questions

_SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))
FIELDS = ("questions", "per_family", "model", "module", "method", *_SETTINGS)
"""What a grid may name: the questions, the model, the method, and every setting."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One method asked one set of questions.

    Args:
        method: A registered method.
        changes: Settings that differ from the method's own, by name.
        questions: ``choose`` or ``report``.
        per_family: Questions of each family.
        model: As for :func:`prumerge.models.load`.
        module: File with a method of your own, imported first; empty for none.

    Raises:
        ValueError: If a method, setting, set or file is unknown or a value outside its limits.
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

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Point":
        """Make a point from one flat mapping, as a grid or a worker hands it over.

        Raises:
            ValueError: If a name is none of ``FIELDS``; the message offers the nearest.
        """
        for name in values:
            if name not in FIELDS:
                raise ValueError(f"unknown parameter {name!r}: {suggestion(name, FIELDS)}")
        own = {name: value for name, value in values.items() if name not in _SETTINGS}
        if own.get("module") and Path(own["module"]).is_file():
            own["module"] = str(Path(own["module"]).resolve())  # workers run in another folder
        changes = {name: value for name, value in values.items() if name in _SETTINGS}
        point = cls(changes=tuple(sorted(changes.items())), **own)
        # What is spelled out but changes nothing must not make another point.
        usual = vars(resolve(point.method).settings)
        kept = [(name, value) for name, value in point.changes if value != usual[name]]
        return dataclasses.replace(point, changes=tuple(kept))

    @property
    def values(self) -> dict[str, Any]:
        """The flat mapping that :meth:`of` takes."""
        own = {name: getattr(self, name) for name in FIELDS if name not in _SETTINGS}
        return own | dict(self.changes)

    @property
    def resolved(self) -> Method:
        """The method with its settings."""
        if self.module:
            import_file(self.module)
        if self.method not in names() and not self.module:
            hint = "name its file with `module`, if it is one of your own"
            raise ValueError(f"unknown {self.method!r}: {suggestion(self.method, names())}; {hint}")
        return resolve(self.method, **dict(self.changes))

    def key(self, weights: str) -> str:
        """Name everything that decides the answers, in 12 characters.

        Settings count where they differ from ``Settings()``: a field that is new in a later version
        does not make rows of an earlier one another point's.

        Args:
            weights: Names the checkpoint.
        """
        content = Path(self.module).read_text() if self.module else ""
        settings, usual = vars(self.resolved.settings), vars(Settings())
        changed = {name: value for name, value in settings.items() if value != usual[name]}
        parts = [self.method, changed, self.questions, self.per_family, self.model, content]
        text = json.dumps([*parts, weights], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache
def patches_of(model: str) -> int:
    """Return the visual tokens that a model makes of one picture: 576 for LLaVA-1.5."""
    return grid_of(read_config(model)) ** 2


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


RESULTS = paths.RESULTS / "sweeps"
"""Committed tables, one per sweep of ``sweeps/`` with the values that stand there."""

POINTS = paths.RUNS / "sweeps" / "points"
"""Rows of single points; not committed, a killed sweep goes on from here.

Tables of other models, questions or grids lie in the folder above."""
