"""A checkpoint, device or precision that is not there is named in one line, with the remedy."""

import shutil

import pytest
from evaluated import save_tiny

from prumerge import models
from prumerge.models import load


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


def without(whole, folder, pattern):
    """A copy of a checkpoint in which some files are missing."""
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(pattern))
    return folder


def refusal(*arguments):
    with pytest.raises(ValueError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("pattern", ["*.safetensors", "tokenizer*", "*processor_config.json"])
def test_a_folder_that_lacks_a_part_is_named(pattern, whole, tmp_path):
    folder = without(whole, tmp_path / "copy", pattern)
    assert refusal(folder).startswith(f"cannot load '{folder}' (")


def test_damaged_weights_are_named(whole, tmp_path):
    folder = without(whole, tmp_path / "copy", "nothing")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "fetch or export it again" in refusal(folder)


def test_an_empty_folder_or_name_is_no_model(tmp_path):
    assert "holds no config.json" in refusal(tmp_path)
    assert "give 'mini', an existing folder, or a hub id" in refusal("")


def test_a_model_of_the_hub_that_is_not_here_tells_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "HF_HUB_OFFLINE=0 lets it be fetched" in refusal("someone/some-llava")


def test_a_missing_mini_llava_tells_how_it_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "MINI", tmp_path)
    assert "train it with notebooks/train_mini_llava.ipynb" in refusal("mini")


@pytest.mark.parametrize(
    ("device", "remedy"), [("gpu", "use 'cpu' or 'cuda'"), ("cuda:99", "use device='cpu'")]
)
def test_a_device_that_is_not_there_is_named(device, remedy, whole):
    told = refusal(whole, device)
    assert f"{device!r}" in told and remedy in told


@pytest.mark.parametrize("dtype", ["float33", "tensor", "int8"])
def test_a_precision_that_is_none_is_named(dtype, whole):
    assert f"dtype={dtype!r} is no precision" in refusal(whole, "cpu", dtype)
