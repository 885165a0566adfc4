"""The preset ``tuned``: chosen by a rule from committed rows, never by hand.

1. Each grid of ``grids.CHOOSING`` varies some settings of the release at 32, 64 and 128 tokens, on
   the questions ``choose``. A question's score is its mean over the three.
2. A grid's winner is the combination with the highest mean. It counts only where the 95 % interval
   of its paired difference to the release lies above 0.
3. Winners are taken up in the order of their gain; one that would change a setting already decided
   is left out.

The result is ``prumerge/tuned.json``, which :mod:`prumerge.settings` reads. It is reported on the
other questions, in notebook 06.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prumerge.experiments.statistics import paired
from prumerge.settings import PRESETS, TUNED, Settings
from prumerge.sweeps.grids import CHOOSING, read_sweep
from prumerge.sweeps.tables import Answered, read_sweep_rows

BASE = "prumerge"


def effects(name: str, suffix: str = "") -> pd.DataFrame:
    """Compare every combination of a grid with the release, at equal token counts.

    Args:
        name: One of ``grids.CHOOSING``.
        suffix: Of the files with another model's rows, such as ``-llava-1.5-7b-hf``.

    Returns:
        One row per combination, best first, the release among them: ``changes`` to it, its
        ``accuracy`` over all budgets, and ``difference``, ``low``, ``high`` to the release.

    Raises:
        ValueError: If the grid lacks the release, or has no rows.
    """
    answered = read_sweep_rows(name + suffix)
    scores = _by_changes(name, answered)
    if "{}" not in scores:
        raise ValueError(f"grid {name!r} does not hold the release to compare with")
    rows = []
    for text, values in scores.items():
        apart = paired(values, scores["{}"], answered.questions["picture"])
        rows.append((json.loads(text), values.mean(), *apart))
    table = pd.DataFrame(rows, columns=["changes", "accuracy", "difference", "low", "high"])
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def winners(suffix: str = "") -> pd.DataFrame:
    """Return the best row of each grid's :func:`effects` and whether it is taken up."""
    best = pd.DataFrame([effects(name, suffix).iloc[0].rename(name) for name in CHOOSING])
    best = best.sort_values("difference", ascending=False, kind="stable")
    decided: dict[str, Any] = {}
    taken = []
    for changes, low in zip(best["changes"], best["low"], strict=True):
        agrees = all(decided.get(name, value) == value for name, value in changes.items())
        taken.append(bool(low > 0 and agrees))
        decided |= changes if taken[-1] else {}
    return best.assign(taken=taken)


def choose(suffix: str = "") -> dict[str, Any]:
    """Apply the rule to committed rows.

    Args:
        suffix: As in :func:`effects`.

    Returns:
        Changes to the release.
    """
    best = winners(suffix)
    return {k: v for changes in best.loc[best["taken"], "changes"] for k, v in changes.items()}


def update(path: Path = TUNED) -> str:
    """Write what the rule chooses where it differs from what is there.

    Args:
        path: File of the preset.

    Returns:
        One sentence.
    """
    chosen, before = choose(), json.loads(path.read_text())
    Settings().with_changes(**chosen)
    if chosen == before:
        return f"tuned stays {before}"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")
    partial.replace(path)
    return f"tuned was {before} and is now {chosen}"


def _by_changes(name: str, answered: Answered) -> dict[str, np.ndarray]:
    """Mean over budgets per question, by the changes to the release as sorted JSON."""
    release, rows = PRESETS[BASE], answered.rows
    asked = {"per_family": int(rows["per_family"].iloc[0]), "model": rows["model"].iloc[0]}
    points = read_sweep(name, **asked).points
    by: dict[str, list[str]] = {}
    for point in points:
        settings = vars(point.resolved.settings)
        changes = {
            field: value
            for field, value in settings.items()
            if field != "budget" and value != getattr(release, field)
        }
        key = point.key(rows["weights"].iloc[0])
        by.setdefault(json.dumps(changes, sort_keys=True), []).append(key)
    if set(rows.index) != {key for keys in by.values() for key in keys}:
        raise ValueError(f"the rows of {name!r} are of another grid: make sweep SWEEP={name}")
    return {text: answered.right[keys].mean(axis=1).to_numpy() for text, keys in by.items()}
