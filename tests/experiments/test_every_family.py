"""Evaluation, preflight and fine-tuning of every family, by its own processor and template.

The models are tiny and of random weights: the stock model is what they are held against.
"""

import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from evaluated import OPEN, answers_in, conversation, save_tiny_of, text_of
from families import BUILDERS, TRIED
from PIL import Image
from test_evaluation_tiles import LENGTHS, QUESTIONS, save_own_pope
from test_finetuning_tiles import LORA, TURNS, arguments
from torch import nn

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge import attach
from prumerge.experiments.evaluation.answering import Answerer
from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.options import read
from prumerge.experiments.evaluation.preflight import preflight
from prumerge.experiments.finetuning.data import Record, RecordError
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.experiments.finetuning.tuning import Lora, add_lora, most_slots, projectors, tune
from prumerge.methods import resolve
from prumerge.models.adapters import quiet_peft
from prumerge.models.preprocessing import prepare
from prumerge.models.videos import open_model

pytestmark = TRIED
NEW = sorted(set(BUILDERS) - {"llava", "llava_next", "qwen3_vl_moe"})
SHAPES = ((56, 56), (30, 90), (84, 40), (56, 56))


@pytest.fixture(scope="module", params=NEW)
def tiny(request, tmp_path_factory):
    """A family, its checkpoint, and the model and processor in it."""
    name = save_tiny_of(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, name, *open_model(name)


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*own, 3), dtype=np.uint8)) for own in SHAPES]


@torch.no_grad()
def alone(model, processor, answerer):
    """What ``generate`` of a model says of each prompt alone, and the full prompts' lengths."""
    for picture, question in zip(prepare(processor, pictures()), QUESTIONS, strict=False):
        prompt = answerer.prompt(question)
        inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, **LENGTHS)
        length = inputs["input_ids"].shape[1]
        yield (
            processor.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip(),
            length,
        )


def test_answers_are_those_of_the_stock_model(tiny):
    family, name, model, processor = tiny
    kept = {}
    for method in ({}, {"method": "all"}, {"method": "prumerge+", "budget": 6}):
        answerer = Answerer(read({"pretrained": name} | method), "cpu")
        with attach(model, **method) if "budget" in method else nullcontext():
            expected, lengths = zip(*alone(model, processor, answerer), strict=True)
        prompts = [answerer.prompt(question) for question in QUESTIONS[: len(SHAPES)]]
        given = answerer.answer(pictures(), prompts, LENGTHS)
        assert tuple(own.text for own in given) == expected and len(set(expected)) > 1
        kept[method.get("method")] = [own.visual_tokens for own in given]
        if "budget" in method:
            words = [len(processor.tokenizer(prompt)["input_ids"]) - 1 for prompt in prompts]
            around = 6 + 2 * (family == "internvl")  # its processor puts marks around pictures
            lengths = [around + own for own in words]
        assert [own.input_tokens for own in given] == list(lengths) or method == {"method": "all"}
    assert kept[None] == kept["all"] and kept["prumerge+"] == [6] * len(SHAPES)


@pytest.mark.parametrize("tiny", ["llava_next_video", "qwen3_vl"], indirect=True)
def test_a_task_is_asked_and_scored_by_the_harness(tiny, tmp_path):
    save_own_pope(tmp_path, pictures()[1], 2)
    options = {"pretrained": tiny[1], "device": "cpu", "folders": [tmp_path]}
    rows, _ = evaluate(["own_pope"], **options, method="prumerge+", budget=6)
    assert rows["tokens_mean"].unique().tolist() == [6] and set(rows["items"]) == {2}
    received = tiny[0] == "qwen3_vl"
    assert (rows["score"].unique().tolist() == ["received"]) is received  # what was really used


MOST = {
    "vipllava": 16,
    "video_llava": 16,
    "llava_next_video": 80,
    "internvl": 80,
    "llava_onevision": 48,
    "qwen2_vl": 36,
    "qwen2_5_vl": 36,
    "qwen3_vl": 36,
}


def test_preflight_asks_a_small_model_and_counts_its_tokens(tiny):
    family, name, _, processor = tiny
    options = {"pretrained": name, "device": "cuda", "batch_size": 4}  # tried on the CPU alone
    methods = {"few": read(options | {"method": "prumerge+", "budget": 6})}
    told = {own.need: own for own in preflight(methods, ["mini_pope"], limit=2)}
    assert told["one question of each task"].ready, told["one question of each task"].note
    assert told["processor"].ready and "GiB in 16 bits" in told["memory"].note
    assert told["time of few"].note.startswith("2 questions, about 6 visual tokens each: 0.0 s")
    usual = Image.new("RGB", (640, 480))
    ids = processor(images=prepare(processor, [usual]), text=[processor.image_token])["input_ids"][
        0
    ]
    slots = list(ids).count(processor.image_token_id)
    assert f"{slots} placeholders for 640 x 480 pixels" in told["processor"].note
    assert f", {MOST[family]} visual tokens" in told["memory"].note


def samples_of(processor, **options):
    records = [
        Record("a", "a.png", TURNS),
        Record("b", "b.png", TURNS[:1]),
        Record("c", None, TURNS),
    ]
    return [
        to_sample(processor, record, None if record.image is None else picture, 0, **options)
        for record, picture in zip(records, pictures(), strict=False)
    ]


