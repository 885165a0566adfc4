"""Families count alike, guesses stand beside methods, and halves split by a smaller picture."""

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.statistics import interval
from prumerge.experiments.sweeps.families import best_constant, even_mean, halves


def questions(**columns):
    """Eight questions about eight pictures: six that ask yes or no, two that ask to read."""
    table = pd.DataFrame({"family": ["verify"] * 6 + ["read"] * 2, "picture": range(8)})
    table["answer"] = ["yes", "yes", "no", "yes", "no", "yes", "7 4", "3 1"]
    return table.assign(**columns)


def test_the_best_constant_answer_is_that_of_each_family():
    assert best_constant(questions()).tolist() == [1, 1, 0, 1, 0, 1, 0, 1]  # of equals the first


def test_each_family_counts_alike_and_no_interval_leaves_what_is_possible():
    asked = questions()
    right = [1, 1, 1, 1, 1, 1, 0, 1]
    mean, low, high = even_mean(right, asked["family"], asked["picture"])
    assert mean == pytest.approx((1 + 0.5) / 2)
    assert 0.5 <= low < mean < high <= 1


def test_of_one_family_it_is_the_interval_of_all_questions():
    right, pictures = np.array([1.0, 0, 1, 1, 0, 1]), pd.Series([0, 0, 1, 1, 2, 3])
    family = pd.Series(["count"] * 6)
    assert even_mean(right, family, pictures) == pytest.approx(interval(right, pictures))


def test_halves_do_not_sort_guesses():
    # The smaller picture answers five of six yes/no questions and one of two that read: a method
    # right on all yes/no questions and on none that read is at one half on either side.
    asked = questions(smaller_picture_right=[1, 1, 1, 1, 1, 0, 1, 0])
    guesses = {"guess": [1.0] * 6 + [0.0] * 2, "nothing": [0.0] * 8}
    found = halves(guesses, asked, "nothing")
    assert [table.loc["guess", "accuracy"] for table in found.values()] == [0.5, 0.5]
    assert all(table.loc["guess", "difference"] == 0.5 for table in found.values())
    assert all(table.loc["nothing", "difference_high"] == 0 for table in found.values())


def test_a_family_that_lacks_a_half_is_left_out_of_both():
    asked = questions(smaller_picture_right=[1, 1, 1, 1, 1, 0, 0, 0])
    found = halves({"reads": [0.0] * 6 + [1.0] * 2}, asked, "reads")
    assert [table.loc["reads", "accuracy"] for table in found.values()] == [0, 0]
