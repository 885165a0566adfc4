"""Nearest keys, weighted merges and the extra token, by hand."""

import pytest
import reference
import torch
from samples import DEVICES, encoded

from prumerge import Settings, reduce_tokens
from prumerge.supplement import extra_token, key_similarity, merge, nearest

FEATURES = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [-4.0, 8.0]]])
KEYS = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 3.0], [5.0, 5.0]]])
SCORES = torch.tensor([[0.5, 0.25, 0.125, 0.0625]])
KEPT = torch.tensor([[True, True, False, False]])
ORDER = torch.tensor([[0, 1]])


def merged(**changes):
    return merge(FEATURES, KEYS, SCORES, ORDER, KEPT, Settings(**changes))[0].tolist()


def test_a_merged_token_is_its_feature_plus_its_neighbours_times_their_scores():
    # By cosine patches 0 and 1 are each other's nearest; the kept ones are candidates too (D8).
    assert merged(neighbours=1) == [[1.0, 0.25], [0.5, 1.0]]


def test_the_dot_product_prefers_long_keys():
    # D6: patch 3 has the longest key and is nearest to both.
    assert merged(neighbours=1, similarity="dot") == [[0.75, 0.5], [-0.25, 1.5]]


def test_pruned_candidates_leave_kept_patches_alone():
    # D8: of patches 2 and 3, patch 3 is nearer to both.
    assert merged(neighbours=1, candidates="pruned") == [[0.75, 0.5], [-0.25, 1.5]]


def test_without_its_own_term_a_token_is_its_neighbours_only():
    # D9, the paper's formula.
    assert merged(neighbours=1, own_term="none") == [[0.0, 0.25], [0.5, 0.0]]


def test_an_own_term_of_attention_is_one_of_the_sum():
    # D9: patch 0 weighs 0.5 and its neighbour 1 weighs 0.25, and the other way round.
    assert merged(neighbours=1, own_term="attention") == [[0.5, 0.25], [0.5, 0.25]]
    two_thirds = pytest.approx([2 / 3, 1 / 3])
    tokens = merged(neighbours=1, own_term="attention", normalise_weights=True)
    assert tokens == [two_thirds, two_thirds]


def test_an_own_term_of_one_stays_beside_a_mean():
    tokens = merged(neighbours=1, own_term="one", normalise_weights=True)
    assert tokens == [[1.0, 1.0], [1.0, 1.0]]


def test_a_mean_with_the_own_weight_is_the_mean_of_the_patch_where_its_score_is_all():
    scores = torch.tensor([[1.0, 0.0, 0.0, 1e-30]])
    settings = Settings(neighbours=3, own_term="attention", normalise_weights=True)
    token = merge(FEATURES, KEYS, scores, ORDER[:, :1], KEPT, settings)
    torch.testing.assert_close(token, FEATURES[:, :1])


def test_normalised_weights_sum_to_one():
    # D9: 0.5 + 0.0625 are the weights of patches 0 and 3, both neighbours of patch 1.
    expected = [(1.0 * 0.5 - 4.0 * 0.0625) / 0.5625, 8.0 * 0.0625 / 0.5625]
    tokens = merged(neighbours=2, own_term="none", normalise_weights=True)
    assert tokens[1] == pytest.approx(expected)


def test_no_neighbours_means_no_change():
    assert merged(neighbours=0) == FEATURES[0, :2].tolist()
    assert merged(neighbours=0, own_term="none") == FEATURES[0, :2].tolist()


@pytest.mark.parametrize("own_term", ["one", "attention", "none"])
def test_a_patch_without_candidates_stays_as_it_is(own_term):
    kept = torch.ones(1, 4, dtype=torch.bool)
    settings = Settings(candidates="pruned", own_term=own_term, normalise_weights=True)
    order = torch.arange(4)[None]
    assert torch.equal(merge(FEATURES, KEYS, SCORES, order, kept, settings), FEATURES)


def test_merges_read_original_features_only():
    """D15: merging in either order gives each patch the same token."""
    settings = Settings(neighbours=3)
    there = merge(FEATURES, KEYS, SCORES, ORDER, KEPT, settings)
    back = merge(FEATURES, KEYS, SCORES, ORDER.flip(1), KEPT, settings)
    assert torch.equal(there, back.flip(1))


