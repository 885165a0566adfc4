"""Whether a ranking holds on another model is told from made answers as a reader would tell it."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.statistics import rank_agreement
from prumerge.experiments.sweeps import transfer
from prumerge.experiments.sweeps.handling import BUDGETS, COMPACT, EQUAL
from prumerge.experiments.sweeps.tables import Answered

QUESTIONS = 400
SHARES = {"divprune": 0.8, "tome": 0.7, "top_k": 0.6, "prumerge": 0.5, "random": 0.3}


def answered(shares, order=0.1, places=0.1, seed=0):
    """Methods with these shares of right answers at equal handling, less in another one."""
    hard = np.random.default_rng(seed).permutation(np.arange(QUESTIONS) / QUESTIONS)
    handlings = {"equal": (EQUAL, 0), "compact": (COMPACT, places)}
    rows, right = [], {}
    for (name, share), budget, way in product(shares.items(), BUDGETS, [*handlings, "released"]):
        if way == "released" and name != "prumerge":
            continue
        handling, less = handlings.get(way, (transfer.RELEASED, places + order))
        key = f"{name}-{budget}-{way}"
        rows.append({"key": key, "method": name, "sends": "exact", "budget": budget, **handling})
        right[key] = (hard < share - less - 1e-9).astype(float)
    questions = pd.DataFrame({"picture": np.arange(QUESTIONS) // 4})
    return Answered(pd.DataFrame(rows).set_index("key"), pd.DataFrame(right), questions)


@pytest.fixture(scope="module")
def alike():
    lower = {name: share - 0.1 for name, share in SHARES.items()}
    return {"one": answered(SHARES), "other": answered(lower, seed=1)}


def test_two_models_that_rank_alike_agree(alike):
    found = transfer.agreements(alike)
    assert list(found.index) == list(BUDGETS) and (found["mean"] == 1).all()
    assert found["p"].to_numpy() == pytest.approx(1 / 120)  # of all orders of five
    table = transfer.rankings(alike)
    assert table.loc[64, "one"]["rank"].to_dict() == dict(zip(SHARES, range(1, 6), strict=True))
    assert table.loc[(32, "other", "tome"), "difference"] == pytest.approx(0.2)
    assert transfer.ahead(table)[64] == ["divprune", "tome", "top_k"]
    assert transfer.ahead(table, -1)[128] == ["random"]
    assert (transfer.leaders(table) == "divprune").all(axis=None)


def test_a_conclusion_holds_on_both_or_the_sentence_says_where(alike):
    other = answered(SHARES | {"top_k": 0.45}, order=0.0, seed=2)
    both = transfer.conclusions({"one": alike["one"], "other": other})
    told = {
        name: transfer.told(name, rows.droplevel("conclusion"))
        for name, rows in both.groupby("conclusion", sort=False)
    }
    assert list(told) == list(transfer.CONCLUSIONS)
    order, places, merging, *_, chosen = told.values()
    assert "gains on one and is within chance on other: one +10.0" in order
    assert "closed-up ones gains on both: one +10.0" in places
    assert "loses on one and gains on other: one -10.0 (" in merging and "other +5.0 (" in merging
    assert "random ones gains on both" in chosen


def test_a_ranking_needs_every_method_in_the_handling(alike):
    lacking = alike["one"].rows.query("method != 'tome' or positions != 'original'")
    short = Answered(lacking, alike["one"].right[list(lacking.index)], alike["one"].questions)
    with pytest.raises(ValueError, match="not run at raster, original: tome@32"):
        transfer.rankings({"one": short, "other": alike["other"]})
    with pytest.raises(ValueError, match="prumerge was not run with"):
        transfer.conclusions({"one": alike["one"].where(**EQUAL)})


def test_an_agreement_is_less_sure_when_both_sides_are_drawn_from_few_pictures():
    rng = np.random.default_rng(0)
    one = {name: (rng.random(80) < share).astype(float) for name, share in SHARES.items()}
    pictures = np.arange(80)
    printed = {name: values.mean() for name, values in one.items()}
    alone = rank_agreement(one, printed, pictures)
    both = rank_agreement(one, one, pictures, pictures)
    assert alone.mean == both.mean == 1 and alone.p == both.p
    assert both.low < alone.low
