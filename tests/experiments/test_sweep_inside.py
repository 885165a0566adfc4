"""Methods inside the language model are swept like all others."""

import pytest

from prumerge import paths
from prumerge.experiments.sweeps import grids, run
from prumerge.experiments.sweeps.answers import answer_set, answer_set_inside
from prumerge.experiments.sweeps.grids import Point
from prumerge.methods import INSIDE, resolve


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """36 questions about 9 pictures, their encoder outputs in a folder of the test's own."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    monkeypatch.setattr(run, "open_encodings", run.open_encodings.__wrapped__)
    return run.open_encodings("mini", "report", 4)


def test_dropping_nothing_answers_as_all_tokens_do(seen):
    method = resolve("all")
    table, encoded = seen.questions.table, seen.read(method.settings)
    wanted = answer_set(seen.model, seen.processor, table, encoded, method)
    found = answer_set_inside(seen.model, seen.processor, seen.questions, "fastv", 576)
    assert found.right.tolist() == wanted.right.tolist() and any(found.right)
    assert found.kept.tolist() == wanted.kept.tolist()


def test_a_row_reads_like_the_others(seen):
    method = {"questions": "report", "per_family": 4, "budget": 192}
    row = run.run_point(Point.of(method | {"method": "pyramiddrop"})).cells
    other = run.run_point(Point.of(method | {"method": "top_k", "positions": "original"})).cells
    assert list(row) == list(other)
    shared = ("budget", "order", "positions", "questions", "drawn", "n", "pictures", "neighbours")
    assert {name: row[name] for name in shared} == {name: other[name] for name in shared}
    assert float(row["tokens_per_image"]) == float(other["tokens_per_image"]) == 192


def test_the_grid_has_every_budget_that_can_be_had():
    points = grids.read_sweep("inside").points
    rivals = {dict(point.changes).get("budget") for point in grids.read_sweep("rivals").points}
    had = {(point.method, dict(point.changes)["budget"]) for point in points}
    for method in INSIDE:
        for budget in rivals - {None}:
            if (method, budget) not in had:
                with pytest.raises(ValueError, match="the mean over the layers is at least 145"):
                    Point.of({"method": method, "budget": budget})


def test_settings_that_they_do_not_have_are_refused():
    with pytest.raises(ValueError, match=r"whisker=2\.0: fastv has one setting, budget"):
        Point.of({"method": "fastv", "budget": 192, "whisker": 2.0})
    handled = {"order": "raster", "positions": "original"}
    plain = Point.of({"method": "fastv", "budget": 192})
    assert Point.of({"method": "fastv", "budget": 192, **handled}) == plain
