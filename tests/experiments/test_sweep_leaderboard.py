"""The leaderboard and the chosen preset; and that what is committed is whole and of one piece."""

import json

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.sweeps import grids, leaderboard
from prumerge.experiments.sweeps.handling import (
    BUDGETS,
    COLUMNS,
    COMPACT,
    EQUAL,
    at,
    handlings,
    told,
)
from prumerge.experiments.sweeps.run import run_point
from prumerge.experiments.sweeps.tables import RESULTS, read_rows, read_sweep_rows
from prumerge.settings import PRESETS, TILED, TUNED

SUFFIXES = {"ranking": "-pocket", "tiles": "-mini-next-48-per-family"}
each_table = [name + SUFFIXES.get(name, "") for name in grids.names()]


def test_leaderboard_averages_seeds_and_stands_against_prumerge():
    values = [{"method": "prumerge"}, *({"method": "random", "seed": seed} for seed in (0, 1))]
    common = {"questions": "report", "per_family": 4, "budget": 36}
    rows = [run_point(grids.Point.of(common | value)) for value in values]
    table = leaderboard.table_of(rows, pd.Series(np.repeat(np.arange(9), 4)))
    assert set(table.index) == {"prumerge", "random"}
    assert (table[["fewest", "tokens", "most"]] == 36).all(axis=None)
    both = [100 * float(row.cells["accuracy"]) for row in rows[1:]]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean(both), abs=0.1)


def test_a_leaderboard_has_every_method_in_one_handling_once():
    def handlings(points):
        settings = [vars(point.resolved.settings) for point in points]
        return {told({name: own[name] for name in EQUAL}) for own in settings}

    points = leaderboard.leaderboard_of(64).points
    assert handlings(points) == {told(EQUAL)}
    assert handlings(leaderboard.leaderboard_of(64, handling=COMPACT).points) == {told(COMPACT)}
    settings = [(p.method, p.resolved.settings) for p in points if p.method in PRESETS]
    assert len({own for _, own in settings}) == len(settings)


@pytest.mark.parametrize("name", each_table)
def test_committed_rows_compare_at_equal_handling(name):
    """Every method at every budget has a row in raster order at original positions."""
    assert len(at(read_sweep_rows(name)).rows) > 1


@pytest.mark.parametrize("name", ["handling", *grids.CHOOSING])
def test_choices_are_made_among_complete_crossings(name):
    rows = read_sweep_rows(name).rows
    known = ("budget", *COLUMNS, *TILED)
    free = [field for field in vars(PRESETS["release"]) if field not in known]
    for _, own in rows.groupby(["method", *free], dropna=False):
        met = own.groupby([*COLUMNS, "budget"]).size()
        assert (met == 1).all() and len(met) == len(own[[*COLUMNS]].drop_duplicates()) * 3
        assert set(own["budget"]) == set(BUDGETS)
        assert told(EQUAL) in {told(handling) for handling in handlings(own)}


@pytest.mark.parametrize("name", each_table)
def test_committed_rows_are_those_of_the_grid(name):
    rows = read_rows(RESULTS / f"{name}.csv")
    asked = int(rows[0].cells["per_family"])
    sweep = grids.read_sweep(name.partition("-")[0], per_family=asked)
    assert sweep.committed and sweep.name + sweep.suffix == name
    keys = [point.key(grids.weights_of(point.model)) for point in sweep.points]
    assert [row.key for row in rows] == keys
    table = read_sweep_rows(name)
    assert len(table.questions) == len(table.right) == 9 * asked
    assert set(table.questions["smaller_picture_right"]) == {0, 1}


def test_the_preset_tuned_is_what_the_rule_chooses():
    assert json.loads(TUNED.read_text()) == leaderboard.choose()
    chosen = leaderboard.choose()
    handled = PRESETS["release"].with_changes(**chosen["handling"])
    assert PRESETS["tuned-handling"] == handled
    assert PRESETS["tuned"] == handled.with_changes(**chosen["choices"])


def test_a_new_choice_is_written_and_an_old_one_stays(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text('{"handling": {}, "choices": {"neighbours": 77}}')
    told = leaderboard.update(path)
    assert "{'neighbours': 77}} and is now" in told and "grids/tuned.yml" in told
    assert json.loads(path.read_text()) == leaderboard.choose()
    assert leaderboard.update(path).startswith("tuned stays")
