"""Training learns, can be killed at any moment, and ends in a stock checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from prumerge.experiments.rows import provenance
from prumerge.mini.batches import (
    IGNORED,
    PROMPT_START,
    Recipe,
    make_batch,
    pack_turns,
    pixel_values,
)
from prumerge.mini.export import export, reopen, training_record
from prumerge.mini.families import LETTERS
from prumerge.mini.losses import SEEING, _answer, losses
from prumerge.mini.model import IDS, Pretraining, Size, build_processor
from prumerge.mini.questions import ask_many
from prumerge.mini.scenes import draw_scene
from prumerge.mini.training import STATE, Stage, load_progress, schedule, train
from prumerge.models import load, load_processor

SMALL = Size(
    grid=12,
    vision_width=32,
    vision_blocks=2,
    text_width=32,
    language_width=32,
    language_blocks=1,
    heads=2,
)
RECIPE = Recipe(4, 12, None, 64, 24, (1, 3))
STAGES = [
    Stage("see", 6, RECIPE, ("match", "naming"), 1e-3, 1e-4, warmup=2),
    Stage("place", 3, RECIPE, ("match", "naming", "placing"), 1e-3, 1e-4, warmup=2),
    Stage(
        "talk",
        6,
        replace(RECIPE, practice=3),
        ("answer", "practice"),
        1e-3,
        1e-4,
        warmup=2,
        hand_over=True,
    ),
]
PARTS = ("naming", "placing", "answer", "practice")


def small(seed: int = 0) -> Pretraining:
    torch.manual_seed(seed)
    return Pretraining(SMALL)


def quiet(row: dict) -> None:
    """Swallow the report."""


def weights(model: Pretraining) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


def test_batch_depends_on_its_seed_alone():
    first, again, other = (
        make_batch(RECIPE, 0, 1),
        make_batch(RECIPE, 0, 1),
        make_batch(RECIPE, 0, 2),
    )
    assert torch.equal(first.pixel_values, again.pixel_values)
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.pixel_values, other.pixel_values)


def test_training_pixels_equal_the_processors():
    scene = draw_scene(np.random.default_rng(0), grid=12)
    processor = build_processor(12)
    given = processor(
        images=[Image.fromarray(scene.pixels)], text=["user : <image>"], return_tensors="pt"
    )
    torch.testing.assert_close(given["pixel_values"], pixel_values([scene]), rtol=0, atol=1e-5)


def test_turns_see_the_picture_and_themselves_only():
    rng = np.random.default_rng(0)
    scene = draw_scene(rng, grid=12)
    packed = pack_turns([ask_many(scene, 6, rng)], 80, np.arange(144)[None], 144)
    ids, mask = packed["input_ids"][0], packed["attention_mask"][0, 0]
    head = len(PROMPT_START) + 144
    ends = [i for i in range(head, len(ids)) if ids[i] == IDS["</s>"]]
    second = slice(ends[0] + 1, ends[1] + 1)
    assert mask[second, :head].all()
    assert not mask[second, head : ends[0] + 1].any()  # the first turn is hidden
    assert torch.equal(mask[second, second], torch.ones_like(mask[second, second]).tril())
    places = packed["position_ids"][0]
    assert places[second.start] == places[head] == head  # positions restart with every turn


def test_no_turn_reads_another_nor_its_own_answer():
    model, batch = small(), make_batch(RECIPE, 0, 0)
    head = len(PROMPT_START) + 144
    ends = (batch.input_ids[:, head:] == IDS["</s>"]).int().argmax(dim=1) + head
    targets, other = batch.targets.clone(), batch.input_ids.clone()
    for row, end in enumerate(ends.tolist()):
        targets[row, end:] = IGNORED  # judge the first turn alone ...
        other[row, end:] = IDS["yes"]  # ... whatever stands behind it, its end token included
    first = replace(batch, targets=targets)
    changed = replace(first, input_ids=other)
    with torch.no_grad():
        alone, beside = (losses(model, b, ("answer",))["answer"] for b in (first, changed))
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-6)


def test_language_model_is_shown_the_kept_patches_alone():
    recipe = replace(RECIPE, tokens=(20,))
    batch = make_batch(recipe, 0, 0)
    assert batch.kept.shape == (4, 20)
    assert (batch.kept.diff(dim=1) > 0).all()  # in raster order, none twice
    assert (batch.input_ids == IDS["<image>"]).sum(dim=1).tolist() == [20] * 4
    model, features = small(), torch.randn(4, 145, 32)
    changed = features.clone()
    hidden = torch.ones(4, 144, dtype=torch.bool).scatter(1, batch.kept, False)
    changed[:, 1:][hidden] = 7.0
    with torch.no_grad():
        alone, beside = (_answer(model, batch, given)["answer"] for given in (features, changed))
    assert alone == beside


def test_only_answers_are_learned():
    batch = make_batch(RECIPE, 0, 0)
    for ids, targets in zip(batch.input_ids.tolist(), batch.targets.tolist(), strict=True):
        for place, target in enumerate(targets):
            assert target == IGNORED or ids[place + 1] == target
        learned = [t for t in targets if t != IGNORED]
        assert learned.count(IDS["</s>"]) == ids.count(IDS["</s>"])
        assert IDS["?"] not in learned


def test_practice_is_about_no_picture_and_learns_answers_alone():
    batch = make_batch(STAGES[-1].recipe, 0, 0)
    for ids, targets in zip(batch.practice_ids, batch.practice_targets, strict=True):
        answered = (targets != IGNORED).nonzero().flatten()
        assert torch.equal(ids[answered + 1], targets[answered])
        letter, end = targets[answered].tolist()
        assert end == IDS["</s>"] and letter in [IDS[letter] for letter in LETTERS]
        assert IDS["<image>"] not in ids and ids[: len(PROMPT_START)].tolist() == [
            IDS[word] for word in PROMPT_START
        ]


def test_projector_passes_on_what_the_placing_head_reads():
    model, features = small(), torch.randn(5, 32)
    projector = model.llava.model.multi_modal_projector
    before = projector(features)
    model.hand_over_places(length=6.0)
    after = projector(features)
    places = model.placing(features)
    others = projector.linear_2.weight.norm(dim=0) * projector.linear_1.weight.norm(dim=1)
    assert (others > 0).all() and not torch.allclose(before, after)
    # Two directions of length 6 tell row and column, up to what the other units add there.
    directions = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(after @ directions / 6, places, rtol=0, atol=0.02)


@pytest.mark.parametrize("part", ["naming", "placing"])
def test_losses_fall(part, tmp_path):
    model, rows = small(), []
    stage = replace(STAGES[1], steps=40, peak_rate=3e-3)
    train(model, [stage], tmp_path, report_every=1, report=rows.append)
    assert np.mean([r[part] for r in rows[-8:]]) < 0.9 * np.mean([r[part] for r in rows[:8]])


def test_stages_that_the_model_has_been_through_are_skipped(tmp_path):
    rows = train(small(), STAGES, tmp_path, skip=2, report_every=1, report=quiet)
    assert {row["stage"] for row in rows} == {"talk"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"skip": 9}, "skip=9 is more than the 3 stages"),
        ({"device": "gpu"}, "device='gpu' is none"),
    ],
)
def test_a_stage_or_device_that_is_not_there_is_refused(given, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(small(), STAGES, tmp_path, report=quiet, **given)


def test_talking_leaves_the_tower_alone(tmp_path):
    model = small()
    before = {name: p.clone() for name, p in model.tower.named_parameters()}
    train(model, STAGES[2:], tmp_path, report=quiet)
    assert_same(before, dict(model.tower.named_parameters()))
    assert any(p.grad is not None for p in model.llava.model.language_model.parameters())


def test_interrupted_training_ends_like_an_undisturbed_one(tmp_path):
    whole = small()
    rows = train(whole, STAGES, tmp_path / "whole", report_every=1, report=quiet)

    class PulledPlug(Exception):
        pass

    def pull_plug(row: dict) -> None:
        if (row["stage"], row["step"]) == ("talk", 5):
            raise PulledPlug

    with pytest.raises(PulledPlug):
        train(small(), STAGES, tmp_path / "cut", report_every=1, save_every=2, report=pull_plug)
    resumed = small(seed=1)  # other start weights: the checkpoint must bring all of them
    again = train(resumed, STAGES, tmp_path / "cut", report_every=1, save_every=2, report=quiet)
    assert_same(weights(whole), weights(resumed))
    assert [r["step"] for r in again] == [r["step"] for r in rows]
    curves = [[row.get(k) for row in part] for part in (rows, again) for k in PARTS]
    assert curves[: len(PARTS)] == curves[len(PARTS) :]


KILLED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, "tests/mini")
from test_mini_training import STAGES, quiet, small
from prumerge.mini.training import train
torch.set_num_threads(1)
train(small(), STAGES, Path(sys.argv[1]), save_every=1, report_every=1, report=print)
"""


