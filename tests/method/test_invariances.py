"""What must not change the answer, on random inputs."""

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given, settings
from samples import encoded

from prumerge import PRESETS, Settings, reduce_tokens
from prumerge.outliers import count_outliers, keep_outliers
from prumerge.reduction import rank_scores, select

steady = settings(deadline=None, derandomize=True, database=None, max_examples=40)
seeds = some.integers(0, 2**20)
presets = some.sampled_from(sorted(PRESETS))


def distinct_scores(seed, images, patches):
    """Scores of a heavy tail, no two of a picture equal."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(patches, generator=generator) for _ in range(images)])
    return ((places + 1.0) / patches) ** -1.5 / patches


def inputs(seed, images=3, patches=25):
    features, keys, _ = encoded([0] * images, patches, seed=seed)
    return features, keys, distinct_scores(seed, images, patches)


@steady
@given(seed=seeds, name=presets, turn=some.permutations(range(3)))
def test_the_order_of_pictures_does_not_matter(seed, name, turn):
    there = reduce_tokens(*inputs(seed), name)
    back = reduce_tokens(*(tensor[turn] for tensor in inputs(seed)), name)
    for new, old in enumerate(turn):
        torch.testing.assert_close(back.tokens[new], there.tokens[old])
        assert torch.equal(back.positions[new], there.positions[old])
        assert torch.equal(back.selection.reason[new], there.selection.reason[old])


@steady
@given(seed=seeds, budget=some.none() | some.integers(1, 30))
def test_patches_are_chosen_for_their_score_and_not_their_place(seed, budget):
    scores = distinct_scores(seed, 2, 30)
    turn = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    chosen = Settings(budget=budget)
    assert torch.equal(select(scores[:, turn], chosen), select(scores, chosen)[:, turn])
    assert torch.equal(keep_outliers(scores[:, turn]), keep_outliers(scores)[:, turn])


@steady
@given(seed=seeds, budget=some.none() | some.integers(1, 25), share=some.booleans())
def test_merged_tokens_follow_their_patches(seed, budget, share):
    features, keys, scores = inputs(seed)
    turn = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    here = reduce_tokens(features, keys, scores, budget=budget, normalise_weights=share)
    there = reduce_tokens(
        features[:, turn], keys[:, turn], scores[:, turn], budget=budget, normalise_weights=share
    )
    for one, other in zip(here.tokens, there.tokens, strict=True):
        torch.testing.assert_close(one, other)  # attention order: the same tokens, row by row


@steady
@given(seed=seeds, name=presets, power=some.integers(-20, 20))
def test_the_scale_of_scores_does_not_matter_for_the_selection(seed, name, power):
    features, keys, scores = inputs(seed)
    here = reduce_tokens(features, keys, scores, name).selection
    there = reduce_tokens(features, keys, scores * 2.0**power, name).selection
    assert torch.equal(here.reason, there.reason) and torch.equal(here.order, there.order)


@steady
@given(
    rows=some.lists(some.lists(some.floats(0, 1, width=32), min_size=9, max_size=9), min_size=1),
    whisker=some.floats(0, 5),
)
def test_at_most_a_quarter_of_the_patches_are_outliers(rows, whisker):
    scores = torch.tensor(rows)
    counts = count_outliers(scores, Settings(whisker=whisker))
    assert (counts <= 2).all()  # ceil((9 - 1) / 4)
    assert torch.equal(keep_outliers(scores, whisker), rank_scores(scores) < counts[:, None])


@steady
@given(seed=seeds, name=presets, budget=some.none() | some.integers(1, 30))
def test_every_selection_is_consistent(seed, name, budget):
    reduction = reduce_tokens(*inputs(seed), name, budget=budget)
    selection = reduction.selection
    for picture, count in enumerate(selection.counts.tolist()):
        order = selection.order[picture, :count].tolist()
        assert sorted(order) == selection.kept[picture].nonzero()[:, 0].tolist()
        assert 1 <= count <= reduction.kept[picture] <= 25
        assert budget is None or reduction.kept[picture] == min(budget, 25)


@steady
@given(seed=seeds, more=some.integers(1, 24))
def test_a_larger_budget_keeps_what_a_smaller_one_keeps(seed, more):
    scores = distinct_scores(seed, 2, 25)
    small = select(scores, Settings(budget=more, extra_token=False)) > 0
    large = select(scores, Settings(budget=more + 1, extra_token=False)) > 0
    assert (large | ~small).all()


@steady
@given(seed=seeds, factor=some.sampled_from([0.5, 2.0, -1.0]))
def test_tokens_are_linear_in_the_features(seed, factor):
    features, keys, scores = inputs(seed)
    for name in PRESETS:
        once = reduce_tokens(features, keys, scores, name).tokens
        scaled = reduce_tokens(features * factor, keys, scores, name).tokens
        for one, other in zip(once, scaled, strict=True):
            torch.testing.assert_close(one * factor, other)


@steady
@given(seed=seeds, factor=some.sampled_from([0.25, 4.0]))
def test_the_length_of_keys_does_not_matter_for_cosines(seed, factor):
    features, keys, scores = inputs(seed)
    lengths = torch.rand(3, 25, 1, generator=torch.Generator().manual_seed(seed)) + factor
    here = reduce_tokens(features, keys, scores, neighbours=3)
    there = reduce_tokens(features, keys * lengths, scores, neighbours=3)
    for one, other in zip(here.tokens, there.tokens, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_nothing_is_left_changed(name):
    before = inputs(0)
    after = [tensor.clone() for tensor in before]
    reduce_tokens(*after, name)
    assert all(map(torch.equal, before, after))
