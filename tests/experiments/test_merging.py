"""What merged tokens hold and kept patches see, against the method itself and by hand."""

import numpy as np
import pytest
import torch
from samples import encoded as sample

from prumerge import Settings, reduce_tokens
from prumerge.encoder import Encoded
from prumerge.experiments.coverage import measure_coverage
from prumerge.experiments.merging import measure_merging, merged_weights

CHANGES = [{}, {"candidates": "pruned"}, {"own_term": "none"}, {"neighbours": 0}]
CHANGES += [{"own_term": "attention", "normalise_weights": True}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_weights_and_the_own_feature_give_each_token_back(changes):
    features, keys, scores = sample([5, 9], depth=12)
    settings = Settings(neighbours=7, extra_token=False).with_changes(**changes)
    held = merged_weights(Encoded(features, keys, scores, (8, 8)), settings)
    reduced = reduce_tokens(features, keys, scores, settings, grid=(8, 8))
    assert np.bincount(held.pictures).tolist() == reduced.kept == [5, 9]
    assert held.places.tolist() == torch.cat(reduced.positions).tolist()
    own = features[held.pictures, held.places].numpy()
    rest = torch.cat(reduced.tokens).numpy() - np.einsum(
        "tp,tpw->tw", held.weights, features.numpy()[held.pictures]
    )
    share = {"none": 0.0, "attention": None}.get(settings.own_term, 1.0)
    if share is None:
        share = 1 - held.weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rest, share * own, atol=1e-5)


def test_merging_is_measured_by_hand():
    # On 2 x 2 patches the first stands out; the second and third are its nearest.
    keys = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]]])
    scores = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    view = Encoded(torch.randn(1, 4, 2), keys, scores, (2, 2))
    row = measure_merging(view, Settings(neighbours=2, budget=1, extra_token=False))
    assert row["picture"].tolist() == [0]
    expected = {"weight": 0.2, "spread over": 2, "distance": 1, "alike": 0.7}
    for name, value in (expected | {"all alike": 0.4 / 3}).items():
        assert row[name].item() == pytest.approx(value, abs=1e-6), name
    assert len(measure_merging(view, Settings(neighbours=0, budget=1, extra_token=False))) == 0


def test_coverage_is_measured_by_hand():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    rules = {"score": Settings(extra_token=False)}
    owner = np.array([[1, 1], [2, 0]])
    rows = measure_coverage(scores, (2, 2), rules, [1, 2], [owner, None])
    assert rows[["tokens", "kept", "picture", "sent"]].to_numpy().tolist() == [
        [1, "score", 0, 1], [1, "score", 1, 1], [2, "score", 0, 2], [2, "score", 1, 2],
    ]  # fmt: skip
    assert rows["farthest patch"].round(3).tolist() == [1.414, 1.414, 1, 1]
    assert rows["attention kept"].tolist() == pytest.approx([0.4, 0.4, 0.7, 0.7])
    assert rows["objects touched"].tolist()[::2] == [0.5, 0.5]
    assert rows["object patches kept"].tolist()[::2] == pytest.approx([1 / 3, 2 / 3])
    assert rows["objects touched"].isna().tolist() == [False, True] * 2
