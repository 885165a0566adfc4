"""A method that hands back something wrong is named, with what is wrong."""

import dataclasses

import pytest
from samples import encoded

from prumerge import Encoded, Settings, resolve
from prumerge.methods import Method
from prumerge.reduction import Selection

PLAIN = Settings(neighbours=0, extra_token=False, order="raster")


def pictures():
    features, _, scores = encoded([1, 5], patches=16)
    return Encoded(features, features, scores, (4, 4))


def changed(change, budget=4, sends="exact"):
    """A method called "mine" that spoils what top-k returns."""

    def function(seen, settings):
        return change(resolve("top_k", budget=4)(seen))

    return Method("mine", function, PLAIN.with_changes(budget=budget), sends)


def replaced(**fields):
    def change(reduction):
        return dataclasses.replace(reduction, **{k: v(reduction) for k, v in fields.items()})

    return change


def twice(reduction):
    old = reduction.selection
    order = old.order.clone()
    order[1, 2] = order[1, 0]
    return Selection(old.reason, order, old.counts)


def fewer(name):
    return lambda reduction: [row[:-1] for row in getattr(reduction, name)]


def test_what_is_right_passes():
    assert changed(lambda reduction: reduction)(pictures()).kept == [4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda reduction: reduction.tokens, "must return a Reduction, got list: end it with"),
        (
            replaced(tokens=lambda r: r.tokens[:1], positions=lambda r: r.positions[:1]),
            "returned tokens of 1 pictures, 2 were given",
        ),
        (replaced(tokens=fewer("tokens")), r"sent \[3, 3\] tokens with \[4, 4\] positions"),
        (
            replaced(tokens=fewer("tokens"), positions=fewer("positions")),
            r"sent \[3, 3\] tokens, the budget is exact 4; register it with sends='at most'",
        ),
        (
            replaced(positions=lambda r: [row + 13 for row in r.positions]),
            "gave positions outside 0 to 15",
        ),
        (
            replaced(positions=lambda r: [row - 16 for row in r.positions]),
            "gave positions outside 0 to 15",
        ),
        (replaced(selection=twice), "kept a patch twice"),
    ],
)
def test_what_is_wrong_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=rf"method 'mine' {message}"):
        changed(change)(pictures())


def test_more_than_the_budget_is_refused_even_if_fewer_were_allowed():
    for sends in ("exact", "at most"):
        with pytest.raises(ValueError, match=rf"sent \[4, 4\] tokens, the budget is {sends} 3$"):
            changed(lambda reduction: reduction, budget=3, sends=sends)(pictures())


def test_fewer_may_be_allowed_and_budgets_may_not_matter():
    assert changed(lambda reduction: reduction, 5, "at most")(pictures()).kept == [4, 4]
    assert changed(lambda reduction: reduction, 2, "all")(pictures()).kept == [4, 4]


def test_without_a_budget_any_number_is_right():
    assert changed(lambda reduction: reduction, None)(pictures()).kept == [4, 4]


def test_overrides_keep_what_a_budget_means():
    assert resolve("ats", budget=7).sends == "at most"
    assert resolve("top_k", budget=7).sends == "exact"
