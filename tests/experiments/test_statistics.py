"""Intervals, tests and ranks: closed forms, scipy, coverage, clusters, and what is refused."""

import numpy as np
import pytest
from scipy import stats

from prumerge.experiments.statistics import (
    Interval,
    at_equal_tokens,
    beyond_chance,
    bounds,
    compare,
    holm,
    interval,
    paired,
    rank_agreement,
    resampled_sums,
    significance,
)

PICTURES = np.repeat(np.arange(100), 4)
RNG = np.random.default_rng(0)
GOOD, MIDDLE, BAD = (RNG.random(400) < share for share in (0.9, 0.6, 0.2))


def answers(questions: int, share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(questions) < share).astype(float)


def test_the_mean_is_the_mean_of_the_questions():
    values = answers(200, 0.7, seed=0)
    found = interval(values)
    assert found.mean == values.mean()
    assert found.low < found.mean < found.high


def test_equal_values_leave_no_spread():
    assert interval([0.3] * 12) == pytest.approx(Interval(0.3, 0.3, 0.3))


def ratio(*sums, axis):
    return sums[0].sum(axis=axis) / sums[1].sum(axis=axis)


def test_bounds_are_those_of_scipy():
    drawn = {"n_resamples": 2000, "method": "percentile", "rng": 0}
    values = answers(300, 0.8, seed=1)
    theirs = stats.bootstrap((values,), np.mean, **drawn)
    np.testing.assert_allclose(interval(values)[1:], theirs.confidence_interval, rtol=1e-14)
    other = answers(300, 0.6, seed=2)
    theirs = stats.bootstrap((values - other,), np.mean, **drawn)
    np.testing.assert_allclose(paired(values, other)[1:], theirs.confidence_interval, rtol=1e-14)
    # A unit is a picture: its right answers and its questions are drawn together.
    pictures = np.sort(np.random.default_rng(3).integers(60, size=300))
    units = [np.bincount(pictures, weights)[np.unique(pictures)] for weights in (values, None)]
    theirs = stats.bootstrap(units, ratio, paired=True, **drawn)
    ours = interval(values, clusters=pictures)
    np.testing.assert_allclose(ours[1:], theirs.confidence_interval, rtol=1e-14)


def test_bounds_are_those_of_the_normal_law():
    values = answers(900, 0.5, seed=2)
    found = interval(values, draws=10_000)
    half = 1.96 * values.std() / np.sqrt(900)
    np.testing.assert_allclose(found[1:], [found.mean - half, found.mean + half], atol=0.003)


def test_the_truth_lies_within_as_often_as_promised():
    found = [interval(answers(120, 0.7, seed), draws=400, level=0.9) for seed in range(300)]
    covered = np.mean([low <= 0.7 <= high for _, low, high in found])
    assert 0.84 < covered < 0.95


def test_a_seed_fixes_the_bounds():
    values = answers(100, 0.6, seed=3)
    assert interval(values, seed=5) == interval(values, seed=5)
    assert interval(values, seed=5)[1:] != interval(values, seed=6)[1:]


def test_questions_that_repeat_one_picture_add_no_certainty():
    pictures = answers(80, 0.6, seed=4)
    repeated, names = np.repeat(pictures, 5), np.repeat(np.arange(80), 5)
    alone, clustered = interval(pictures), interval(repeated, clusters=names)
    assert clustered == pytest.approx(alone)
    assert interval(repeated).high < clustered.high


def test_clusters_of_unequal_size_weigh_by_their_questions():
    values, names = [1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"]
    found = interval(values, clusters=names, draws=4000)
    assert found.mean == 0.25  # of the questions, not of the pictures
    sums = resampled_sums(np.array([values, np.ones(4)]).T, names, draws=4000)
    assert set((sums[:, 0] / sums[:, 1]).tolist()) == {0.0, 0.25, 1.0}


def test_names_of_clusters_do_not_matter():
    values = answers(60, 0.5, seed=6)
    numbers = np.repeat(np.arange(20), 3)
    named = interval(values, clusters=[f"picture {n}" for n in numbers])
    assert named == interval(values, clusters=numbers)


def test_many_questions_are_drawn_in_parts_with_the_same_result(monkeypatch):
    values = answers(70, 0.5, seed=7)
    whole = interval(values, draws=500)
    monkeypatch.setattr("prumerge.experiments.statistics._PLACES_AT_ONCE", 7 * 70 + 3)
    assert interval(values, draws=500) == whole


def test_pairs_see_what_separate_intervals_hide():
    second = answers(400, 0.6, seed=8)
    first = second.copy()
    first[np.flatnonzero(second == 0)[:12]] = 1  # 12 of 400 more, none fewer
    difference = paired(first, second)
    assert difference.mean == pytest.approx(0.03) and difference.low > 0
    assert interval(first).low < interval(second).high


def test_a_method_does_not_differ_from_itself():
    values = answers(50, 0.5, seed=9)
    assert paired(values, values) == Interval(0, 0, 0)


def test_turned_pairs_turn_the_sign():
    first, second = answers(90, 0.7, seed=10), answers(90, 0.5, seed=11)
    forth, back = paired(first, second), paired(second, first)
    assert back == pytest.approx((-forth.mean, -forth.high, -forth.low))


@pytest.mark.parametrize(
    ("values", "options", "named"),
    [
        ([], {}, r"shape \(0,\)"),
        ([[1.0], [0.0]], {}, r"shape \(2, 1\)"),
        ([1.0, float("nan")], {}, "value 1 is nan"),
        ([1.0, float("inf")], {}, "value 1 is inf"),
        ([1.0, 0.0], {"clusters": ["a"]}, "1 names for 2 questions"),
        ([1.0, 0.0], {"level": 1.0}, "level must lie between 0 and 1, got 1.0"),
        ([1.0, 0.0], {"level": 95.0}, "level .* got 95"),
        ([1.0, 0.0], {"draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(values, options, named):
    with pytest.raises((ValueError, TypeError), match=named):
        interval(values, **options)


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="got 2 and 1 values"):
        paired([1.0, 0.0], [1.0])


def test_a_wider_level_gives_wider_bounds():
    resampled = np.linspace(0, 1, 1001)
    assert bounds(resampled, 0.9) == pytest.approx((0.05, 0.95))
    assert bounds(resampled, 0.5) == pytest.approx((0.25, 0.75))


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