def test_killed_training_leaves_a_whole_checkpoint(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / STATE).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert load_file(tmp_path / STATE)  # it is complete
    resumed, whole = small(seed=1), small()
    train(resumed, STAGES, tmp_path, save_every=1, report=quiet)
    train(whole, STAGES, tmp_path / "whole", report=quiet)
    assert_same(weights(whole), weights(resumed))


def test_checkpoint_of_another_model_is_refused(tmp_path):
    train(small(), STAGES[:1], tmp_path, report=quiet)
    with pytest.raises(ValueError, match="another model"):
        load_progress(tmp_path, Pretraining(replace(SMALL, vision_blocks=3)))


def test_exported_model_is_stock_and_answers(tmp_path):
    model = small()
    rows = train(model, STAGES, tmp_path / "progress", report_every=3, report=quiet)
    record = training_record(STAGES, rows, 0, provenance())
    export(model, tmp_path / "mini", rows, record)
    assert json.loads((tmp_path / "mini" / "training.json").read_text())["pictures"] == 60
    assert f"{60:,} pictures" in (tmp_path / "mini" / "README.md").read_text()
    loaded, processor = load(tmp_path / "mini")
    assert type(loaded).__name__ == "LlavaForConditionalGeneration"
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.llava.get_parameter(name))
    again = small(seed=1)
    reopen(again, tmp_path / "mini")
    assert_same(weights(model), weights(again))  # training can go on from what is shipped
    scene = draw_scene(np.random.default_rng(0), grid=12)
    inputs = processor(
        images=[Image.fromarray(scene.pixels)],
        text=["user : <image> ? assistant :"],
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == IDS["<image>"]).sum() == 144
    output = loaded.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[1] <= inputs["input_ids"].shape[1] + 2


