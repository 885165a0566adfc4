"""Adapters by name: the same logits on a stock model, and every refusal with its reason."""

import contextlib
import json
from functools import partial

import pytest
import torch
from evaluated import save_tiny
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from toy import batch, pictures, prompt, tiny_llava
from transformers import LlamaForCausalLM

import prumerge
from prumerge.models.adapters import (
    adapter_fingerprint,
    apply_adapter,
    check_card,
    convert_adapter,
    convert_base,
    open_adapter,
    replace_language_model,
    write_card,
)

TARGETS = r".*language_model.*_proj"


def save_adapter(folder, model=None, **options):
    """Save a random adapter as PEFT does, and return the tuned model."""
    options = {"target_modules": TARGETS, "modules_to_save": ["multi_modal_projector"]} | options
    tuned = get_peft_model(model or tiny_llava(), LoraConfig(r=4, lora_alpha=8, **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise, alpha=0.2 if "lora_" in name else 0.05)
    tuned.save_pretrained(folder)
    return tuned.eval()


def call(ids=(3, 5)):
    return {**batch(prompt(*ids), prompt(2, 4)), "pixel_values": pictures(2)}


def test_a_saved_adapter_gives_the_same_logits_on_a_stock_model(tmp_path):
    tuned = save_adapter(tmp_path)
    stock = tiny_llava()
    with torch.no_grad():
        before = stock(**call()).logits
        loaded = apply_adapter(stock, tmp_path)
        assert type(loaded) is type(tiny_llava())  # a stock model again, attach takes it
        near = {"atol": 1e-4, "rtol": 1e-4}  # merged weights round differently
        torch.testing.assert_close(loaded(**call()).logits, tuned(**call()).logits, **near)
        assert (loaded(**call()).logits - before).abs().max() > 0.1
        with (
            prumerge.attach(loaded, "release", budget=5),
            prumerge.attach(tuned.get_base_model(), "release", budget=5),
        ):
            torch.testing.assert_close(loaded(**call()).logits, tuned(**call()).logits, **near)


def test_fingerprints_tell_adapters_apart(tmp_path):
    save_adapter(tmp_path / "a")
    save_adapter(tmp_path / "b", tiny_llava(seed=1))
    assert adapter_fingerprint(tmp_path / "a") == adapter_fingerprint(tmp_path / "a")
    assert adapter_fingerprint(tmp_path / "a") != adapter_fingerprint(tmp_path / "b")


def _another_size(folder):
    model = tiny_llava()
    layer = model.model.language_model.layers[0].self_attn
    layer.q_proj = torch.nn.Linear(40, 48, bias=False)
    save_adapter(folder, model)


def _other_layers(folder):
    save_adapter(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    weights = {name.replace("layers.2", "layers.7"): v for name, v in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")


def _without(folder, name):
    save_adapter(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    left = {key: value for key, value in weights.items() if name not in key}
    assert len(left) < len(weights)
    save_file(left, folder / "adapter_model.safetensors")


def _no_such_modules(folder):
    save_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"target_modules": ["c_attn"], "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _pickled(folder):
    save_adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _empty(folder):
    save_adapter(folder)
    save_file({}, folder / "adapter_model.safetensors")


def _no_config(folder):
    save_adapter(folder)
    (folder / "adapter_config.json").unlink()


@pytest.mark.parametrize(
    "spoil, words",
    [
        (_another_size, ("does not fit", "q_proj", "size mismatch")),
        (_other_layers, ("of its weights have no place there", "layers.7")),
        (
            partial(_without, name="layers.1.self_attn.q_proj.lora_B"),
            ("1 places get none", "q_proj"),
        ),
        (partial(_without, name="linear_2.bias"), ("does not fit", "linear_2.bias")),
        (_no_such_modules, ("does not fit", "c_attn")),
        (_pickled, ("adapter_model.bin is a pickle", "safetensors.torch.save_file")),
        (_empty, ("is empty",)),
        (_no_config, ("holds no adapter_config.json",)),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_with_the_reason(tmp_path, spoil, words):
    folder = tmp_path / "spoilt"
    spoil(folder)
    with pytest.raises(ValueError) as raised:
        apply_adapter(tiny_llava(), folder)
    assert all(word in str(raised.value) for word in (*words, str(folder))), str(raised.value)


def test_an_adapter_tuned_on_pictures_prepared_otherwise_is_refused(tmp_path):
    save_adapter(tmp_path)
    for tuned in (True, False):  # PEFT's card is kept, and told anew
        write_card(tmp_path, tuned)
        apply_adapter(tiny_llava(), tmp_path, do_pad=tuned)
        with pytest.raises(ValueError, match=rf"{tmp_path} was tuned .*: give do_pad={tuned}"):
            apply_adapter(tiny_llava(), tmp_path, do_pad=not tuned)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card and card.count("Tuned on pictures") == 1


@pytest.mark.parametrize("card", [None, "", "no YAML", "---\nlicense: mit\n---\n# Of others\n"])
def test_a_card_that_tells_nothing_is_no_obstacle(tmp_path, card):
    save_adapter(tmp_path)
    (tmp_path / "README.md").unlink()
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    for do_pad in (True, False):
        apply_adapter(tiny_llava(), tmp_path, do_pad)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/there", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(ValueError, match="give an existing folder, or a hub id"):
        open_adapter(name)


def test_a_hub_id_without_a_hub_says_what_to_check(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be fetched .* HF_HUB_OFFLINE=0"):
        open_adapter("owner/adapter@0123abc")


def test_the_evaluation_answers_with_the_adapter(tmp_path):
    pytest.importorskip("lmms_eval")
    from PIL import Image

    from prumerge.experiments.evaluation.answering import Answerer
    from prumerge.experiments.evaluation.options import read
    from prumerge.models import load

    name = save_tiny(tmp_path / "tiny")
    save_adapter(tmp_path / "adapter", load(name)[0])
    answerer = Answerer(
        read({"pretrained": name, "adapter": str(tmp_path / "adapter"), "method": "release"}), "cpu"
    )
    assert answerer.identity["settings"]["spatial"] == "none"
    assert adapter_fingerprint(tmp_path / "adapter") in answerer.identity["adapter"]
    plain = Answerer(read({"pretrained": name, "method": "release"}), "cpu")
    assert plain.identity["adapter"] is None
    picture, asked = [Image.new("RGB", (48, 48))], [plain.prompt("is there a red 7 ?")]
    texts = [a.answer(picture, asked, {"max_new_tokens": 6})[0].text for a in (answerer, plain)]
    assert texts[0] != texts[1]
    write_card(tmp_path / "adapter", do_pad=False)
    with pytest.raises(ValueError, match="cropped to squares, not padded to squares: give do_pad="):
        Answerer(answerer.options, "cpu")


def in_llava_format(folder, weights):
    """Rewrite what PEFT saved under the names that LLaVA's training script gives."""
    lora = {k.replace("language_model.", ""): v for k, v in weights.items() if "lora_" in k}
    theirs = {"linear_1": "0", "linear_2": "2"}
    projector = {
        f"base_model.model.model.mm_projector.{theirs[layer]}.{kind}": v
        for k, v in weights.items()
        if "multi_modal_projector" in k
        for layer, kind in [k.split(".")[-2:]]
    }
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in lora
    folder.mkdir()
    save_file(lora, folder / "adapter_model.safetensors")
    save_file(projector, folder / "non_lora_trainables.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config |= {"target_modules": names, "base_model_name_or_path": "lmsys/vicuna-7b-v1.5"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def released(tmp_path):
    tuned = save_adapter(tmp_path / "peft")
    in_llava_format(tmp_path / "llava", load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    return tmp_path / "llava", tuned


def test_a_lora_in_llavas_format_is_converted(released, tmp_path):
    theirs, tuned = released
    loaded = apply_adapter(tiny_llava(), convert_adapter(theirs, tmp_path / "converted"))
    with torch.no_grad():
        expected = tuned(**call()).logits
        torch.testing.assert_close(loaded(**call()).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aspect, told", [("pad", True), ("square", False), ("anyres", None)])
def test_a_converted_card_tells_how_llava_prepared_pictures(released, tmp_path, aspect, told):
    (released[0] / "config.json").write_text(json.dumps({"image_aspect_ratio": aspect}))
    folder = convert_adapter(released[0], tmp_path / "converted")
    for do_pad in (True, False):
        refused = pytest.raises(ValueError, match=f"give do_pad={told}")
        with refused if told is (not do_pad) else contextlib.nullcontext():
            check_card(folder, do_pad)


def test_unconverted_it_is_refused_because_its_base_is_another(released):
    with pytest.raises(ValueError, match=r"LLaVA's own format, trained on 'lmsys/vicuna-7b-v1.5'"):
        apply_adapter(tiny_llava(), released[0])


def test_pickles_and_strange_weights_are_not_converted(released, tmp_path):
    folder = released[0]
    path = folder / "non_lora_trainables.safetensors"
    projector = load_file(path)
    save_file({"base_model.model.model.vision_tower.x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"vision_tower.x is no weight that LLaVA's LoRA script"):
        convert_adapter(folder, tmp_path / "out")
    path.rename(folder / "non_lora_trainables.bin")
    with pytest.raises(ValueError, match=r"non_lora_trainables\.bin is a pickle"):
        convert_adapter(folder, tmp_path / "out")
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(ValueError, match="no projector"):
        convert_adapter(folder, tmp_path / "out")
    assert projector and not (tmp_path / "out").exists()


def test_a_language_model_takes_its_place_in_a_llava():
    model, config = tiny_llava(), tiny_llava().config.text_config
    config.vocab_size -= 4  # as Vicuna's, which lacks the placeholder
    language = LlamaForCausalLM(config).eval()
    replace_language_model(model, language)
    ids = torch.tensor([[1, 9, 17, 30]])
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits[..., :-4], language(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs)
    config.hidden_size, config.head_dim = 24, 4
    with pytest.raises(ValueError, match="of different sizes"):
        replace_language_model(model, LlamaForCausalLM(config))


def test_a_language_model_that_lacks_weights_is_refused(tmp_path):
    language = LlamaForCausalLM(tiny_llava().config.text_config)
    language.save_pretrained(tmp_path / "language")
    file = tmp_path / "language" / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    llava = save_tiny(tmp_path / "llava")
    with pytest.raises(ValueError, match=r"lacks weights of its model: .*layers\.1\.mlp\.up_proj"):
        convert_base(llava, str(tmp_path / "language"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
