"""Measures of sparsity and of what kept patches see, by hand; the encoder's own attention."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from toy import pictures, tiny_llava
from transformers import SiglipVisionConfig, SiglipVisionModel

from prumerge import Settings
from prumerge.experiments.attention import (
    distance_to_kept,
    effective_patches,
    gini,
    head_attention,
    heads_as_one,
    share_of_objects,
    top_share,
)
from prumerge.scores import encode

MEASURES = [top_share, gini, effective_patches]
rows = arrays("float32", (3, 20), elements=st.floats(2**-10, 100, width=32)).map(torch.from_numpy)


def test_even_attention():
    even = torch.full((2, 100), 0.01)
    torch.testing.assert_close(top_share(even), torch.full((2,), 0.1))
    torch.testing.assert_close(gini(even), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(effective_patches(even), torch.full((2,), 100.0))


def test_all_attention_on_one_patch():
    single = torch.eye(50)[:3]
    assert top_share(single).tolist() == [1, 1, 1]
    torch.testing.assert_close(gini(single), torch.full((3,), 1 - 1 / 50))
    assert effective_patches(single).tolist() == [1, 1, 1]


def test_numbers_known_by_hand():
    scores = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert top_share(scores, 0.5).item() == pytest.approx(0.7)
    # mean absolute difference of all ordered pairs: (1+2+3+1+2+1) * 2 / 16; twice the mean: 5
    assert gini(scores).item() == pytest.approx(20 / 16 / 5)
    parts = [0.4, 0.1, 0.3, 0.2]
    entropy = -sum(part * math.log(part) for part in parts)
    assert effective_patches(scores).item() == pytest.approx(math.exp(entropy))


def test_a_tenth_is_rounded_to_whole_patches_and_at_least_one():
    assert top_share(torch.ones(576)).item() == pytest.approx(58 / 576)
    assert top_share(torch.ones(4)).item() == pytest.approx(1 / 4)
    assert top_share(torch.rand(9), share=1.0).item() == pytest.approx(1)


@given(rows, st.floats(0.01, 50), st.permutations(range(20)))
def test_scale_and_order_of_patches_do_not_matter(scores, scale, order):
    for measure in MEASURES:
        torch.testing.assert_close(
            measure(scores), measure(scores[:, order] * scale), atol=1e-5, rtol=1e-4
        )


@given(rows)
def test_limits(scores):
    assert ((top_share(scores) > 0.0999) & (top_share(scores) <= 1.0001)).all()
    assert ((gini(scores) > -1e-5) & (gini(scores) < 1)).all()
    assert ((effective_patches(scores) > 0.999) & (effective_patches(scores) < 20.001)).all()


@given(rows)
def test_moving_attention_to_the_top_raises_every_measure_of_sparsity(scores):
    squared = scores**2
    assert (top_share(squared) >= top_share(scores) - 1e-4).all()
    assert (gini(squared) >= gini(scores) - 1e-4).all()
    assert (effective_patches(squared) <= effective_patches(scores) + 1e-3).all()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [[0.0, 0.0], [1.0, -0.5], [1.0, math.nan], [1.0, math.inf]])
def test_what_is_no_attention_is_refused(measure, bad):
    with pytest.raises(ValueError, match="finite, at least 0 and not all zero"):
        measure(torch.tensor([[1.0, 2.0], bad]))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="share must be in"):
        top_share(torch.ones(4), share)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_head_attention_is_the_encoders_own(batch_size):
    tower, pixel_values = tiny_llava(attention="eager").model.vision_tower, pictures(3)
    found = head_attention(tower, pixel_values, batch_size)
    with torch.no_grad():
        own = tower(pixel_values, output_attentions=True).attentions
    assert found.shape == (len(own), 3, 4, 16)
    for block, attention in enumerate(own):
        torch.testing.assert_close(found[block], attention[:, :, 0, 1:])
    assert not found.requires_grad


def test_heads_as_one_are_the_released_score_of_every_block():
    tower, pixel_values = tiny_llava().model.vision_tower, pictures(3)
    for block, attention in enumerate(head_attention(tower, pixel_values)):
        with torch.no_grad():
            released = encode(tower, pixel_values, Settings(score_layer=block)).scores
        released = released / released.sum(dim=1, keepdim=True)
        torch.testing.assert_close(heads_as_one(attention), released)


def test_encoder_without_class_token_is_refused():
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = SiglipVisionConfig(num_attention_heads=4, image_size=28, patch_size=7, **shape)
    with pytest.raises(ValueError, match=r"no class token.*received"):
        head_attention(SiglipVisionModel(config), pictures(1))


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 4)])
def test_distances_are_those_to_the_nearest_of_all(grid):
    rows, columns = grid
    kept = np.random.default_rng(0).random((6, rows * columns)) < 0.2
    kept[:, 0] = True
    places = [divmod(patch, columns) for patch in range(rows * columns)]
    expected = [
        [min(math.dist(place, places[patch]) for patch in np.flatnonzero(row)) for place in places]
        for row in kept
    ]
    assert np.allclose(distance_to_kept(kept, grid), expected)


def test_a_picture_that_keeps_nothing_is_named():
    with pytest.raises(ValueError, match="picture 1 keeps no patch"):
        distance_to_kept(np.array([[True, False], [False, False]]), (1, 2))


@pytest.mark.parametrize(
    ("kept", "share"), [([], 0), ([0, 1], 1 / 3), ([2, 5], 2 / 3), ([0, 2, 3, 5], 1), ([4], 0)]
)
def test_an_object_is_seen_by_any_of_its_patches(kept, share):
    owner = np.array([[1, 1, 3], [4, 0, 4]])
    marks = np.isin(np.arange(6), kept)
    assert share_of_objects(marks, owner) == pytest.approx(share)


def test_no_objects_no_share():
    assert math.isnan(share_of_objects(np.array([True, False]), np.zeros((1, 2), dtype=int)))
