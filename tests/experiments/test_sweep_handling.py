"""Methods are compared at one handling; what it is worth, and what is chosen in it."""

import pytest
from made_rows import SUFFIX, write_rows

from prumerge.experiments.sweeps import grids, leaderboard, tables, tuning
from prumerge.experiments.sweeps.handling import (
    COMPACT,
    EQUAL,
    at,
    best_handlings,
    published,
    three_ways,
    worth,
)
from prumerge.experiments.sweeps.tables import read_sweep_rows
from prumerge.methods import names, resolve
from prumerge.settings import PRESETS, TUNED

TWICE = {"release", "release+", "release+fixed", "tuned", "tuned-handling"}
"""Other names of presets, and those that this workbook made."""


def share(method, settings):
    """Raster order adds 0.1, original positions 0.2, and stretched ones 0.3 to random ones."""
    gain = 0.1 * (settings.order == "raster") + 0.2 * (settings.positions == "original")
    gain += 0.3 * (settings.positions == "stretched" and method == "random")
    gain += 0.1 * (0 < settings.neighbours < 32)
    gain += 0.05 * (settings.score == "head_mean" and settings.score_layer == 2)
    gain += 0.2 * (method == "divprune")
    return 0.3 + gain


FEW = {"prumerge", "tuned", "all", "enlarged_picture", "random", "divprune", "top_k", "visionzip"}
FEW |= {"tome", "fastervlm"}
CHOOSING = ("neighbours", "scores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")

    def few(point):
        return point.method in FEW and point.resolved.settings.budget in (None, 32, 64, 128)

    write_rows(folder, share, "handling", "rivals", "tuned", *CHOOSING, keep=few)
    return folder


