"""The way from the release to all tokens, and the readings of the paper, as tables and figures."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_rows import SUFFIX, write_rows
from matplotlib import pyplot as plt

from prumerge.draw.charts import specification_curve, waterfall
from prumerge.experiments.sweeps import steps, tables
from prumerge.experiments.sweeps.tables import read_sweep_rows

matplotlib.use("agg")


def share(method, settings):
    """Original positions help in raster order alone, so that paths differ."""
    gain = 0.05 * (not settings.extra_token) + 0.1 * (settings.neighbours == 0)
    raster = settings.order == "raster"
    return 0.3 + gain + 0.15 * raster + 0.2 * (raster and settings.positions == "original")


@pytest.fixture
def answered(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    write_rows(tmp_path, share, "steps", keep=lambda point: point.method == "prumerge")
    return read_sweep_rows(f"steps{SUFFIX}")


def test_steps_follow_each_other_and_their_means_add_up(answered):
    pictures, every = answered.questions["picture"], np.ones(len(answered.questions))
    found = steps.cells(answered)
    table = steps.path(found, every, pictures)
    assert table["difference"].tolist() == pytest.approx([0.3, 0.05, 0.1, 0.15, 0.2, 0.2], abs=0.01)
    assert table["before"].tolist()[1:] == table["after"].tolist()[:-1]
    assert table["after"].iloc[-1] == 1
    means = steps.factors(found, pictures).set_index(["factor", "mean"])["difference"]
    way = means.xs("over all paths", level="mean")
    assert way.sum() == pytest.approx(0.5, abs=0.01)
    # Order and positions share what they give only together.
    assert way["in raster order"] == pytest.approx(0.25, abs=0.01)
    assert way["at original positions"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="prumerge was not run with"):
        steps.cells(answered.where(order="raster"))


def test_a_waterfall_ends_each_bar_where_the_next_begins(answered):
    pictures, every = answered.questions["picture"], np.ones(len(answered.questions))
    table = steps.path(steps.cells(answered), every, pictures)
    axes = waterfall(plt.figure().add_axes((0, 0, 1, 1)), table)
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(ends, table[["before", "after"]])
    assert [text.get_text() for text in axes.texts][:2] == ["30.0 %", "+5.0"]


def test_a_specification_curve_marks_each_choice_once():
    table = pd.DataFrame({"own": ["one", "none"] * 3, "order": ["a"] * 3 + ["b"] * 3})
    table = table.assign(accuracy=np.linspace(0.1, 0.9, 6), low=0.0, high=1.0)
    above, below = plt.subplots(2)[1]
    specification_curve(above, below, table, ["own", "order"])
    labels = [text.get_text() for text in below.get_yticklabels()]
    assert labels == ["own: one", "own: none", "order: a", "order: b"]
    places = [dots.get_offsets()[:, 0].tolist() for dots in below.collections]
    assert places == [[0, 2, 4], [1, 3, 5], [0, 1, 2], [3, 4, 5]]
    assert len(above.collections[1].get_offsets()) == 6
