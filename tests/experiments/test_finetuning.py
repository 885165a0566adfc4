"""Training through the reduction: gradients, labels, precision, checkpointing, loss."""

from pathlib import Path

import pytest
import torch
from notebook_cases import PHOTOGRAPHS
from peft import PeftModel
from safetensors.torch import load_file
from toy import PATCHES, batch, pictures, prompt, tiny_llava
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainingArguments,
)

import prumerge
from prumerge.experiments.finetuning.data import InstructionFile, Record, SceneInstructions
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.experiments.finetuning.tuning import Lora, add_lora, parameter_groups, tune
from prumerge.methods import resolve
from prumerge.mini.model import build_processor
from prumerge.models.adapters import apply_adapter

FIXTURES = Path(__file__).parents[1] / "fixtures"
LORA = Lora(rank=4, alpha=8, dropout=0.0)


def labelled(*prompts):
    """Prompts in a batch, their words behind the picture labelled."""
    inputs = batch(*prompts, side="right")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    behind = (ids == 3).cumsum(1) == PATCHES
    return inputs | {"labels": ids.masked_fill(~behind | (ids == 3) | (mask == 0), -100)}


def gradients(tuned, inputs):
    tuned.zero_grad()
    loss = tuned(**inputs).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in tuned.named_parameters() if p.requires_grad}
    return loss.item(), grads


@pytest.fixture
def tuned():
    model = add_lora(tiny_llava(), LORA)
    with torch.no_grad():  # with B at zero, half of the gradients would be zero
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.train()


def test_gradients_of_a_batch_are_the_weighted_mean_of_single_ones(tuned):
    prompts, shown = (prompt(3, 5), prompt(2, 9), prompt(6, 2)), pictures(3)
    with prumerge.attach(tuned.get_base_model(), "release+") as reducer:
        inputs = labelled(*prompts)
        together, grads = gradients(tuned, inputs | {"pixel_values": shown})
        kept = reducer.kept
        singles = [
            gradients(tuned, labelled(ids) | {"pixel_values": shown[i : i + 1]})
            for i, ids in enumerate(prompts)
        ]
    assert len(set(kept)) > 1  # unequal counts, or the test says little
    share = (inputs["labels"] != -100).sum(1).double()
    share = (share / share.sum()).tolist()
    assert together == pytest.approx(
        sum(s * loss for s, (loss, _) in zip(share, singles, strict=True)), rel=1e-5
    )
    for name, grad in grads.items():
        mean = sum(s * g[name] for s, (_, g) in zip(share, singles, strict=True))
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(grad, mean, atol=1e-5, rtol=1e-3, msg=name)


def test_checkpointing_changes_memory_not_gradients(tuned):
    inputs = labelled(prompt(3, 5), prompt(2, 9)) | {"pixel_values": pictures(2)}
    with prumerge.attach(tuned.get_base_model(), "release", budget=6):
        plain = gradients(tuned, inputs)[1]
        tuned.gradient_checkpointing_enable({"use_reentrant": False})
        again = gradients(tuned, inputs)[1]
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, msg=name)


