"""Grids and points: what they name, and what is refused before anything runs."""

import pytest

from prumerge.experiments.sweeps import grids
from prumerge.experiments.sweeps.__main__ import main
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.handling import BUDGETS, EQUAL
from prumerge.experiments.sweeps.leaderboard import leaderboard_of
from prumerge.experiments.sweeps.tables import table_of
from prumerge.paths import MINI, ROOT, RUNS

UNMATCHED = {("attention", "original"), ("grouped", "original")}


def written(tmp_path, text):
    path = tmp_path / "mine.yml"
    path.write_text(text)
    return path


def test_lists_are_axes_and_products_add_up(tmp_path):
    path = written(
        tmp_path,
        """
        common: {questions: report, budget: [16, 32]}
        jobs:
          a: {neighbours: [0, 32], per_family: 4}
          b: [{method: random, seed: [0, 1, 2]}, {neighbours: 0, per_family: 4}]
        """,
    )
    sweep = grids.read_sweep(path)
    assert [len(points) for points in sweep.jobs.values()] == [4, 8]
    assert len(sweep.points) == 10  # two stand in both jobs
    # A default that is spelled out makes no other point.
    assert sweep.jobs["a"][1] == Point.of({"questions": "report", "budget": 16, "per_family": 4})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"wisker": 2}, "unknown parameter 'wisker': did you mean 'whisker'"),
        ({"method": "prumrge"}, "unknown 'prumrge': did you mean 'prumerge'"),
        ({"budget": 0}, "budget must be None, an int of at least 1"),
        ({"budget": 577}, "budget=577 is more than the 576 visual tokens of model 'mini'"),
        ({"neighbours": -1}, "neighbours must be an int of at least 0"),
        ({"questions": "test"}, "the question sets are choose, report, tiles"),
        ({"per_family": 6}, "per_family=6 must be a multiple of 4"),
        ({"model": "nowhere/at all/x"}, "no model"),
        ({"method": "mine", "module": "absent.py"}, "module='absent.py': there is no such file"),
    ],
)
def test_a_bad_point_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Point.of(values)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("jobs: {a: {wisker: [1, 2]}}", r"mine\.yml, job 'a': unknown parameter 'wisker'"),
        ("jbos: {a: {whisker: 1}}", r"mine\.yml: unknown part 'jbos': did you mean 'jobs'"),
        ("about: nothing", r"mine\.yml names no jobs"),
        ("jobs: {a: [", "is no YAML"),
    ],
)
def test_a_bad_grid_is_refused(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        grids.read_sweep(written(tmp_path, text))


def test_an_unknown_sweep_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no sweep 'neighbors': did you mean 'neighbours'"):
        grids.read_sweep("neighbors")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["neighbors"], "error: no sweep 'neighbors'"),
        (["leaderboard", "--budget", "0"], "error: budget must be None, an int of at least 1"),
        (
            ["leaderboard", "--budget", "900"],
            "error: budget=900 is more than the 576 visual tokens",
        ),
        (["leaderboard", "--per-family", "2"], "error: per_family=2 must be a multiple of 4"),
        (["handling", "--per-family", "2"], "error: handling.yml, job 'own_order': per_family=2"),
        (["leaderboard", "--module", "absent.py"], "error: module='absent.py': there is no"),
        (
            ["handling", "--model", "absent/folder/x"],
            "error: handling.yml, job 'own_order': no model",
        ),
    ],
)
def test_the_shell_says_what_is_wrong_in_one_line(arguments, sentence, capsys):
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith(sentence)


def test_the_second_towers_grid_is_that_of_the_rivals_at_three_budgets():
    """In raster order at two kinds of places, and as the released codes send."""
    kept = {"budget": (None, *BUDGETS), "positions": ("original", "compact")}

    def asked(name):
        points = grids.read_sweep(name).points
        found = {(p.method, p.resolved.settings) for p in points if p.method != "cdpruner"}
        return {(m, s) for m, s in found if all(getattr(s, n) in v for n, v in kept.items())}

    first, second = asked("rivals"), asked("ranking")
    assert second < first
    assert {(m, s) for m, s in first - second if m != "enlarged_picture"} == {
        (m, s) for m, s in first if (s.order, s.positions) in UNMATCHED
    }


@pytest.mark.parametrize("name", grids.names())
def test_committed_grid_is_whole(name):
    sweep = grids.read_sweep(name)
    assert sweep.about.endswith("?")
    asked = "report" if name in grids.REPORTING else "choose"
    assert {point.questions for point in sweep.points} == {name if name == "tiles" else asked}
    keys = [point.key("weights") for point in sweep.points]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("overrides", "file"),
    [
        ({}, "data/results/sweeps/neighbours.csv"),
        ({"per_family": 100, "model": "mini"}, "data/results/sweeps/neighbours.csv"),
        ({"per_family": 4}, "data/runs/sweeps/neighbours-4-per-family.csv"),
        ({"model": str(MINI)}, "data/runs/sweeps/neighbours-mini-llava.csv"),
        ({"neighbours": 3}, "data/runs/sweeps/neighbours.csv"),
    ],
)
def test_only_a_committed_grid_as_it_stands_writes_committed_rows(overrides, file):
    assert table_of(grids.read_sweep("neighbours", **overrides)) == ROOT / file


def test_a_folder_is_found_from_wherever_a_job_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert Point.of({"model": "data/mini-llava"}).model == str(MINI)
    monkeypatch.chdir(ROOT / "data")
    assert Point.of({"model": "mini"}).model == "mini"


def test_a_grid_of_ones_own_under_a_committed_name_leaves_the_committed_rows(tmp_path):
    path = tmp_path / "neighbours.yml"
    path.write_text((grids.GRIDS / "neighbours.yml").read_text())
    assert RUNS in table_of(grids.read_sweep(path)).parents


@pytest.mark.parametrize("name", grids.names())
def test_all_tokens_are_sent_in_raster_order(name):
    """What stands for all tokens must be all tokens as they are, not all by falling attention."""
    points = grids.read_sweep(name).points
    assert {p.resolved.settings.order for p in points if p.method == "all"} <= {"raster"}


def test_every_grid_of_the_preset_holds_the_release_to_compare_with():
    for name in grids.CHOOSING:
        found = {frozenset(p.changes) for p in grids.read_sweep(name).points}
        for handling in ({}, EQUAL):
            for budget in (32, 64, 128):
                assert frozenset({"budget": budget, **handling}.items()) in found, (name, handling)


def test_a_file_of_ones_own_joins_the_leaderboard_and_decides_its_key(tmp_path):
    source = ROOT / "tests/fixtures/every_ninth.py"
    path = tmp_path / "every_ninth.py"
    path.write_text(source.read_text())
    points = leaderboard_of(64, str(path)).points
    own = [point for point in points if point.method == "every_ninth"]
    assert len(own) == 1 and sum(point.method == "random" for point in points) == 3
    before = own[0].key("weights")
    path.write_text(source.read_text() + "\n# changed\n")
    assert own[0].key("weights") != before
