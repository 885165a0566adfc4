"""Intervals, tests and ranks: closed forms, scipy, coverage, clusters, and what is refused."""

from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prumerge.experiments.statistics import (
    Interval,
    bounds,
    compare,
    correlation,
    holm,
    interval,
    paired,
    rank_agreement,
    resampled_sums,
    significance,
    wilson,
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
    assert holm(np.array([])).tolist() == []


def test_holm_corrects_a_whole_table_and_leaves_what_is_no_test():
    table = pd.DataFrame({32: [np.nan, 0.02, 0.2], 64: [np.nan, 0.01, 0.5]}, index=list("abc"))
    found = holm(table)
    assert found.index.equals(table.index) and found.columns.equals(table.columns)
    np.testing.assert_allclose(found, [[np.nan] * 2, [0.06, 0.04], [0.4, 0.5]])
    assert holm(table[64])["b"] == 0.02  # of its own column it would be one of two
    assert table.loc["b", 64] == 0.01
    with pytest.raises(ValueError, match=r"levels lie from 0 to 1, got 0\.5 to 5"):
        holm(np.array([5.0, 0.5]))


def flips(sums):
    """Count by hand how many sign flips are as far from 0."""
    drawn = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=len(sums))]
    return np.mean(np.greater_equal(drawn, abs(sum(sums)) - 1e-9))


def test_few_discordant_pictures_are_tested_exactly():
    first, second = np.zeros(400), np.zeros(400)
    first[[0, 40, 80, 120]] = 1  # one question each of four pictures, all one way
    assert significance(first, second, PICTURES) == 2 / 2**4
    assert paired(first, second, PICTURES).low > 0  # where the bootstrap sees an effect
    first[[0, 1, 2, 3]] = 1  # one picture may weigh more, and does not count as four
    assert significance(first, second, PICTURES) == 2 / 2**4
    second[160:163] = 1
    assert significance(first, second, PICTURES) == pytest.approx(flips([4, 1, 1, 1, -3]))


def test_pictures_that_break_even_tell_nothing():
    first = np.tile([1.0, 0.0, 1.0, 0.0], 100)
    second = first[::-1].copy()  # in every picture one right answer less and one more
    assert significance(first, second, PICTURES) == 1.0
    second[:4] = 0
    assert significance(first, second, PICTURES) == 1.0  # one picture: both signs are as far
    thirds, whole = [1 / 3, 2 / 3, 0.0], [1.0, 0.0, 0.0]  # of three seeds, up to rounding
    assert significance(thirds, whole, "aab") == 1.0


def test_many_pictures_come_near_the_sign_test():
    first = np.zeros(60)
    first[:40] = 1
    found = significance(first, 1 - first, range(60))  # 40 against 20
    assert found == pytest.approx(stats.binomtest(40, 60).pvalue, abs=0.005)
    assert found == significance(first, 1 - first, range(60))
    assert significance(np.ones(60), np.zeros(60), range(60)) == pytest.approx(2 / 10_001)


def test_a_test_keeps_its_level():
    found = [significance(RNG.normal(size=18), np.zeros(18), PICTURES[:36:2]) for _ in range(200)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_a_share_of_few_questions_keeps_its_width():
    found = wilson(6, 6)
    assert found.mean == found.high == 1.0 and found.low == pytest.approx(6 / (6 + 1.96**2), 1e-3)
    assert interval(np.ones(6)).low == 1.0  # which resampling cannot tell
    assert wilson(30, 60, level=0.9).low > wilson(30, 60).low
    for right, of in ((7, 6), (0, 0), (-1, 6)):
        with pytest.raises(ValueError, match=f"got {right} right of {of} questions"):
            wilson(right, of)


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
    assert table["p_holm"].equals(holm(table["p"]))
    beyond = (table["difference_low"] > 0) | (table["difference_high"] < 0)
    assert beyond.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="base='best' is none of middle"):
        compare({"middle": MIDDLE}, PICTURES, "best")


def test_rank_agreement_is_spearmans():
    scores = {"a": GOOD, "b": MIDDLE, "c": BAD}
    same = rank_agreement(scores, {"a": 3, "b": 2, "c": 1, "absent": 9}, PICTURES)
    assert same == (1.0, 1.0, 1.0, pytest.approx(1 / 6), 3)
    assert rank_agreement(scores, {"a": 1, "b": 2, "c": 3}, PICTURES).mean == -1.0
    assert rank_agreement(scores, {"a": 1, "b": 2, "c": 3}, PICTURES).p == 1.0
    assert rank_agreement(scores, {"a": 3, "b": 1, "c": 2}, PICTURES).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs 3 methods in both"):
        rank_agreement(scores, {"a": 1, "x": 2}, PICTURES)


def test_close_methods_leave_the_rank_agreement_unsure():
    close = {name: RNG.permutation(MIDDLE) for name in "abcd"}
    found = rank_agreement(close, dict(zip("abcd", range(4), strict=True)), PICTURES)
    assert found.high - found.low > 0.5


def test_four_methods_agree_by_chance_in_all_orders_but_their_own():
    shares = dict(zip("abcd", (0.2, 0.4, 0.6, 0.8), strict=True))
    scores = {name: answers(400, share, seed=1) for name, share in shares.items()}
    levels = [
        rank_agreement(scores, dict(zip("abcd", order, strict=True)), PICTURES, draws=10).p
        for order in permutations(range(4))
    ]
    assert levels[0] == pytest.approx(1 / 24) and min(levels[1:]) == pytest.approx(4 / 24)
    assert max(levels) == 1.0


def test_the_agreement_of_many_methods_is_drawn():
    names = "abcdefghi"
    scores = {name: answers(400, 0.1 * n + 0.05, seed=n) for n, name in enumerate(names)}
    found = rank_agreement(scores, {name: n for n, name in enumerate(names)}, PICTURES, draws=10)
    assert found.methods == 9 and found.p == pytest.approx(1 / 40_321)
    ties = rank_agreement(scores, dict.fromkeys(names, 1), PICTURES, draws=10)
    assert (ties.mean, ties.p) == (0.0, 1.0)


def test_a_correlation_has_fishers_interval_or_is_unknown():
    found = correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    half = stats.norm.ppf(0.975) / np.sqrt(2)
    assert found.mean == pytest.approx(0.8)
    assert found[1:] == pytest.approx(np.tanh(np.arctanh(0.8) + np.array([-half, half])))
    for first, second in (([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])):
        assert np.isnan(correlation(first, second)).all()
