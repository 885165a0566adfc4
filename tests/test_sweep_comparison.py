"""Ranks, tests and the chosen preset; and that what is committed is whole and of one piece."""

import json

import numpy as np
import pandas as pd
import pytest

from prumerge import presets
from prumerge.sweeps import grids, points, tuning
from prumerge.sweeps.comparison import (
    at_equal_tokens,
    beyond_chance,
    compare,
    holm,
    rank_agreement,
    significance,
)
from prumerge.sweeps.leaderboard import table_of
from prumerge.sweeps.rows import read_rows
from prumerge.sweeps.tables import read_sweep_rows
from prumerge.sweeps.worker import run_point

PICTURES = np.repeat(np.arange(100), 4)
RNG = np.random.default_rng(0)
GOOD, MIDDLE, BAD = (RNG.random(400) < share for share in (0.9, 0.6, 0.2))


def test_holm_raises_levels_step_by_step():
    assert holm(np.array([0.5, 0.01, 0.02])).tolist() == pytest.approx([0.5, 0.03, 0.04])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_equal_answers_are_chance_and_clear_differences_are_not():
    assert significance(GOOD, GOOD, PICTURES) == 1.0
    assert significance(GOOD, BAD, PICTURES) < 0.001
    coin = RNG.permutation(GOOD)
    assert significance(GOOD, coin, PICTURES) > 0.05


def test_pictures_that_stand_or_fall_together_count_once():
    together = np.repeat(RNG.random(100) < 0.55, 4)
    lone, shared = (significance(together, 1 - together, c) for c in (np.arange(400), PICTURES))
    assert lone < shared


def test_methods_are_ranked_and_tested_against_one():
    table = compare({"middle": MIDDLE, "bad": BAD, "good": GOOD}, PICTURES, "middle")
    assert list(table.index) == ["good", "middle", "bad"]
    assert table.loc["middle", "difference"] == 0 and np.isnan(table.loc["middle", "p_holm"])
    assert (table.loc[["good", "bad"], "p_holm"] < 0.01).all()
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    assert beyond_chance(table, "difference_low", "difference_high").tolist() == [True, False, True]
    with pytest.raises(ValueError, match="base='best' is none of middle"):
        compare({"middle": MIDDLE}, PICTURES, "best")


def test_rank_agreement_is_spearmans():
    scores = {"a": GOOD, "b": MIDDLE, "c": BAD}
    same = rank_agreement(scores, {"a": 3, "b": 2, "c": 1, "absent": 9}, PICTURES)
    assert same == (1.0, 1.0, 1.0)
    assert rank_agreement(scores, {"a": 1, "b": 2, "c": 3}, PICTURES).mean == -1.0
    assert rank_agreement(scores, {"a": 3, "b": 1, "c": 2}, PICTURES).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs 3 methods in both"):
        rank_agreement(scores, {"a": 1, "x": 2}, PICTURES)


def test_close_methods_leave_the_rank_agreement_unsure():
    close = {name: RNG.permutation(MIDDLE) for name in "abcd"}
    found = rank_agreement(close, dict(zip("abcd", range(4), strict=True)), PICTURES)
    assert found.high - found.low > 0.5


def test_between_two_budgets_answers_are_interpolated():
    curve = {16: BAD, 64: MIDDLE, 128: GOOD}
    assert at_equal_tokens(curve, 64).tolist() == MIDDLE.astype(float).tolist()
    assert np.allclose(at_equal_tokens(curve, 32), (BAD.astype(float) + MIDDLE) / 2)
    assert np.array_equal(at_equal_tokens(curve, 900), GOOD)


def test_leaderboard_averages_seeds_and_stands_against_prumerge():
    values = [{"method": "prumerge"}, *({"method": "random", "seed": seed} for seed in (0, 1))]
    common = {"questions": "report", "per_family": 4, "budget": 36}
    rows = [run_point(points.Point.of(common | value)) for value in values]
    table = table_of(rows, pd.Series(np.repeat(np.arange(9), 4)))
    assert set(table.index) == {"prumerge", "random"} and (table["tokens"] == 36).all()
    both = [100 * float(row.cells["accuracy"]) for row in rows[1:]]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean(both), abs=0.1)


@pytest.mark.parametrize("name", grids.names())
def test_committed_rows_are_those_of_the_grid(name):
    rows = read_rows(points.RESULTS / f"{name}.csv")
    asked = int(rows[0].cells["per_family"])
    sweep = grids.read_sweep(name, per_family=asked)
    weights = points.weights_of("mini")
    assert [row.key for row in rows] == [point.key(weights) for point in sweep.points]
    table = read_sweep_rows(name)
    assert len(table.questions) == len(table.right) == 9 * asked
    assert set(table.questions["small_picture_right"]) == {0, 1}


def test_the_preset_tuned_is_what_the_rule_chooses():
    assert json.loads(presets.TUNED.read_text()) == tuning.choose()
    assert presets.PRESETS["tuned"] == presets.PRESETS["release"].with_changes(**tuning.choose())


def test_a_new_choice_is_written_and_an_old_one_stays(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text('{"neighbours": 77}')
    assert tuning.update(path).startswith("tuned was {'neighbours': 77} and is now")
    assert json.loads(path.read_text()) == tuning.choose()
    assert tuning.update(path).startswith("tuned stays")
