"""Rows of sweeps: whole, checked, and named when somebody edited them."""

import numpy as np
import pytest

from prumerge.experiments.sweeps.answers import Outcome, draw_questions
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.tables import (
    read_row,
    read_rows,
    row_of,
    typed,
    write_row,
    write_table,
)

ASKED = draw_questions("choose", 4).table
POINTS = [Point.of({"budget": budget, "per_family": 4}) for budget in (16, 32)]


def row(point, seed=0):
    right = np.random.default_rng(seed).random(len(ASKED)) < 0.5
    kept = np.full(9, point.resolved.settings.budget)
    return row_of(point, Outcome(right, kept), "abc", ASKED, "cpu", 1.0)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.csv"
    write_table(path, [row(point, seed) for seed, point in enumerate(POINTS)])
    return path


def test_a_row_holds_every_parameter_and_comes_back_whole(tmp_path):
    first = row(POINTS[0])
    path = tmp_path / f"{first.key}.parquet"
    write_row(path, first)
    again = read_row(path)
    assert again.cells == first.cells and np.array_equal(again.right, first.right)
    wanted = ["seed", "device", "torch", "accuracy", "tokens_per_image", "n", "whisker", "weights"]
    assert set(wanted) <= set(again.cells)
    assert float(again.cells["accuracy"]) == pytest.approx(first.right.mean(), abs=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_row_file_cut_short_is_named(tmp_path):
    path = tmp_path / f"{row(POINTS[0]).key}.parquet"
    write_row(path, row(POINTS[0]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{path.name} is cut short.*delete it"):
        read_row(path)


def test_a_row_under_another_points_name_is_refused(tmp_path):
    path = tmp_path / f"{row(POINTS[1]).key}.parquet"
    write_row(path, row(POINTS[0]))
    with pytest.raises(ValueError, match=rf"{path.name} holds the row of another point"):
        read_row(path)


def test_a_table_comes_back_as_numbers(table):
    rows = typed(read_rows(table))
    assert rows["budget"].tolist() == [16, 32]
    assert rows["own_term"].tolist() == ["one", "one"]
    assert rows["score_layer"].isna().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace(",16,1.5,", ",17,1.5,"), r"mine\.csv, row 1 .* was edited"),
        (lambda text: text[:-30], "different rows|cut short"),
        (lambda text: "\n".join(text.splitlines()[:2]) + "\n", "different rows"),
        (lambda text: "", "cut short"),
    ],
    ids=["a digit", "the end", "a row", "everything"],
)
def test_an_edited_table_is_named(table, change, sentence):
    before = table.read_text()
    table.write_text(change(before))
    assert table.read_text() != before
    with pytest.raises(ValueError, match=sentence):
        read_rows(table)


def test_edited_answers_are_named(table):
    write_table(table.with_name("other.csv"), [row(p, seed + 7) for seed, p in enumerate(POINTS)])
    table.with_name("other.parquet").replace(table.with_suffix(".parquet"))
    with pytest.raises(ValueError, match=r"mine\.csv, row 1"):
        read_rows(table)


def test_rows_of_different_questions_do_not_make_a_table(tmp_path):
    other = row_of(
        POINTS[1], Outcome(np.ones(36, bool), np.full(9, 32)), "abc", ASKED[::-1], "cpu", 1.0
    )
    with pytest.raises(ValueError, match="rows of mine were asked different questions"):
        write_table(tmp_path / "mine.csv", [row(POINTS[0]), other])
