"""Training on pictures in tiles: samples, batches of unequal pictures, adapters, arms."""

from statistics import mean

import pytest
import torch
from evaluated import save_tiny_next
from families import toy
from PIL import Image
from transformers import TrainingArguments

import prumerge
from prumerge.experiments.finetuning.arms import (
    EQUAL,
    Plan,
    Quiz,
    Run,
    _result,
    measure_costs,
    quiz_items,
    run_arms,
)
from prumerge.experiments.finetuning.data import Record, SceneInstructions
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.experiments.finetuning.tuning import Lora, align, most_slots, tune
from prumerge.methods import resolve
from prumerge.mini.styles import LARGE
from prumerge.models import load
from prumerge.models.adapters import apply_adapter
from prumerge.models.asking import ask_whole
from prumerge.models.loading import load_processor
from prumerge.paths import MINI_NEXT
from prumerge.roofline import shown_by

TURNS = (("what colour is the 7 ?", "red"), ("is there a ring ?", "no"))
LORA = Lora(rank=4, alpha=8, dropout=0.0, rate=1e-3, projector_rate=1e-4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_next(tmp_path_factory.mktemp("tiny"))


def arguments(folder, **options):
    usual = {"per_device_train_batch_size": 2, "max_steps": 2, "logging_steps": 1, "use_cpu": True}
    usual |= {"save_strategy": "no", "disable_tqdm": True, "report_to": "none", "seed": 1}
    return TrainingArguments(output_dir=str(folder), **usual | options)


def test_a_batch_is_what_the_processor_makes(tiny):
    _, processor = load(tiny)
    shown = [Image.new("RGB", size, "red") for size in ((96, 96), (48, 144))]
    records = [Record("a", "a.png", TURNS), Record("b", "b.png", TURNS[:1])]
    pairs = zip(records, shown, strict=True)
    samples = [to_sample(processor, record, picture, 0) for record, picture in pairs]
    texts = [
        "user : <image> what colour is the 7 ? assistant : red </s> user : is there a ring ? "
        "assistant : no </s>",
        "user : <image> what colour is the 7 ? assistant : red </s>",
    ]
    words = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
    wanted = processor(images=shown, text=texts, **words)
    batch = collate(samples, processor.tokenizer.pad_token_id)
    for name in ("input_ids", "attention_mask", "pixel_values", "image_sizes"):
        assert torch.equal(batch[name], wanted[name]), name
    assert batch["pixel_values"].shape[1] == 5 and not batch["pixel_values"][1, 4].any()
    assert [int((row != -100).sum()) for row in batch["labels"]] == [4, 2]


def test_the_longest_picture_counts_before_it_is_opened(tiny):
    model, processor = load(tiny)
    record = Record("a", "a.png", TURNS[:1])
    assert most_slots(model, processor) == 36 + 12 * 12 + 12
    with pytest.raises(ValueError, match=r"a: 20\d tokens, more than max_length=200"):
        to_sample(processor, record, None, most_slots(model, processor), max_length=200)
    small = Image.new("RGB", (48, 96), "red")
    assert "pixel_values" in to_sample(processor, record, small, most_slots(model, processor), 200)


@pytest.mark.parametrize("which", ["tiny", "mini-next"])
def test_two_steps_with_few_tokens(which, tiny, tmp_path):
    """The loss is finite, and the saved adapter answers alike on a stock model."""
    if which == "mini-next" and not (MINI_NEXT / "model.safetensors").exists():
        pytest.skip("there is no data/mini-next")
    name = tiny if which == "tiny" else which
    model, processor = load(name)
    scenes = SceneInstructions(4, turns=2, style=LARGE)
    assert len({scenes[number][1].size for number in range(4)}) > 1  # tiles of unequal numbers
    method = resolve("prumerge+", budget=20)
    tuned, log = tune(model, processor, scenes, arguments(tmp_path), LORA, method)
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 2 and torch.tensor(losses).isfinite().all()
    changed = {n for n, p in tuned.named_parameters() if "lora_B" in n and p.abs().max() > 0}
    assert any("language_model" in name for name in changed)
    stock = apply_adapter(load(name)[0], tmp_path)
    _, picture = scenes[0]
    inputs = processor(images=picture, text="user : <image> what", return_tensors="pt")
    with torch.no_grad():
        wanted = tuned.eval().get_base_model()(**inputs).logits
        found = stock(**inputs).logits
        untuned = load(name)[0](**inputs).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, untuned, atol=1e-4, rtol=1e-4)


def test_reduced_training_saw_the_reduced_tokens(tiny):
    model, processor = load(tiny)
    scenes = SceneInstructions(3, style=LARGE)
    samples = [to_sample(processor, *scenes[number], 0) for number in range(3)]
    batch = collate(samples, 0)
    with prumerge.attach(model, "prumerge+", budget=20) as reducer:
        outputs = model(**batch)
        outputs.loss.backward()
        assert reducer.kept == [20, 20, 20]
        assert model.model.multi_modal_projector.linear_1.weight.grad.abs().max() > 0
    assert outputs.logits.shape[1] < batch["input_ids"].shape[1]


def test_what_a_step_costs_is_measured(tiny):
    rows = measure_costs(tiny, (None, 20), batch_size=2, steps=1, rounds=1, lora=LORA)
    assert rows["visual_tokens"].tolist() == [180, 20]  # of the first picture, newlines aside


@pytest.mark.parametrize("train", [tune, align])
def test_models_of_no_family_are_refused(train, tmp_path):
    model = toy("llava").model.model.language_model
    with pytest.raises(ValueError, match="got LlamaModel: attach to it"):
        train(model, load_processor("mini"), [], arguments(tmp_path))


def test_an_arm_is_tuned_and_asked_about_pictures_in_tiles(tiny, tmp_path):
    plan = Plan(model=tiny, budget=20, batch_size=2, per_family=1, lora=LORA)
    model, processor = load(tiny)
    quiz = Quiz(model, processor, plan.per_family)
    shown = [size for _, sizes, _ in quiz.parts for size in sizes]
    sent = [shown_by(model.config, tuple(size)).tokens for size in shown]
    assert len(set(sent)) > 1  # their number differs by a picture's shape
    for run, tokens in ((Run("merged", EQUAL, 1, 0), 20), (Run("all", EQUAL, 0, 0), mean(sent))):
        row, answers = _result(plan, quiz, run, tmp_path).values()
        assert len(answers["said"]) == row["questions"] == 9
        assert row["visual_tokens"] == tokens
    method, pictures = plan.method("merged", EQUAL), [i.picture for i in quiz_items(1, 6, LARGE)]
    said, _ = quiz.ask(model, method)
    with prumerge.attach(model, method):
        prompts = [prompt for *_, own in quiz.parts for prompt in own]
        whole = ask_whole(model, processor, pictures, prompts, max_new_tokens=8)
    assert said == [answer.text for answer in whole] and len(set(said)) > 1
    with pytest.raises(ValueError, match="only models of the types 'llava' and 'llava_next'"):
        run_arms(Plan(model="mini-video"))