def test_a_batch_is_what_processor_and_template_say(tiny):
    family, _, _, processor = tiny
    words = processor.tokenizer
    batch = collate(samples_of(processor), words.pad_token_id)
    shown = [conversation(TURNS, "image"), conversation(TURNS[:1], "image"), conversation(TURNS)]
    texts = [text_of(family, processor, own) for own in shown]
    how = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
    wanted = processor(images=prepare(processor, pictures()[:2]), text=texts, **how)
    assert set(batch) == {*wanted, "labels"}
    for key, value in wanted.items():
        assert torch.equal(batch[key], value), key
    learnt = [row[row != -100] for row in batch["labels"]]
    assert [words.decode(row) for row in learnt] == [
        "red </s> no </s>", "red </s>", "red </s> no </s>"
    ]  # fmt: skip
    if family not in OPEN:
        assert [answers_in(processor, own) for own in shown] == [row.tolist() for row in learnt]


def test_the_loss_is_the_stock_models(tiny):
    *_, model, processor = tiny
    batch = collate(samples_of(processor), processor.tokenizer.pad_token_id)
    with torch.no_grad():
        stock = model(**batch).loss
        with attach(model, "all", order="raster"):
            torch.testing.assert_close(model(**batch).loss, stock)
        with attach(model, "prumerge+", budget=6) as reducer:
            few = model(**batch).loss
    assert reducer.kept == [6, 6] and few.isfinite() and few != stock


def test_pictures_count_for_the_longest_sample(tiny):
    *_, model, processor = tiny
    most = most_slots(model, processor)
    record = Record("a", "a.png", TURNS[:1])
    with pytest.raises(RecordError, match="tokens, more than max_length=20"):
        to_sample(processor, record, None, most, max_length=20)
    placed = [to_sample(processor, record, own, most)["input_ids"] for own in pictures()]
    assert max(row.count(processor.image_token_id) for row in placed) <= most


class Two:
    """A picture with two turns, and two turns alone."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            return Record("c", None, TURNS), None
        return Record("a", "a.png", TURNS), pictures()[index]


def test_two_steps_change_what_is_to_learn_and_go_on_from_a_checkpoint(tiny, tmp_path):
    name = tiny[1]
    method, folder = resolve("prumerge+", budget=6), tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 1}
    model, processor = open_model(name)
    tuned, log = tune(model, processor, Two(), arguments(folder, **saving), LORA, method)
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 2 and torch.tensor(losses).isfinite().all()
    after = {n: p for n, p in tuned.named_parameters()}
    before = dict(tiny[2].named_parameters())
    own = projectors(model)
    for key, value in after.items():
        stock = key.replace("base_model.model.", "").replace("base_layer.", "")
        stock = stock.replace("modules_to_save.default.", "").replace("original_module.", "")
        learns = "modules_to_save" in key or "lora_" in key
        assert learns is value.requires_grad, key
        if "modules_to_save" in key:
            assert any(f".{part}." in stock for part in own)
            assert not torch.equal(value, before[stock]), key
        elif "lora_B" in key:
            assert ".language_model." in key and value.abs().max() > 0, key
        elif "lora_" not in key:
            assert torch.equal(value, before[stock]), key
    squares = "padded to squares" in (folder / "README.md").read_text()
    assert squares is (tiny[0] in ("vipllava", "video_llava"))  # the others keep a picture's shape
    shutil.rmtree(folder / "checkpoint-2")
    again, log = tune(
        open_model(name)[0], processor, Two(), arguments(folder, **saving), LORA, method
    )
    assert [row["step"] for row in log if "loss" in row] == [1, 2]
    for key, value in again.named_parameters():
        torch.testing.assert_close(value, after[key], msg=key)


@pytest.mark.parametrize("projector", ["full", "lora"])
@quiet_peft()
def test_frozen_weights_may_be_of_half_the_precision(tiny, projector):
    """As on a GPU: what is trained stays in float32, and the batch runs under autocast."""
    model, processor = open_model(tiny[1], dtype="bfloat16")
    tuned = add_lora(model, Lora(rank=2, alpha=4, projector=projector)).train()
    batch = collate(samples_of(processor), processor.tokenizer.pad_token_id)
    with attach(model, "prumerge+", budget=6), torch.autocast("cpu", dtype=torch.bfloat16):
        tuned(**batch).loss.backward()
    for name, weight in tuned.named_parameters():
        assert not weight.requires_grad or weight.grad.isfinite().all(), name
        assert weight.dtype is (torch.float32 if weight.requires_grad else torch.bfloat16), name


@quiet_peft()
def test_updates_of_the_projector_are_of_its_linear_layers(tiny):
    model, _ = open_model(tiny[1])
    linear = {
        f"{own}.{name}"
        for own in projectors(model)
        for name, module in model.model.get_submodule(own).named_modules()
        if isinstance(module, nn.Linear)
    }
    tuned = add_lora(model, Lora(rank=2, alpha=4, projector="lora"))
    trained = {name.split(".lora_")[0] for name, p in tuned.named_parameters() if p.requires_grad}
    found = {name.removeprefix("base_model.model.model.") for name in trained}
    assert {name for name in found if not name.startswith("language_model.")} == linear
    assert len(found) > len(linear) >= 2
