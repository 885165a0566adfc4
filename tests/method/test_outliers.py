"""The fence: closed forms, limits, and what pooling over a batch does."""

import numpy as np
import pytest
import reference
import torch
from samples import DEVICES, scores_with

from prumerge import Settings, reduce_tokens
from prumerge.outliers import count_outliers, fence, keep_outliers

ANY_REFUSAL = (ValueError, TypeError)  # jaxtyping's shape error is a TypeError


def test_five_numbers_by_hand():
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0, 6.5]])  # Q1 = 1, Q3 = 3, fence = 6
    assert fence(scores).item() == 6
    assert keep_outliers(scores).tolist() == [[False] * 4 + [True]]


def test_a_score_on_the_fence_is_no_outlier():
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0, 6.0]])
    assert not keep_outliers(scores).any()


def test_low_scores_are_never_kept():
    scores = torch.tensor([[-90.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]])
    assert not keep_outliers(scores).any()


@pytest.mark.parametrize("whisker", [0.0, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("patches", [1, 2, 5, 144, 576])
def test_quartiles_are_those_of_numpy(patches, whisker):
    scores = torch.rand(3, patches, generator=torch.Generator().manual_seed(patches))
    low, high = np.percentile(scores.numpy(), [25, 75], axis=1)
    expected = high + whisker * (high - low)
    np.testing.assert_allclose(fence(scores, whisker)[:, 0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_each_picture_keeps_its_own_number(device):
    counts = [0, 1, 7, 36, 144]
    scores = scores_with(counts, patches=576).to(device)
    assert keep_outliers(scores).sum(dim=1).tolist() == counts
    assert count_outliers(scores, Settings()).tolist() == counts


def test_a_wider_fence_keeps_fewer():
    scores = torch.rand(1, 576, generator=torch.Generator().manual_seed(0)) ** 8
    kept = [keep_outliers(scores, whisker).sum().item() for whisker in (0.0, 1.0, 1.5, 3.0, 6.0)]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)


def test_other_quartiles_move_the_fence():
    scores = torch.arange(101.0)[None]
    assert fence(scores, 1.0, 0.1, 0.9).item() == pytest.approx(90 + 80)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_decided_in_float32(dtype):
    scores = scores_with([5, 9], patches=576).to(dtype)
    assert torch.equal(keep_outliers(scores), keep_outliers(scores.float()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    scores = scores_with([2])
    scores[0, 5] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        keep_outliers(scores)


def test_scores_of_a_wrong_shape_are_refused():
    with pytest.raises(ANY_REFUSAL):
        keep_outliers(torch.rand(2, 3, 4))


def test_the_released_pooling_gives_all_pictures_one_number():
    """D5: two pictures with 10 and 5 outliers of their own get 7 each; ours keep 10 and 5."""
    scores = scores_with([10, 5])
    pooled = Settings(pooling="batch", outlier_rule="count")
    assert count_outliers(scores, Settings()).tolist() == [10, 5]
    both = scores.flatten().tolist()
    assert count_outliers(scores, pooled).tolist() == [len(reference.outliers(both)) // 2] * 2


def test_a_pooled_fence_still_counts_each_picture():
    scores = torch.cat([scores_with([10]), scores_with([5]) * 2])
    pooled = count_outliers(scores, Settings(pooling="batch"))
    limit = fence(scores.reshape(1, -1)).item()
    assert pooled.tolist() == (scores > limit).sum(dim=1).tolist()
    assert pooled.tolist() != [10, 5]


def test_pooling_changes_nothing_for_one_picture():
    scores = scores_with([10])
    for rule in ("fence", "count"):
        assert count_outliers(scores, Settings(pooling="batch", outlier_rule=rule)).item() == 10


def test_no_picture_gives_no_count():
    for pooling in ("image", "batch"):
        settings = Settings(pooling=pooling, outlier_rule="count")
        assert count_outliers(torch.empty(0, 16), settings).tolist() == []


@pytest.mark.parametrize(("whisker", "fewest"), [(1.5, 4), (3.0, 5)])
def test_too_few_patches_for_any_outlier_are_refused(whisker, fewest):
    settings = Settings(whisker=whisker)
    enough, few = torch.eye(fewest), torch.eye(fewest - 1)
    assert count_outliers(enough, settings).tolist() == [1] * fewest
    with pytest.raises(ValueError, match=rf"^{fewest - 1} patches are too few.*set a budget"):
        count_outliers(few, settings)
    assert reduce_tokens(few[None], few[None], few[:1], budget=1, extra_token=False).kept == [1]


@pytest.mark.parametrize("patches", [2, 3])
def test_marking_refuses_too_few_patches_as_counting_does(patches):
    with pytest.raises(ValueError, match=f"{patches} patches are too few for the fence"):
        keep_outliers(torch.eye(patches))