def test_bfloat16_weights_train_with_float32_updates():
    tuned = add_lora(tiny_llava(dtype=torch.bfloat16), LORA).train()
    inputs = labelled(prompt(3, 5), prompt(2, 9)) | {"pixel_values": pictures(2)}
    with (
        prumerge.attach(tuned.get_base_model(), "release", budget=6),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        loss, grads = gradients(tuned, inputs)
    assert loss > 0 and {grad.dtype for grad in grads.values()} == {torch.float32}
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("projector, trained", [("full", 4), ("lora", 4), ("frozen", 0)])
def test_projector_and_language_model_have_their_own_rates(projector, trained):
    lora = Lora(rank=2, alpha=4, projector=projector)
    groups = parameter_groups(add_lora(tiny_llava(), lora), lora)
    assert [group["lr"] for group in groups] == [2e-4, 2e-5][: 1 + bool(trained)]
    assert len(groups[0]["params"]) == 3 * 7 * 2  # layers, linear maps, A and B
    assert sum(len(group["params"]) for group in groups[1:]) == trained


def test_only_answers_are_labelled_and_batches_are_padded():
    processor = build_processor(4)
    tokenizer = processor.tokenizer
    turns = (("what colour is the 7 ?", "red"), ("is there a ring ?", "no"))
    record = Record("a", "a.png", turns)
    picture = SceneInstructions(1, grid=6)[0][1]
    sample = to_sample(processor, record, picture, patches=16)
    text = tokenizer.decode(sample["input_ids"]).replace("<image> ", "").replace("<image>", "")
    assert (
        text.split()
        == (
            "<s> user : what colour is the 7 ? assistant : red </s> "
            "user : is there a ring ? assistant : no </s>"
        ).split()
    )
    learnt = [label for label in sample["labels"] if label != -100]
    assert tokenizer.decode(learnt).split() == ["red", "</s>", "no", "</s>"]
    assert sample["input_ids"].count(processor.image_token_id) == 16
    alone = to_sample(processor, Record("b", None, turns[1:]), None, patches=16)
    joint = collate([sample, alone], pad_token_id=0)
    assert joint["pixel_values"].shape == (1, 3, 32, 32)
    assert joint["attention_mask"].sum(1).tolist() == [
        len(sample["input_ids"]), len(alone["input_ids"]),
    ]  # fmt: skip
    assert (joint["labels"][1, len(alone["labels"]) :] == -100).all()


def tiny_mini(grid=6):
    """A random model of the mini-LLaVA's vocabulary, with its processor."""
    from prumerge.mini.model import Pretraining, Size

    torch.manual_seed(0)
    size = Size(grid, 32, 2, 16, 32, 2, 2)
    llava = Pretraining(size).llava.eval()
    llava.lm_head.weight.data.mul_(10)  # it stays frozen: let it say something
    return llava, build_processor(grid)


def arguments(folder, steps=20, **options):
    values = {"per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    values |= {"use_cpu": True, "disable_tqdm": True, "max_steps": steps, "seed": 1}
    return TrainingArguments(output_dir=str(folder), **(values | options))


def test_loss_falls_and_the_saved_adapter_answers_alike_on_a_stock_model(tmp_path):
    model, processor = tiny_mini()
    lora = Lora(rank=8, alpha=16, dropout=0.0, rate=1e-2, projector_rate=1e-3)
    tuned, log = tune(
        model, processor, SceneInstructions(16, turns=3, grid=6),
        arguments(tmp_path, gradient_checkpointing=True, bf16=True),
        lora, resolve("release", budget=9),
    )  # fmt: skip
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert isinstance(tuned, PeftModel) and "forward" not in vars(tuned.get_base_model())
    stock = apply_adapter(tiny_mini()[0], tmp_path)
    picture = processor.image_processor(SceneInstructions(1, grid=6)[0][1], return_tensors="pt")
    ids = torch.tensor([[1, 5, *[processor.image_token_id] * 36, 7, 9]])
    with torch.no_grad():
        for model in (stock, tuned.eval().get_base_model()):
            model.logits = model(input_ids=ids, pixel_values=picture["pixel_values"]).logits
    torch.testing.assert_close(stock.logits, model.logits, atol=1e-4, rtol=1e-4)


def test_text_alone_reaches_the_projector_with_zero_gradients(tmp_path):
    model, processor = tiny_mini()
    record = Record("a", None, (("is there a ring ?", "no"),))
    options = {"per_device_train_batch_size": 1, "max_grad_norm": 0.0}
    tuned, log = tune(
        model, processor, [(record, None)] * 2, arguments(tmp_path, 2, **options), LORA
    )
    projector = [p for n, p in tuned.named_parameters() if "multi_modal" in n and p.requires_grad]
    assert len(projector) == 4 and log[0]["loss"] > 0


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"projector": "half"}, "projector must be full, lora or frozen"),
        ({"rank": 0}, "rank and alpha must be at least 1"),
        ({"rate": 0.0}, "both rates positive"),
    ],
)
def test_impossible_recipes_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Lora(**wrong)


def test_a_model_of_the_7bs_shapes_takes_a_step(tmp_path):
    """Widths, heads and picture size of LLaVA-1.5-7B, cut to one block of each kind."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=1, num_attention_heads=32,
        vocab_size=128, max_position_embeddings=4096,
    )  # fmt: skip
    processor = build_processor(24)
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    processor.patch_size = 14
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=processor.image_token_id
    )
    model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    examples = InstructionFile(FIXTURES / "llava-instructions.json", PHOTOGRAPHS)
    assert [len(examples[i][0].turns) for i in range(3)] == [2, 1, 1]
    options = {"per_device_train_batch_size": 3, "bf16": True, "gradient_checkpointing": True}
    lora = Lora(rank=8, alpha=16)
    method = resolve("release", budget=40)
    tuned, log = tune(model, processor, examples, arguments(tmp_path, 1, **options), lora, method)
    assert log[0]["loss"] > 0 and log[0]["grad_norm"] > 0
    assert tuned.get_base_model().model.multi_modal_projector.linear_1.weight.shape == (4096, 1024)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in kept.values()) > 2e7  # projector and updates
