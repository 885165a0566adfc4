"""Every method at one budget in one handling, against PruMerge; and ``tuned``, chosen by a rule.

The leaderboard is asked the questions ``report``. The presets follow from committed rows on the
questions ``choose`` at 32, 64 and 128 tokens, never by hand; a question's score is its mean over
the three:

1. Handling, for all methods alike. Of the grid ``handling``: the positions at which the methods
   that were run at each of them in raster order answer most, on average over methods. Then the
   order: raster, if the 95 % interval of the release's own paired difference between raster order
   and its falling attention lies above 0.
2. PruMerge's own choices, all in that handling. Each grid of ``grids.CHOOSING`` varies some other
   settings of the release; its winner is the combination with the highest mean. It counts only
   where the 95 % interval of its paired difference to the release lies above 0.
3. Winners are taken up in the order of their gain; one that would change a setting already decided
   is left out. Each was chosen alone, and no grid holds them all together: whether they add up is
   seen on the other questions (:mod:`prumerge.experiments.sweeps.tuning`).

The result is ``prumerge/tuned.json``, which :mod:`prumerge.settings` reads: ``tuned-handling`` is
the first step, ``tuned`` all of them. It is reported on the other questions, in notebook 06.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prumerge.experiments.statistics import compare, paired, significance
from prumerge.experiments.sweeps.grids import CHOOSING, Point, Sweep, read_sweep
from prumerge.experiments.sweeps.handling import BUDGETS, COLUMNS, EQUAL, read_handling, told
from prumerge.experiments.sweeps.run import PointsFailed, open_encodings, run_sweeps
from prumerge.experiments.sweeps.tables import Answered, Row, read_sweep_rows, typed
from prumerge.methods import import_file, names, resolve
from prumerge.paths import written_whole
from prumerge.settings import PRESETS, TUNED, Settings

BASE = "prumerge"
SEEDS = 3
# Other names of presets that stand in the table already, at a budget and in one handling.
_TWICE = ("release", "release+", "release+fixed", "tuned-handling")


def leaderboard_of(
    budget: int, module: str = "", handling: Mapping[str, str] = EQUAL, **overrides: Any
) -> Sweep:
    """Make the sweep of all methods, ``module``'s too, at one budget and handling, in two jobs."""
    own = import_file(module) if module else []
    known = [name for name in names() if name not in own]
    common = {"questions": "report", **handling, **overrides}
    has_text = common.get("model", "mini") == "mini"  # a LLaVA does not name its CLIP's text tower
    points = [
        Point.of(common | {"method": name, "seed": seed})
        if name == "all"
        else Point.of(common | {"method": name, "budget": budget, "seed": seed})
        for name in known
        if name not in _TWICE and (has_text or not resolve(name).reads_question)
        for seed in range(SEEDS if name == "random" else 1)
    ]
    for name in own:
        points.append(Point.of(common | {"method": name, "budget": budget, "module": module}))
    return Sweep(f"leaderboard-{budget}", "", {"even": points[::2], "odd": points[1::2]})


def run(
    budget: int,
    module: str,
    overrides: dict[str, Any],
    options: dict[str, Any],
    handling: Mapping[str, str] = EQUAL,
) -> pd.DataFrame:
    """Run what a leaderboard lacks and compare; a note of PointsFailed compares what there is."""
    sweep = leaderboard_of(budget, module, handling, **overrides)

    def compared(rows: list[Row]) -> pd.DataFrame:
        point = sweep.points[0]
        asked = open_encodings(point.model, point.questions, point.per_family).questions.table
        return table_of(rows, asked["picture"])

    try:
        return compared(run_sweeps([sweep], **options)[sweep.name])
    except PointsFailed as failure:
        rows = failure.rows[sweep.name]
        if any(row.cells["method"] == BASE for row in rows):
            failure.add_note(f"the other methods:\n{compared(rows).to_string()}")
        raise


def table_of(rows: list[Row], pictures: pd.Series) -> pd.DataFrame:
    """Compare rows of one budget, handling and question set, means over seeds, in percent.

    ``tokens`` is the mean number per picture, between ``fewest`` and ``most``; ``p_holm`` is
    corrected for all tests of the table.
    """
    table = typed(rows)
    right = {row.key: row.right.astype(float) for row in rows}
    groups = table.groupby("method", sort=False).groups
    scores = {name: sum(right[key] for key in keys) / len(keys) for name, keys in groups.items()}
    shares = ["accuracy", "low", "high", "difference", "difference_low", "difference_high"]
    compared = compare(scores, pictures, BASE)
    compared[shares] = (100 * compared[shares]).round(1)
    sent = table.groupby("method")
    compared.insert(0, "fewest", sent["fewest_tokens"].min())
    compared.insert(1, "tokens", sent["tokens_per_image"].mean().round(1))
    compared.insert(2, "most", sent["most_tokens"].max())
    return compared.drop(columns="p").round({"p_holm": 4})


