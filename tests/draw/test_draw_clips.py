"""Clips are drawn frame by frame, and a token's weights are those of the frames it was made of."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from prumerge.draw.clips import held_by, show_clip, show_held
from prumerge.encoder import Encoded
from prumerge.methods import resolve
from prumerge.models.canvases import reduce_packed
from prumerge.models.slots import Packed, videos

FRAMES, EDGE = 3, 4
PIXELS = np.full((FRAMES, 16, 16, 3), 120, dtype=np.uint8)


@pytest.fixture
def packed() -> Packed:
    """Two clips of three frames, whose patches are all different."""
    numbers = torch.Generator().manual_seed(0)
    tiles = 2 * FRAMES
    features, keys = (torch.randn(tiles, EDGE**2, 8, generator=numbers) for _ in range(2))
    scores = torch.rand(tiles, EDGE**2, generator=numbers)
    encoded = Encoded(features, keys, scores, (EDGE, EDGE))
    return videos(encoded, FRAMES, lambda tokens: tokens, class_tokens=torch.zeros(tiles, 8))


def test_each_line_tells_what_a_reduction_keeps_of_each_frame(packed):
    even = reduce_packed(packed, resolve("top_k", budget=6, order="raster"))
    joint = reduce_packed(packed, resolve("top_k", budget=6, order="raster", share="joint"))
    figure, axes = plt.subplots(3, FRAMES)
    show_clip(axes, PIXELS, packed, {"even": even, "joint": joint}, number=1)
    assert [axis.get_title() for axis in axes[1]] == ["2", "2", "2"]
    counts = [int(axis.get_title()) for axis in axes[2]]
    assert counts == joint.kept_by_tile[1] and sum(counts) == 6
    assert axes[2, 0].get_ylabel() == "joint\n6 tokens"
    plt.close(figure)


@pytest.mark.parametrize("merging", ["within", "across"])
def test_a_token_is_the_weighted_sum_that_is_told(packed, merging):
    method = resolve(
        "prumerge", budget=12, order="raster", merging=merging, neighbours=9, extra_token=False
    )
    reduction = reduce_packed(packed, method)
    weights, slot = held_by(packed, method, token=5, number=1)
    assert slot == int(reduction.positions[1][5])
    rows = packed.parts[0].features[FRAMES:]
    told = torch.einsum("fp,fpw->w", torch.from_numpy(weights), rows)
    assert torch.allclose(told, reduction.tokens[1][5], atol=1e-5)
    frames = set(np.flatnonzero(weights.sum(axis=1)).tolist())
    assert (frames == {1}) == (merging == "within") and 1 in frames
    figure, axes = plt.subplots(1, FRAMES)
    show_held(axes, PIXELS, packed, weights, slot, 1.0, number=1)
    assert sum(int(axis.get_title()) for axis in axes) == 9
    plt.close(figure)


def test_a_token_that_is_not_sent_is_refused(packed):
    with pytest.raises(ValueError, match="token must be 0 to 5 here, got 6"):
        held_by(packed, resolve("top_k", budget=6), token=6)