def test_a_merge_may_read_merged_features_by_hand():
    """D15: patch 1 reads what patch 0 has become, [1, 0.25], and patch 0 what patch 1 was."""
    assert merged(neighbours=1, merge_reads="merged") == [[1.0, 0.25], [0.5, 1.125]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("own_term", ["one", "attention", "none"])
def test_merges_in_turn_equal_the_loop_that_overwrites(own_term, device):
    """D15, in a batch whose pictures keep different numbers."""
    features, keys, scores = encoded([0, 9, 4], patches=36, device=device)
    choices = {"neighbours": 5, "own_term": own_term, "extra_token": False}
    settings = Settings(merge_reads="merged", **choices)
    reduction = reduce_tokens(features, keys, scores, settings)
    assert not torch.allclose(reduction.tokens[1], reduce_tokens(
        features, keys, scores, **choices).tokens[1])  # fmt: skip
    for picture, tokens in enumerate(reduction.tokens):
        lists = features[picture].tolist(), keys[picture].tolist(), scores[picture].tolist()
        kept = reduction.positions[picture].tolist()
        expected = reference.merged(*lists, kept, count=5, own=own_term, overwrite=True)
        torch.testing.assert_close(tokens.cpu(), torch.tensor(expected))


def test_more_neighbours_than_patches_take_all_others():
    expected = torch.einsum("p,pw->w", SCORES[0, 1:], FEATURES[0, 1:]) + FEATURES[0, 0]
    assert merged(neighbours=99)[0] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("device", DEVICES)
def test_equally_similar_patches_go_by_index(device):
    similarity = torch.tensor([[[0.5, 0.9, 0.5, 0.5, 0.1]]], device=device)
    allowed = torch.ones_like(similarity, dtype=torch.bool)
    found = [nearest(similarity, allowed, count)[0] for count in range(1, 6)]
    assert [sorted(places[0, 0].tolist()) for places in found] == [
        [1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    ]


def test_patches_that_are_not_allowed_only_fill_up():
    similarity = torch.tensor([[[0.5, 0.9, 0.5]]])
    allowed = torch.tensor([[[True, False, False]]])
    places, found = nearest(similarity, allowed, 2)
    assert places[found].tolist() == [0]


@pytest.mark.parametrize("device", DEVICES)
def test_nearest_patches_are_those_of_a_stable_sort(device):
    """Also among equals, zeros of both signs, negative and infinite similarities."""
    values = torch.tensor([0.0, -0.0, 0.5, -0.5, 2.0**-126, -(2.0**-126), torch.inf, -3.0e38])
    drawn = torch.randint(len(values), (2, 50, 40), generator=torch.Generator().manual_seed(0))
    similarity = values[drawn].to(device)
    expected = similarity.sort(dim=-1, descending=True, stable=True).indices[..., :9]
    places, found = nearest(similarity, torch.ones_like(similarity, dtype=torch.bool), 9)
    assert torch.equal(places.sort().values, expected.sort().values) and found.all()


def test_a_key_of_zeros_is_similar_to_nothing():
    assert key_similarity(torch.zeros(1, 3, 4), torch.tensor([[0]])).tolist() == [[[0.0] * 3]]


def test_the_extra_token_sums_what_is_dropped():
    # D10: 0.125 * [2, 2] + 0.0625 * [-4, 8]
    assert extra_token(FEATURES, SCORES, ~KEPT).tolist() == [[0.0, 0.75]]
    assert extra_token(FEATURES, SCORES, ~KEPT, normalise=True)[0].tolist() == pytest.approx(
        [0.0, 0.75 / 0.1875]
    )
    assert extra_token(FEATURES, SCORES, torch.zeros_like(KEPT)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_weighted_and_summed_in_float32(dtype, device):
    """Weights of 1/2 and 1/2 + 2 ** -13 are equal in halves, and their difference would vanish."""
    features = torch.tensor([[[0.0], [-1.0], [1.0]]], dtype=dtype, device=device)
    scores = torch.tensor([[0.1, 0.5, 0.5 + 2**-13]], device=device)
    kept = torch.tensor([[True, False, False]], device=device)
    order = torch.zeros(1, 1, dtype=torch.int64, device=device)
    token = merge(features, features, scores, order, kept, Settings(neighbours=2))
    assert token.dtype == dtype and token.item() == 2**-13
    assert extra_token(features, scores, ~kept).item() == 2**-13


def test_the_papers_formula_to_the_letter_shrinks_every_token():
    """Why the preset divides: a sum of attention probabilities of dropped patches is tiny."""
    features, keys, scores = encoded([36], patches=576, width=64)
    length = features.norm(dim=-1).mean()
    letter = reduce_tokens(features, keys, scores, "paper-literal")
    assert letter.tokens[0].norm(dim=-1).max() < 0.05 * length
    preset = reduce_tokens(features, keys, scores, "paper")
    assert preset.tokens[0].norm(dim=-1).min() > 0.05 * length
