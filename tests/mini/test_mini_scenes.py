"""Scenes are drawn from a seed, and the drawing knows the truth."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from prumerge.mini.batches import patch_names
from prumerge.mini.glyphs import COLOURS, DIGITS, KINDS, PATCH_PIXELS, SHAPES, glyphs
from prumerge.mini.scenes import draw_scene
from prumerge.paths import ROOT


def scene(seed: int = 0, **options):
    return draw_scene(np.random.default_rng(seed), **options)


def test_same_seed_draws_the_same_picture():
    assert np.array_equal(scene(3).pixels, scene(3).pixels)
    assert not np.array_equal(scene(3).pixels, scene(4).pixels)


@pytest.mark.parametrize("grid", [12, 24])
def test_a_picture_has_one_patch_per_owner_cell(grid):
    drawn = scene(grid=grid)
    assert drawn.pixels.shape == (grid * PATCH_PIXELS, grid * PATCH_PIXELS, 3)
    assert drawn.owner.shape == (grid, grid)


def test_each_thing_owns_its_square_and_nothing_else():
    drawn = scene(7, objects=9)
    for number, thing in enumerate(drawn.things, start=1):
        rows, columns = np.nonzero(drawn.owner == number)
        assert len(rows) == thing.size**2  # no overlap has eaten a patch
        assert (rows.min(), columns.min()) == (thing.row, thing.column)


def test_things_stand_out_from_the_ground_they_lie_on():
    drawn = scene(1, objects=6, sign=False)
    patches = drawn.pixels.reshape(24, PATCH_PIXELS, 24, PATCH_PIXELS, 3).astype(float)
    contrast = patches.std(axis=(1, 3)).mean(axis=-1)
    assert contrast[drawn.owner > 0].mean() > 3 * contrast[drawn.owner == 0].mean()


def test_window_tells_positions_in_the_whole_frame():
    drawn = scene(5, window=12, corner=(12, 6), objects=4)
    assert drawn.owner.shape == (12, 12)
    assert all(12 <= thing.row < 24 and 6 <= thing.column < 18 for thing in drawn.things)


@pytest.mark.parametrize("sign", [True, False])
def test_sign_is_there_when_asked_for(sign):
    drawn = scene(2, sign=sign)
    assert (drawn.sign is not None) == sign
    assert (drawn.owner == len(drawn.things) + 1).any() == sign


def test_patch_names_agree_with_the_things():
    drawn = scene(11, objects=5, sign=True)
    kinds, colours = (names.reshape(24, 24) for names in patch_names(drawn))
    for thing in drawn.things:
        assert kinds[thing.row, thing.column] == 1 + KINDS.index(thing.kind)
        assert colours[thing.row, thing.column] == 1 + list(COLOURS).index(thing.colour)
    read = [kinds[drawn.sign.row, drawn.sign.column + 3 * i] for i in range(len(drawn.sign.number))]
    assert "".join(KINDS[kind - 1] for kind in read) == drawn.sign.number
    assert ((kinds == 0) == (drawn.owner == 0)).all()


def test_digits_are_the_ones_scikit_learn_has():
    own, stock = np.load(ROOT / "prumerge/mini/digits.npz"), load_digits()
    assert np.array_equal(own["scans"], stock.images)
    assert np.array_equal(own["digits"], stock.target)


def test_evaluation_draws_digits_that_training_never_sees():
    for digit in DIGITS:
        trained = {mask.tobytes() for mask in glyphs(False)[digit][3]}
        assert not trained & {mask.tobytes() for mask in glyphs(True)[digit][3]}


def test_shapes_differ_from_each_other():
    means = {shape: glyphs(False)[shape][4].mean(axis=0) for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            assert one == other or np.abs(means[one] - means[other]).mean() > 0.03, (one, other)


def test_impossible_number_of_objects_is_refused():
    with pytest.raises(ValueError, match="low to high"):
        scene(objects=(4, 2))
