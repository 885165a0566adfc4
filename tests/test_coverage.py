"""What kept patches see of a picture, against loops over all pairs of patches."""

import math

import numpy as np
import pytest

from prumerge.coverage import distance_to_kept, share_of_objects


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
