"""Settings refuse what cannot work, and presets are what their names say."""

import dataclasses
import math
import re

import pytest
from jaxtyping import TypeCheckError

from prumerge import PRESETS, Settings, reduce_tokens
from prumerge.settings import check, resolve_settings

# Tests run with types checked as well: a wrong type is then refused before its value is.
REFUSALS = (ValueError, TypeCheckError)
FIELDS = {field.name: field.type for field in dataclasses.fields(Settings)}
OUT_OF_LIMITS = {
    "budget": [0, -3, 0.0, 1.5, -0.5, math.nan, True],
    "whisker": [-0.1, math.inf, math.nan],
    "lower_quantile": [-0.1, 1.1],
    "upper_quantile": [-0.1, 1.1],
    "pooling": ["images"],
    "outlier_rule": ["top"],
    "score": ["head_max"],
    "similarity": ["euclid"],
    "neighbours": [-1],
    "candidates": ["kept"],
    "own_term": ["two", True, False],
    "merge_reads": ["sent"],
    "spatial": ["grid"],
    "spatial_factor": [0],
    "branch": ["training"],
    "fixed_ratio": [0.0, 1.5],
    "order": ["random"],
    "positions": ["shifted"],
    "outlier_share": [-0.1, 1.1],
    "share": ["tiles"],
    "base_share": [-0.1, 1.1],
    "markers": [True, "some"],
    "merging": ["over"],
    "merges_per_round": [0, -1],
    "seed": [-1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_LIMITS.items() for value in values]
)
def test_a_value_outside_its_limits_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name) as error:
        check(name, FIELDS[name], value)
    assert repr(value) in str(error.value)
    with pytest.raises(REFUSALS):
        Settings(**{name: value})


def test_quartiles_have_to_be_in_order():
    for wrong in ({"lower_quantile": 0.75}, {"upper_quantile": 0.25}):
        with pytest.raises(ValueError, match="lower_quantile must be below upper_quantile"):
            Settings(**wrong)


@pytest.mark.parametrize("name", ["neighbours", "seed", "spatial_factor", "score_layer"])
def test_fractions_are_refused_where_whole_numbers_are_meant(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        check(name, FIELDS[name], 2.5)


SWITCHES = ["softmax_class", "normalise_weights", "extra_token"]
SWITCHES += ["last_patch", "duplicates"]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_takes_only_true_and_false(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False"):
        check(name, FIELDS[name], 1)


def test_a_misspelt_setting_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown setting 'wisker': did you mean 'whisker'"):
        Settings().with_changes(wisker=2.0)


def test_a_misspelt_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown preset 'papr': did you mean 'paper'.*release"):
        resolve_settings("papr")


def test_settings_are_immutable_hashable_and_turn_into_columns():
    chosen = Settings(budget=64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.budget = 32
    assert {chosen: 1}[Settings(budget=64)] == 1
    assert Settings(**dataclasses.asdict(chosen)) == chosen


def test_every_field_and_every_open_point_is_documented():
    fields = [field.name for field in dataclasses.fields(Settings)]
    assert [name for name in fields if f"\n        {name}: " not in Settings.__doc__] == []
    arguments = Settings.__doc__.split("Args:")[1].split("Raises:")[0]
    sourced = set(re.findall(r"D\d+", arguments))
    assert sourced == {f"D{number}" for number in range(1, 16)}


def test_defaults_are_the_released_behaviour():
    assert Settings() == PRESETS["release"] == PRESETS["prumerge"]
    assert PRESETS["release+"] == PRESETS["prumerge+"]


def _difference(one, other):
    one, other = (dataclasses.asdict(PRESETS[name]) for name in (one, other))
    return {name for name in one if one[name] != other[name]}


def test_presets_differ_only_where_their_names_say():
    assert _difference("release", "release+") == {"spatial"}
    assert _difference("release+", "release+fixed") == {"branch"}
    assert _difference("paper", "paper+") == {"spatial", "spatial_factor"}
    assert _difference("paper", "paper-literal") == {"own_term", "normalise_weights"}
    assert _difference("release", "paper") == {
        "score",  # D2
        "softmax_class",  # D3
        "score_layer",  # D1
        "key_layer",
        "similarity",  # D6
        "candidates",  # D8
        "own_term",  # D9
        "normalise_weights",
        "extra_token",  # D10
        "order",  # D14
    }


def test_a_budget_is_a_number_a_share_or_left_to_the_picture():
    assert Settings().tokens_of(576) is None
    assert Settings(budget=40).tokens_of(576) == 40
    assert Settings(budget=1000).tokens_of(576) == 576
    assert Settings(budget=0.25).tokens_of(576) == 144
    assert Settings(budget=1.0).tokens_of(576) == 576
    assert Settings(budget=1).tokens_of(576) == 1
    assert Settings(budget=0.001).tokens_of(16) == 1


def test_room_for_the_extra_token_is_kept_only_where_it_is_sent():
    assert Settings(budget=40).patches_of(576) == 39
    assert Settings(budget=40, extra_token=False).patches_of(576) == 40
    assert Settings(budget=576).patches_of(576) == 576
    assert Settings(budget=1).patches_of(576) == 1


def test_overrides_reach_reduce_tokens():
    from samples import encoded

    assert reduce_tokens(*encoded([3, 5]), "paper", budget=7).kept == [7, 7]
    with pytest.raises(ValueError, match="unknown setting 'budgt'"):
        reduce_tokens(*encoded([3]), budgt=7)
