"""Does a ranking of methods hold on another model? Two sweeps, each on its own model's questions.

Both models were asked the same families of questions with the same methods, budgets and handlings,
about pictures of their own: nothing pairs a question of one with a question of the other. Within
each model questions pair, as everywhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prumerge.experiments.statistics import compare, holm, interval, rank_agreement, significance
from prumerge.experiments.sweeps.handling import BUDGETS, COMPACT, EQUAL, RELEASED, at
from prumerge.experiments.sweeps.tables import Answered, read_sweep_rows
from prumerge.experiments.sweeps.tuning import over_budgets

MODELS = {"mini-LLaVA": "rivals", "pocket": "ranking-pocket"}
"""Sweeps of both embedded models, by the model's name in tables and figures."""

BASE = "prumerge"


def read_models(sweeps: Mapping[str, str] = MODELS) -> dict[str, Answered]:
    """Read the sweeps of several models; keep the methods that all were asked with, and reduce."""
    read = {model: read_sweep_rows(name) for model, name in sweeps.items()}
    fewer = {m: a.where(sends=sorted(set(a.rows["sends"]) - {"all"})) for m, a in read.items()}
    shared = set.intersection(*(set(answered.rows["method"]) for answered in fewer.values()))
    return {model: answered.where(method=sorted(shared)) for model, answered in fewer.items()}


def rankings(
    models: Mapping[str, Answered],
    budgets: Sequence[int] = BUDGETS,
    handling: Mapping[str, str] = EQUAL,
) -> pd.DataFrame:
    """Rank methods on each model at each budget in one handling, and test each against PruMerge.

    One row per ``budget``, ``model`` and ``method`` (the index), best first. Columns: those of
    :func:`prumerge.experiments.statistics.compare`, ``p_holm`` corrected over the whole table, and
    ``rank``, 1 for the best. ValueError where a method was not run in the handling.
    """
    tables = {}
    for budget in budgets:
        for model, answered in models.items():
            asked = at(answered.where(budget=budget), handling)
            found = compare(asked.scores("method"), answered.questions["picture"], BASE)
            tables[budget, model] = found.assign(rank=found["accuracy"].rank(ascending=False))
    table = pd.concat(tables, names=["budget", "model"])
    return table.assign(p_holm=holm(table["p"]))


def agreements(
    models: Mapping[str, Answered],
    budgets: Sequence[int] = BUDGETS,
    handling: Mapping[str, str] = EQUAL,
) -> pd.DataFrame:
    """Return by budget the rank correlation of the first two models over all methods.

    Columns: those of :class:`prumerge.experiments.statistics.Agreement`, and ``p_holm``. Methods
    that are kin stand together on any model, which the test of orders does not know.
    """
    rows = {}
    for budget in budgets:
        sides = [(at(a.where(budget=budget), handling), a.questions) for a in models.values()][:2]
        scores = [answered.scores("method") for answered, _ in sides]
        rows[budget] = rank_agreement(*scores, *(asked["picture"] for _, asked in sides))
    table = pd.DataFrame.from_dict({budget: row._asdict() for budget, row in rows.items()}, "index")
    return table.assign(p_holm=holm(table["p"]))


CONCLUSIONS = {
    "raster order instead of falling attention": (("prumerge", COMPACT), ("prumerge", RELEASED)),
    "original positions instead of closed-up ones": (("", EQUAL), ("", COMPACT)),
    "PruMerge's merging instead of plain selection": (("prumerge", EQUAL), ("top_k", EQUAL)),
    "ToMe's merging instead of PruMerge's": (("tome", EQUAL), ("prumerge", EQUAL)),
    "unlike tokens instead of attended ones": (("divprune", EQUAL), ("top_k", EQUAL)),
    "attended tokens instead of random ones": (("top_k", EQUAL), ("random", EQUAL)),
}
"""What is compared with what: method and handling of both; no method: the mean of all."""


def conclusions(models: Mapping[str, Answered], budgets: Sequence[int] = BUDGETS) -> pd.DataFrame:
    """Say of each of :data:`CONCLUSIONS` what it is worth on each model, means over budgets.

    One row per conclusion and ``model`` (the index): ``difference`` with ``low`` and ``high``;
    ``p`` that chance alone explains it and ``p_holm`` corrected over the table; ``holds``, 1 or -1
    where it is beyond chance, else 0.
    """
    rows = {}
    for conclusion, ends in CONCLUSIONS.items():
        for model, answered in models.items():
            first, second = (_scores(answered, *end, budgets) for end in ends)
            pictures = answered.questions["picture"]
            apart = interval(first - second, pictures)
            rows[conclusion, model] = (*apart, significance(first, second, pictures))
    table = pd.DataFrame(rows, index=["difference", "low", "high", "p"]).T
    table = table.rename_axis(["conclusion", "model"]).assign(p_holm=holm(table["p"]))
    sure = table["p_holm"] < 0.05
    return table.assign(holds=(np.sign(table["difference"]) * sure).astype(int))


def _scores(
    answered: Answered, method: str, handling: Mapping[str, str], budgets: Sequence[int]
) -> np.ndarray:
    asked = answered.where(**handling) if not method else answered.where(method=method, **handling)
    if asked.rows.empty:
        raise ValueError(f"{method} was not run with {dict(handling)}: make sweep SWEEP=ranking")
    return np.mean(list(over_budgets(asked, budgets).values()), axis=0)


def told(conclusion: str, found: pd.DataFrame) -> str:
    """Say in a sentence what one of :func:`conclusions` is worth on each model of ``found``."""
    said = {0: "is within chance", 1: "gains", -1: "loses"}
    bounds = (100 * found[["difference", "low", "high"]]).itertuples()
    points = "; ".join("{} {:+.1f} ({:+.1f} to {:+.1f})".format(*row) for row in bounds)
    if len(signs := set(found["holds"])) == 1:
        return f"{conclusion} {said[signs.pop()]} on both: {points}"
    apart = " and ".join(f"{said[sign]} on {model}" for model, sign in found["holds"].items())
    return f"{conclusion} {apart}: {points}"


def ahead(table: pd.DataFrame, sign: int = 1) -> dict[int, list[str]]:
    """Return by budget who is better than PruMerge beyond chance on every model of a table.

    ``table`` comes from :func:`rankings`; ``sign=-1`` returns who is worse.
    """
    sure = (table["p_holm"] < 0.05) & (sign * table["difference"] > 0)
    every = sure.groupby(["budget", "method"], sort=False).all()
    return {
        budget: list(own.index[own].get_level_values("method"))
        for budget, own in every.groupby("budget")
    }


def leaders(table: pd.DataFrame) -> pd.DataFrame:
    """Return by budget (rows) and model (columns) the method with the most right answers."""
    return table.reset_index().pivot_table("method", "budget", "model", aggfunc="first", sort=False)
