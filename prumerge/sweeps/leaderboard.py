"""Every method at one budget on the questions ``report``, each against PruMerge."""

from typing import Any

import pandas as pd

from prumerge.experiments.statistics import compare
from prumerge.methods import import_file, names, resolve
from prumerge.sweeps.encodings import open_encodings
from prumerge.sweeps.grids import Sweep
from prumerge.sweeps.points import Point
from prumerge.sweeps.rows import typed
from prumerge.sweeps.runner import PointsFailed, run_sweeps

BASE = "prumerge"
SEEDS = 3
# Other names of presets that stand in the table already, at a budget.
_TWICE = ("release", "release+", "release+fixed")


def leaderboard_of(budget: int, module: str = "", **overrides: Any) -> Sweep:
    """Make the sweep of all methods at one budget.

    Args:
        budget: Visual tokens per picture.
        module: File with methods of your own; they are added.
        overrides: Values for all points, such as ``model``.

    Returns:
        The sweep, in two jobs; methods that draw at random have three seeds, and methods that read
        the question are there for the mini-LLaVA only.

    Raises:
        ValueError: If the budget is 0 or more than the picture has, or the file registers nothing.
    """
    own = import_file(module) if module else []
    known = [name for name in names() if name not in own]
    common = {"questions": "report", **overrides}
    has_text = common.get("model", "mini") == "mini"  # a LLaVA does not name its CLIP's text tower
    points = [
        Point.of(common | {"method": name, "seed": seed})
        if name == "all"
        else Point.of(common | {"method": name, "budget": budget, "seed": seed})
        for name in known
        if name not in _TWICE and (has_text or not resolve(name).reads_question)
        for seed in range(SEEDS if name == "random" else 1)
    ]
    mine = [Point.of(common | {"method": name, "budget": budget, "module": module}) for name in own]
    points += mine
    return Sweep(f"leaderboard-{budget}", "", {"even": points[::2], "odd": points[1::2]})


def run(
    budget: int, module: str, overrides: dict[str, Any], options: dict[str, Any]
) -> pd.DataFrame:
    """Run what is missing of a leaderboard.

    Args:
        budget: Visual tokens per picture.
        module: File with methods of your own; empty for none.
        overrides: Values for all points.
        options: Of :func:`prumerge.sweeps.runner.run_sweeps`.

    Returns:
        As :func:`prumerge.experiments.statistics.compare`, in percent, with the tokens sent.

    Raises:
        PointsFailed: If points failed. Its note is the table of the others.
        ValueError: See :func:`leaderboard_of` and :func:`prumerge.sweeps.runner.run_sweeps`.
    """
    sweep = leaderboard_of(budget, module, **overrides)
    try:
        return _compared(sweep, run_sweeps([sweep], **options)[sweep.name])
    except PointsFailed as failure:
        rows = failure.rows[sweep.name]
        if any(row.cells["method"] == BASE for row in rows):
            failure.add_note(f"the other methods:\n{_compared(sweep, rows).to_string()}")
        raise


def _compared(sweep: Sweep, rows: list) -> pd.DataFrame:
    point = sweep.points[0]
    asked = open_encodings(point.model, point.questions, point.per_family).questions.table
    return table_of(rows, asked["picture"])


def table_of(rows: list, pictures: pd.Series) -> pd.DataFrame:
    """Compare the rows of one budget, means over seeds.

    Args:
        rows: Of one question set.
        pictures: Picture of each question.

    Returns:
        See :func:`run`.
    """
    table = typed(rows)
    right = {row.key: row.right.astype(float) for row in rows}
    groups = table.groupby("method", sort=False).groups
    scores = {name: sum(right[key] for key in keys) / len(keys) for name, keys in groups.items()}
    shares = ["accuracy", "low", "high", "difference", "difference_low", "difference_high"]
    compared = compare(scores, pictures, BASE)
    compared[shares] = (100 * compared[shares]).round(1)
    tokens = table.groupby("method")["tokens_per_image"].mean().round(1)
    compared.insert(0, "tokens", tokens)
    return compared.drop(columns="p").round({"p_holm": 4})
