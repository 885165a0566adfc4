"""The leaderboard and the chosen preset; and that what is committed is whole and of one piece."""

import json

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.sweeps import grids, leaderboard
from prumerge.experiments.sweeps.run import run_point
from prumerge.experiments.sweeps.tables import RESULTS, read_rows, read_sweep_rows
from prumerge.settings import PRESETS, TUNED


def test_leaderboard_averages_seeds_and_stands_against_prumerge():
    values = [{"method": "prumerge"}, *({"method": "random", "seed": seed} for seed in (0, 1))]
    common = {"questions": "report", "per_family": 4, "budget": 36}
    rows = [run_point(grids.Point.of(common | value)) for value in values]
    table = leaderboard.table_of(rows, pd.Series(np.repeat(np.arange(9), 4)))
    assert set(table.index) == {"prumerge", "random"} and (table["tokens"] == 36).all()
    both = [100 * float(row.cells["accuracy"]) for row in rows[1:]]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean(both), abs=0.1)


@pytest.mark.parametrize("name", grids.names())
def test_committed_rows_are_those_of_the_grid(name):
    rows = read_rows(RESULTS / f"{name}.csv")
    asked = int(rows[0].cells["per_family"])
    sweep = grids.read_sweep(name, per_family=asked)
    weights = grids.weights_of("mini")
    assert [row.key for row in rows] == [point.key(weights) for point in sweep.points]
    table = read_sweep_rows(name)
    assert len(table.questions) == len(table.right) == 9 * asked
    assert set(table.questions["small_picture_right"]) == {0, 1}


def test_the_preset_tuned_is_what_the_rule_chooses():
    assert json.loads(TUNED.read_text()) == leaderboard.choose()
    assert PRESETS["tuned"] == PRESETS["release"].with_changes(**leaderboard.choose())


def test_a_new_choice_is_written_and_an_old_one_stays(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text('{"neighbours": 77}')
    assert leaderboard.update(path).startswith("tuned was {'neighbours': 77} and is now")
    assert json.loads(path.read_text()) == leaderboard.choose()
    assert leaderboard.update(path).startswith("tuned stays")