@pytest.fixture(autouse=True)
def read_from(folder, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", folder)
    for module in (leaderboard, tuning):
        monkeypatch.setattr(module, "CHOOSING", CHOOSING)


def rivals(**values):
    return read_sweep_rows(f"rivals{SUFFIX}").where(**values)


def test_one_handling_is_kept_and_all_tokens_stand_in_any():
    for handling in (EQUAL, COMPACT):
        rows = at(rivals(), handling).rows
        assert set(rows["order"]) == {"raster"}
        assert set(rows.loc[rows["sends"] != "all", "positions"]) == {handling["positions"]}
        assert {"all", "enlarged_picture", "prumerge", "visionzip"} <= set(rows["method"])


def test_a_comparison_that_would_mix_handlings_names_who_was_not_run():
    with pytest.raises(ValueError, match="not run at attention, compact: all, divprune@128"):
        at(rivals(), {"order": "attention", "positions": "compact"})
    part = rivals()
    there = part.rows["method"].ne("tome") | part.rows["positions"].ne("original")
    right = part.right.loc[:, there.to_numpy()]
    part = tables.Answered(part.rows[there], right, part.questions)
    with pytest.raises(ValueError, match="raster, original: tome@128, tome@32, tome@64"):
        at(part)


def test_the_best_handling_is_the_one_with_most_right_answers_over_all_budgets():
    best = best_handlings(read_sweep_rows(f"handling{SUFFIX}"))
    assert best["prumerge"] == EQUAL
    assert best["random"] == {"order": "raster", "positions": "stretched"}
    part = read_sweep_rows(f"handling{SUFFIX}").where(budget=32)
    with pytest.raises(ValueError, match=r"prumerge was not run at \[32, 64, 128\]"):
        best_handlings(part)


def test_each_method_stands_at_equal_published_and_best_handling():
    best = best_handlings(read_sweep_rows(f"handling{SUFFIX}"))
    ways = three_ways(rivals(budget=64), best)
    found = {way: (own[0], own[1].mean()) for way, own in ways["prumerge"].items()}
    assert found["equal"] == found["best"] == (EQUAL, pytest.approx(0.6, abs=0.01))
    assert found["published"][0] == {"order": "attention", "positions": "compact"}
    assert found["published"][1] == pytest.approx(0.3, abs=0.01)
    assert ways["random"]["published"] is None and ways["tome"]["published"] is None
    assert ways["random"]["best"][1].mean() == pytest.approx(0.7, abs=0.01)
    assert ways["fastervlm"]["published"][0] == COMPACT


def test_order_and_positions_are_worth_what_was_put_in():
    few = rivals(method=["prumerge", "tome", "random"])
    table = worth(few).set_index(["method", "step"])
    assert table.loc[("prumerge", "raster order"), "difference"] == pytest.approx(0.1, abs=0.01)
    assert table.loc[("tome", "original positions"), "difference"] == pytest.approx(0.2, abs=0.01)
    assert table.loc[("random", "stretched positions"), "difference"] == pytest.approx(
        0.3, abs=0.01
    )
    assert ("tome", "raster order") not in table.index
    assert (table["p_holm"] >= table["p"]).all() and table["p_holm"].min() < 0.05


def test_every_registered_method_has_a_row_on_what_its_own_code_does():
    table = published()
    # Other tests register methods of their own, which stay for as long as the process.
    ours = {name for name in names() if resolve(name).function.__module__.startswith("prumerge.")}
    assert len(ours) > 25 and ours - TWICE <= set(table.index) and table.index.is_unique
    assert (table["source"].str.len() > 8).all()
    stated = {"attention", "grouped", "raster", "by part", "not stated", "none"}
    assert set(table["order"]) == stated
    assert set(table["positions"]) == {"compact", "original", "not stated", "none"}


def test_the_handling_is_chosen_over_all_methods_and_the_rest_in_it():
    chosen = leaderboard.choose(SUFFIX)
    assert chosen["handling"] == EQUAL  # though random answers most at stretched positions
    assert chosen["choices"] == {"neighbours": 1, "score": "head_mean", "score_layer": 2}
    assert leaderboard.winners(SUFFIX)["taken"].to_dict() == {"neighbours": True, "scores": True}


def test_effects_are_of_one_handling_and_refuse_one_that_was_not_run():
    for handling in (EQUAL, {"order": "attention", "positions": "compact"}):
        table = leaderboard.effects("neighbours", SUFFIX, handling=handling)
        assert table["changes"][0] == {"neighbours": 1}
        assert table["difference"][0] == pytest.approx(0.1, abs=0.01) and len(table) == 9
        assert "p" not in table
    table = leaderboard.effects("neighbours", SUFFIX, tested=True)
    released = table["changes"].map(lambda changes: not changes)
    assert table["p"].isna().equals(released) and table["p"][0] < 0.05
    with pytest.raises(ValueError, match="not hold the release at raster, compact"):
        leaderboard.effects("neighbours", SUFFIX, handling=COMPACT)


def test_the_ladder_tells_handling_choices_and_merging_apart():
    table = tuning.ladder(suffix=SUFFIX)
    assert table["difference"].iloc[1] == pytest.approx(0.3, abs=0.01)
    assert table.loc["tuned", "against"] == "released, raster, original"
    own = share("tuned", PRESETS["tuned"]) - share("prumerge", PRESETS["tuned-handling"])
    assert table.loc["tuned", "difference"] == pytest.approx(own, abs=0.01)
    assert table.loc["top_k", "difference"] == pytest.approx(0, abs=0.01)


def test_what_is_recommended_is_a_rival_unless_merging_pays():
    found = tuning.recommended(SUFFIX)
    assert found.pays == (0 < PRESETS["tuned"].neighbours < 32) and found.method == "divprune"
    assert ("merging pays here: +10" in str(found)) == found.pays
    none = tuning.Recommendation(
        "divprune", "raster, original", found.merging._replace(low=-1), 0.0
    )
    assert not none.pays and "merging does not pay here" in str(none)


def test_the_grid_of_the_tuned_preset_holds_its_scores():
    own = PRESETS["tuned"]
    for point in grids.read_sweep("tuned").points:
        settings = point.resolved.settings
        assert (settings.score, settings.score_layer) == (own.score, own.score_layer), TUNED
