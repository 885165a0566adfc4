"""A checkpoint, device or precision that is not there is named in one line, with the remedy."""

import json
import shutil

import pytest
import torch
from evaluated import save_tiny
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from prumerge.models import load, load_processor, loading
from prumerge.models.loading import load_whole, read_config


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
    embedded = "'mini', 'pocket', 'mini-video', 'mini-next'"
    assert f"give {embedded}, an existing folder, or a hub id" in refusal("")


def test_a_model_of_the_hub_that_is_not_here_tells_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "HF_HUB_OFFLINE=0 lets it be fetched" in refusal("someone/some-llava")


def test_a_missing_mini_llava_tells_how_it_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(loading.EMBEDDED, "mini", tmp_path)
    assert "train it with notebooks/train_mini_llava.ipynb" in refusal("mini")


def test_a_missing_pocket_tells_how_it_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(loading.EMBEDDED, "pocket", tmp_path)
    assert "train it with python -m prumerge.experiments.pocket" in refusal("pocket")


@pytest.mark.parametrize(
    ("device", "remedy"), [("gpu", "use 'cpu' or 'cuda'"), ("cuda:99", "use device='cpu'")]
)
def test_a_device_that_is_not_there_is_named(device, remedy, whole):
    told = refusal(whole, device)
    assert f"{device!r}" in told and remedy in told


@pytest.mark.parametrize("dtype", ["float33", "tensor", "int8"])
def test_a_precision_that_is_none_is_named(dtype, whole):
    assert f"dtype={dtype!r} is no precision" in refusal(whole, "cpu", dtype)


PROJECTOR = "multi_modal_projector.linear_1.weight"


def with_weights(whole, folder, change):
    """A copy of a checkpoint with some weights changed."""
    shutil.copytree(whole, folder)
    weights = load_file(folder / "model.safetensors")
    weights |= change(weights)
    left = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda _: {PROJECTOR: None}, f"lacks weights of its model: model.{PROJECTOR})"),
        (
            lambda weights: {PROJECTOR: weights[PROJECTOR][:3].clone()},
            f"lacks weights of its model: model.{PROJECTOR} ([3, 32] for [32, 32])",
        ),
        (
            lambda weights: {name: None for name in weights if "projector" in name},
            "linear_2.bias and 1 more",
        ),
    ],
)
def test_weights_that_are_missing_are_not_invented(change, named, whole, tmp_path):
    folder = with_weights(whole, tmp_path / "copy", change)
    assert named in refusal(folder)
    with pytest.raises(ValueError, match="lacks weights of its model"):
        load_whole(LlavaForConditionalGeneration, folder)


def test_shared_and_superfluous_weights_are_no_fault(whole, tmp_path):
    folder = with_weights(
        whole, tmp_path / "more", lambda _: {"vision_tower.rotary.inv_freq": torch.ones(3)}
    )
    load(folder)
    model = load(whole)[0]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    assert not any("lm_head" in n for n in load_file(tmp_path / "tied" / "model.safetensors"))
    shutil.copytree(
        whole,
        tmp_path / "tied",
        dirs_exist_ok=True,
        ignore=lambda _, names: (
            {*("config.json", "model.safetensors", "generation_config.json")} & set(names)
        ),
    )
    tied, _ = load(tmp_path / "tied")
    assert torch.equal(tied.lm_head.weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_type": "llava_llama"}, "(model_type 'llava_llama'): it is in LLaVA's own format"),
        ({"mm_vision_tower": "openai/clip"}, "such as llava-hf/llava-1.5-7b-hf, or make one with"),
        ({"model_type": "qwen2"}, "(model_type 'qwen2'): only models of the types 'llava' and"),
        ({"model_type": None}, "(model_type None): only models of the types 'llava' and"),
    ],
)
def test_models_of_another_type_are_refused(changed, named, whole, tmp_path):
    folder = without(whole, tmp_path / "copy", "nothing")
    config = json.loads((folder / "config.json").read_text()) | changed
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    assert named in refusal(folder)
    with pytest.raises(ValueError, match="cannot load"):
        read_config(folder)


def early(folder, *files):
    """Lay a processor out as hub revisions of before transformers 5 do, with some of the files."""
    settings = json.loads((folder / "processor_config.json").read_text())
    pictures = settings.pop("image_processor") | {"processor_class": "LlavaProcessor"}
    layout = {"processor_config.json": settings, "preprocessor_config.json": pictures}
    for name, content in layout.items():
        (folder / name).unlink(missing_ok=True)
        if name in files:
            (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["preprocessor_config.json"], "(no patch_size (processor_config.json)): its processor is"),
        (["processor_config.json"], "it needs config, weights, tokenizer and processor"),
        (["processor_config.json", "preprocessor_config.json"], "(no chat template"),
    ],
)
def test_a_part_that_early_revisions_lack_is_named(files, named, whole, tmp_path):
    folder = without(whole, tmp_path / "copy", "nothing")
    early(folder, *files)
    if len(files) == 2:
        assert load_processor(folder).patch_size == 8
        (folder / "chat_template.jinja").unlink()
    assert named in refusal(folder)