def test_only_an_export_of_the_same_size_is_reopened(tmp_path):
    with pytest.raises(ValueError, match="no pretraining"):
        reopen(small(), tmp_path)
    model = small()
    rows = train(model, STAGES, tmp_path / "progress", report_every=3, report=quiet)
    export(model, tmp_path / "mini", rows, training_record(STAGES, rows, 0, provenance()))
    with pytest.raises(ValueError, match="another size"):
        reopen(Pretraining(replace(SMALL, vision_width=64)), tmp_path / "mini")


@pytest.mark.parametrize("grid", [12, 24])
def test_schedule_serves_both_sizes(grid):
    stages = schedule(grid, 0.001)
    assert all(stage.steps >= 1 for stage in stages)
    assert stages[-1].recipe.window is None  # whole frames come last
    assert SEEING.isdisjoint(stages[-1].parts)  # behind a frozen tower, as in LLaVA


@pytest.mark.parametrize(
    ("options", "named"), [({"grid": 4}, "got 4"), ({"scale": 0.0}, "got 0.0")]
)
def test_impossible_schedules_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        schedule(**options)


@pytest.mark.parametrize("name", ["nowhere", "./missing/folder", "/missing/folder"])
def test_missing_model_is_named(name):
    with pytest.raises(ValueError, match="no model"):
        load(name)


def test_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_processor(tmp_path)