def choose_handling(suffix: str = "") -> dict[str, str]:
    """Apply the first step of the rule: the order and positions for all methods.

    ``suffix`` is that of another model's files, such as ``-llava-1.5-7b-hf``.
    """
    answered = read_handling(suffix)
    asked = answered.rows[answered.rows["budget"].isin(BUDGETS)]
    raster = asked[asked["order"] == EQUAL["order"]]
    means = raster.pivot_table("accuracy", ["method", "budget"], "positions", sort=False).dropna()
    positions = str(means.mean().idxmax())
    keys = asked[(asked["method"] == BASE) & (asked["positions"] == positions)].groupby("order")
    scores = {order: answered.right[list(rows.index)].mean(axis=1) for order, rows in keys}
    apart = paired(scores["raster"], scores["attention"], answered.questions["picture"])
    return {"order": "raster" if apart.low > 0 else "attention", "positions": positions}


def effects(
    name: str, suffix: str = "", *, handling: Mapping[str, str] = EQUAL, tested: bool = False
) -> pd.DataFrame:
    """Compare every combination of a grid with the release, best first, in one handling.

    ``changes`` are those to the release in that handling, which is among the rows (else
    ValueError); ``accuracy`` is over all budgets, ``difference``, ``low`` and ``high`` are to the
    release. ``suffix`` is that of another model's files, such as ``-llava-1.5-7b-hf``. ``tested``
    adds ``p`` that chance alone explains the difference, empty for the release itself: correct it
    over all tables that are shown.
    """
    answered = read_sweep_rows(name + suffix)
    scores = _by_changes(name, answered, handling)
    if "{}" not in scores:
        raise ValueError(
            f"grid {name!r} does not hold the release at {told(handling)} to compare with"
        )
    rows = []
    for text, values in scores.items():
        pair = values, scores["{}"], answered.questions["picture"]
        level = significance(*pair) if tested and text != "{}" else np.nan
        rows.append((json.loads(text), values.mean(), *paired(*pair), level))
    columns = ["changes", "accuracy", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=columns)
    table = table if tested else table.drop(columns="p")
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def _by_changes(
    name: str, answered: Answered, handling: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Mean over budgets per question, by the changes to the release as sorted JSON."""
    release, rows = vars(PRESETS[BASE].with_changes(**handling)), answered.rows
    asked = {"per_family": int(rows["per_family"].iloc[0]), "model": rows["model"].iloc[0]}
    by: dict[str, list[str]] = {}
    known = set()
    for point in read_sweep(name, **asked).points:
        settings = vars(point.resolved.settings)
        known.add(key := point.key(rows["weights"].iloc[0]))
        if any(settings[part] != handling[part] for part in COLUMNS):
            continue
        changes = {n: v for n, v in settings.items() if n != "budget" and v != release[n]}
        by.setdefault(json.dumps(changes, sort_keys=True), []).append(key)
    if set(rows.index) != known:
        raise ValueError(f"the rows of {name!r} are of another grid: make sweep SWEEP={name}")
    return {text: answered.right[keys].mean(axis=1).to_numpy() for text, keys in by.items()}


def winners(suffix: str = "", *, handling: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the best row of each grid's :func:`effects` and whether it is taken up.

    ``handling``: None takes that of :func:`choose_handling`.
    """
    handling = choose_handling(suffix) if handling is None else handling
    found = {name: effects(name, suffix, handling=handling) for name in CHOOSING}
    best = pd.DataFrame([table.iloc[0].rename(name) for name, table in found.items()])
    best = best.sort_values("difference", ascending=False, kind="stable")
    decided: dict[str, Any] = {}
    taken = []
    for changes, low in zip(best["changes"], best["low"], strict=True):
        agrees = all(decided.get(name, value) == value for name, value in changes.items())
        taken.append(bool(low > 0 and agrees))
        decided |= changes if taken[-1] else {}
    return best.assign(taken=taken)


def choose(suffix: str = "") -> dict[str, dict[str, Any]]:
    """Apply the rule: ``handling``, and PruMerge's ``choices`` in it, that make ``tuned``."""
    handling = choose_handling(suffix)
    best = winners(suffix, handling=handling)
    taken = best.loc[best["taken"], "changes"]
    return {
        "handling": handling,
        "choices": {name: value for changes in taken for name, value in changes.items()},
    }


def update(path: Path = TUNED) -> str:
    """Write what the rule chooses where it differs from what is there, and say so."""
    chosen, before = choose(), json.loads(path.read_text())
    Settings().with_changes(**chosen["handling"], **chosen["choices"])
    if chosen == before:
        return f"tuned stays {before}"
    text = json.dumps(chosen, indent=1, sort_keys=True) + "\n"
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    grid = "type the same values into grids/tuned.yml, which reports them"
    return f"tuned was {before} and is now {chosen}; {grid}"
