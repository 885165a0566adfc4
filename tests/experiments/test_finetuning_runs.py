"""The command: a killed training goes on with the same curve, two processes train as one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_finetuning import tiny_mini

from prumerge.experiments.arguments import named_values
from prumerge.experiments.evaluation.__main__ import parse
from prumerge.experiments.finetuning.__main__ import main
from prumerge.experiments.finetuning.data import SceneInstructions, write_scenes
from prumerge.experiments.finetuning.tuning import last_checkpoint
from prumerge.models.adapters import check_card


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model on the disk, and instruction data for it."""
    folder = tmp_path_factory.mktemp("finetuning")
    model, processor = tiny_mini()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    write_scenes(folder, SceneInstructions(16, turns=2, grid=6))
    write_scenes(folder / "four", SceneInstructions(4, turns=3, grid=6))
    return folder


def train(place, output, **options):
    """The arguments of a small training."""
    values = {
        "data": place / "instructions.json", "images": place / "images", "model": place / "model",
        "output_dir": output, "rank": 4, "alpha": 8, "max_steps": 8, "learning_rate": 1e-2,
        "per_device_train_batch_size": 2, "save_steps": 2, "logging_steps": 1, "use_cpu": True,
        "disable_tqdm": True,
    } | options  # fmt: skip
    words = ["train", "--reduce", "method=release", "budget=9"]
    return words + [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def curve(folder):
    """Losses by step, of the last complete checkpoint."""
    log = json.loads((Path(last_checkpoint(folder)) / "trainer_state.json").read_text())
    log = log["log_history"]
    return {row["step"]: row["loss"] for row in log if "loss" in row}


def test_a_killed_training_goes_on_with_the_same_curve(place, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(train(place, whole)) == 0
    assert "16 records, 0 left out" in capsys.readouterr().out
    command = [sys.executable, "-m", "prumerge.finetuning", *train(place, killed, max_steps=8)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not (killed / "checkpoint-2" / "trainer_state.json").exists():
            assert child.poll() is None
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    assert not (killed / "adapter_model.safetensors").exists()
    last = last_checkpoint(killed)
    half = killed / "checkpoint-7"  # what a kill in the middle of writing leaves
    shutil.copytree(last, half)
    (half / "trainer_state.json").write_text('{"global_step": 7, ')
    assert last_checkpoint(killed) == last
    assert main(train(place, killed)) == 0
    expected = curve(whole)
    assert len(expected) == 8 and curve(killed) == pytest.approx(expected, rel=1e-6)
    assert len(set(expected.values())) > 4


def test_two_processes_train_as_one(place, tmp_path):
    """Two with half of the records each, of unequal lengths, or one with all: the same steps."""
    alone, two = tmp_path / "alone", tmp_path / "two"
    data = {"data": place / "four" / "instructions.json", "images": place / "four" / "images"}
    data |= {"max_steps": 4, "dropout": 0.0}
    assert main(train(place, alone, **data, per_device_train_batch_size=4)) == 0
    # --multi_gpu makes accelerate start several processes; use_cpu keeps them off GPUs.
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1".split()
    launch += "--mixed_precision no --dynamo_backend no --main_process_port 0".split()
    options = train(place, two, **data, ddp_backend="gloo")
    command = [sys.executable, *launch, "-m", "prumerge.finetuning", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("4 records") == 1  # one process speaks
    expected = curve(alone)
    assert expected[4] < expected[1]
    assert curve(two) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "words, options",
    [
        ("more than max_length=20", {"max_length": 20}),
        ("no instruction file", {"data": "gone.json"}),
        ("no picture", {"images": "nowhere"}),
        ("projector must be full, lora or frozen", {"projector": "half"}),
    ],
)
def test_what_cannot_be_trained_is_one_line(place, tmp_path, capsys, words, options):
    assert main(train(place, tmp_path / "out", **options)) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and error.startswith("finetuning: ")


def test_long_records_are_left_out_and_counted(place, tmp_path, capsys):
    shutil.copytree(place / "images", tmp_path / "images")
    records = json.loads((place / "instructions.json").read_text())
    records[3]["conversations"] *= 4
    for turn in records[3]["conversations"][2:]:
        turn["value"] = turn["value"].replace("<image>", "")
    (tmp_path / "long.json").write_text(json.dumps(records))
    options = {"data": tmp_path / "long.json", "max_length": 80, "max_steps": 1}
    assert main(train(place, tmp_path / "out", **options, on_problem="skip")) == 0
    assert "15 records, 1 left out" in capsys.readouterr().out


def test_fewer_steps_than_between_two_logs_tell_their_losses(place, tmp_path, capsys):
    options = {"max_steps": 3, "logging_steps": 10, "do_pad": "false", "save_steps": 3}
    assert main(train(place, tmp_path / "out", **options)) == 0
    told = capsys.readouterr().out
    found = re.search(r"^3 steps, loss (\S+) at first, (\S+) at last$", told, re.MULTILINE)
    losses = curve(tmp_path / "out")
    assert list(losses) == [1, 3]
    assert found and found.groups() == tuple(f"{loss:.3f}" for loss in losses.values())
    for folder in ("out", "out/checkpoint-3"):
        with pytest.raises(ValueError, match="give do_pad=False"):
            check_card(tmp_path / folder, do_pad=True)
    options |= {"max_steps": 4, "do_pad": "true"}
    assert main(train(place, tmp_path / "out", **options)) == 1
    assert "was tuned on pictures cropped to squares" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["extra_token=false", "extra_token=False", "budget=None"])
def test_settings_are_read_as_in_an_evaluation(pair):
    _, evaluated = parse(["method=release", pair])
    assert named_values(["method=release", pair]) == evaluated
    assert type(evaluated[pair.split("=")[0]]) is not str


def test_unknown_commands_and_pairs_are_refused(capsys):
    assert main(["tune"]) == 2 and "train | arms" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'budget' is no name=value"):
        named_values(["budget"])


def test_a_conversation_that_is_none_is_refused(place, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(train(place, tmp_path / "out", conversation="vicuna"))
    assert "invalid choice: 'vicuna'" in (told := capsys.readouterr().err)
    assert "template" in told and "vicuna_v1" in told
