"""Preflight calls ready what can run and nothing else; what stops a run is named with a remedy."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import save_tiny
from snapshots import MMBENCH, MME, NUMBERS, save_snapshots

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from datasets import config as library
from huggingface_hub import constants
from lmms_eval.api.task import ConfigurableTask

from prumerge.experiments.evaluation.__main__ import main
from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.mini_tasks import encode_picture, write
from prumerge.experiments.evaluation.options import read
from prumerge.experiments.evaluation.preflight import (
    find_disk,
    find_memory,
    find_processor,
    find_weights,
    preflight,
)
from prumerge.experiments.evaluation.tasks import PUBLISHED, take_inventory, task_manager
from prumerge.models.loading import fingerprint

SEVEN = "llava-hf/llava-1.5-7b-hf"
MANAGER = task_manager()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def local(tmp_path, monkeypatch):
    folder = save_snapshots(tmp_path / "snapshots")
    for name, number in NUMBERS.items():
        monkeypatch.setitem(PUBLISHED, name, number)
    monkeypatch.setenv("PRUMERGE_DATA", str(folder))
    # The harness tries again, as if the network had failed; the pauses are left out.
    monkeypatch.setattr(ConfigurableTask.download.retry, "sleep", lambda _: None)
    return folder


def told(methods, tasks, **options):
    """Findings of a preflight by need."""
    return {found.need: found for found in preflight(methods, tasks, **options)}


def test_what_is_here_is_counted_as_a_run_counts_it(local, tiny, capsys):
    words = [f"pretrained={tiny}", "device=cpu", "--preflight", "--limit", "3"]
    assert main([*words, "--tasks", "prumerge_pope", "--compare", "full", "release@9"]) == 0
    shown = capsys.readouterr().out
    assert "nothing is missing" in shown and "18 answers; measure a CPU" in shown
    for part in ("random", "popular", "adversarial"):
        assert f"ready   data of prumerge_pope_{part}" in shown
    assert f"4 questions in {local / 'POPE' / 'Full'}" in shown


def test_what_is_missing_is_told_with_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("PRUMERGE_DATA", raising=False)
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    words = [f"pretrained={SEVEN}@a272c74", "device=cuda", "method=release", "budget=64"]
    assert main([*words, "--tasks", "prumerge_mme", "--preflight"]) == 1
    shown = capsys.readouterr().out
    assert f"hf download {SEVEN} --revision a272c74" in shown
    assert "--repo-type dataset lmms-lab-encoder/MME --local-dir $PRUMERGE_DATA/MME" in shown
    assert "2374 questions, about 64 visual tokens each" in shown
    assert main(["bugdet=64", "--preflight"]) == 1
    assert main(["--tasks", "mini_pope", "--limit", "0", "--preflight"]) == 1
    errors = capsys.readouterr().err
    assert "did you mean 'budget'" in errors and "limit must be at least 1, got 0" in errors


def test_online_only_the_hubs_cache_is_looked_at(monkeypatch, local, tmp_path):
    monkeypatch.delenv("PRUMERGE_DATA")
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = take_inventory("prumerge_mme", MANAGER)
    assert not found.ready and "MME is not in the hub's cache: hf download" in found.note
    cached = tmp_path / "datasets--lmms-lab-encoder--MME"
    shutil.copytree(local / "MME", cached / "snapshots" / ("a1" * 20))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a1" * 20)
    found = take_inventory("prumerge_mme", MANAGER)
    assert found.ready and found.items == len(MME)


def _without_column(local):
    rows = [{name: row[name] for name in row if name != "category"} for row in MME]
    write(local / "MME/default/test-00000-of-00001.parquet", [(b"", row) for row in rows])


def _broken(local):
    (local / "MME/default/test-00000-of-00001.parquet").write_bytes(b"no parquet")


@pytest.mark.parametrize(
    ("spoil", "task", "named"),
    [
        (_without_column, "prumerge_mme", "the data set of mme lacks category; it has"),
        (_broken, "prumerge_mme", r"test-00000-of-00001\.parquet cannot be read"),
        (
            lambda local: shutil.rmtree(local / "ScienceQA/ScienceQA-IMG"),
            "prumerge_scienceqa_img",
            r"No \(supported\) data files found in .*ScienceQA",
        ),
        (
            lambda local: next((local / "POPE/Full").glob("random*")).unlink(),
            "prumerge_pope",
            "random",
        ),
        (lambda local: shutil.rmtree(local / "VQAv2"), "prumerge_vqav2_val", "holds no Parquet"),
    ],
)
def test_what_a_run_would_stumble_over_is_not_ready(local, tiny, spoil, task, named):
    spoil(local)
    findings = told({"full": read({"pretrained": tiny})}, [task])
    (wrong,) = [f for f in findings.values() if f.ready is False][:1]
    pattern = rf"{named}.*hf download --repo-type dataset lmms-lab-encoder/"
    assert re.search(pattern, wrong.note)
    with pytest.raises(ValueError, match=pattern):
        evaluate([task], pretrained=tiny, device="cpu")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("tokenizer.json", "cannot load"),
        ("processor_config.json", "cannot load"),
        ("chat_template.jinja", "no chat template (chat_template.jinja)"),
    ],
)
def test_a_part_of_the_processor_that_is_missing_is_not_ready(tiny, tmp_path, file, named):
    shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns(file))
    options = read({"pretrained": str(tmp_path / "model"), "device": "cpu"})
    found = told({"full": options}, ["mini_pope"])
    assert found["weights"].ready and found["processor"].ready is False
    assert named in found["processor"].note
    assert found["one question of each task"].ready is None


def test_a_template_that_shows_no_picture_is_not_ready(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text("user : {{ messages | length }}")
    found = find_processor(str(tmp_path / "model"), find_weights(str(tmp_path / "model")))
    assert found.ready is False and "its prompt has 0 <image> instead of one" in found.note


def test_one_question_of_each_task_is_answered_by_a_small_model(local, tiny, tmp_path):
    left_out = shutil.ignore_patterns("generation_config.json")  # as early checkpoints do
    shutil.copytree(tiny, tmp_path / "model", ignore=left_out)
    config = tmp_path / "model/processor_config.json"
    whole = {"pretrained": str(tmp_path / "model"), "device": "cpu"}
    methods = {"full": read(whole), "release": read(whole | {"method": "release", "budget": 9})}
    found = told(methods, ["real", "mini_mme"])["one question of each task"]
    assert found.ready and found.note.startswith("10 answered and scored")
    # A processor that cuts pictures to another size: no answer of a run would come.
    settings = json.loads(config.read_text())
    settings["image_processor"]["crop_size"] = {"height": 40, "width": 40}
    config.write_text(json.dumps(settings))
    found = told({"full": methods["full"]}, ["mini_mme"])["one question of each task"]
    assert found.ready is False and "40*40" in found.note


def test_values_that_scoring_cannot_read_are_not_ready(local, tiny):
    file = local / "MMBench/en/dev-00000-of-00001.parquet"
    wrong = [row | {"index": f"q{row['index']}"} for row in MMBENCH]
    write(file, [(encode_picture(np.zeros((40, 40, 3), dtype=np.uint8)), row) for row in wrong])
    found = told({"full": read({"pretrained": tiny})}, ["prumerge_mmbench_en_dev"])
    note = found["one question of each task"].note
    assert "mmbench, item 0: index is 'q7', no whole number, it cannot be scored" in note


def test_an_unusable_cache_is_named(tmp_path, monkeypatch, tiny, local):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(library, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    with pytest.raises(ValueError, match=r"prumerge_mme: .*Not a directory.*file/datasets"):
        evaluate(["prumerge_mme"], pretrained=tiny, device="cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["device=cuda:31"], "no CUDA device for device='cuda:31'"),
        (["answers=FILE"], "answers=FILE is no folder to write into"),
        (["--compare", "full", "--save", "FILE"], "FILE is no folder to save into"),
        (["--rows", "FOLDER"], "--rows FOLDER is a folder: name a CSV file"),
    ],
)
def test_impossible_places_are_told_before_anything_is_asked(
    words, message, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("no folder")
    Path("FOLDER").mkdir()
    device = [] if words[0].startswith("device") else ["device=cpu"]
    assert main([f"pretrained={tiny}", *device, *words, "--tasks", "mini_mme", "--limit", "2"]) == 1
    told = capsys.readouterr()
    assert message in told.err and "Traceback" not in told.err and not told.out


def test_all_shards_of_the_weights_must_be_here(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    found = find_weights(str(tmp_path / "model"))
    assert found.ready is False and found.note.endswith(
        "lacks model-1-of-2.safetensors, model-2-of-2.safetensors"
    )
    for name in shards.values():
        shutil.copy(Path(tiny) / "model.safetensors", tmp_path / "model" / name)
    assert find_weights(str(tmp_path / "model")).ready and find_weights("mini").ready
    cut = tmp_path / "model/model-2-of-2.safetensors"
    cut.write_bytes(cut.read_bytes()[:-5])
    found = find_weights(str(tmp_path / "model"))
    assert not found.ready and found.note.endswith("cut-off or damaged model-2-of-2.safetensors")


def test_memory_is_that_of_the_device_and_its_precision():
    notes = [
        find_memory(read({"pretrained": SEVEN} | options), "7b").note
        for options in ({"device": "cpu"}, {"device": "cpu", "dtype": "bfloat16"})
    ]
    sizes = [float(note.split()[1]) for note in notes]
    assert "in 32 bits" in notes[0] and "GiB are free" in notes[0] and "in 16 bits" in notes[1]
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.01) and sizes[1] > 13
    assert not find_memory(read({"device": "cpu", "batch_size": 100_000}), "13b").ready
    if not torch.cuda.is_available():
        assert "no CUDA device" in find_memory(read({"device": "cuda"}), "7b").note


def test_disk_is_that_of_the_cache(monkeypatch, tmp_path):
    asked = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (asked.append(place), real(place))[1])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    assert find_disk(find_weights("mini"), "mini").ready
    assert asked == [tmp_path]


def test_the_time_of_all_methods_is_their_sum(monkeypatch):
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    labels = {"full": {}, "release": {"method": "release"}}
    methods = {
        label: read({"pretrained": SEVEN, "device": "cuda"} | chosen)
        for label, chosen in labels.items()
    }
    both = told(methods, ["prumerge_pope"], limit=10)
    assert both["time of full"].note.startswith("30 questions, about 576 visual")
    assert both["time of release"].note.startswith("30 questions, about 35 visual")
    assert "on one H100" in both["time of all methods"].note
    split = told(methods, ["prumerge_pope_random"])["time of full"].note
    assert split.startswith(f"{PUBLISHED['pope']} questions")
    # Whatever card this machine has, a run on its CPU is none on a GPU.
    on_cpu = {"full": read({"pretrained": SEVEN, "device": "cpu"})}
    assert "measure a CPU" in told(on_cpu, ["prumerge_pope"])["time"].note


def test_weights_that_differ_anywhere_have_different_names(tmp_path):
    class Model:
        config = None

    names = set()
    size = (1 << 30) + 12_345
    for number, place in enumerate((None, 100, size // 2 + 5, size - 7)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(size)  # a hole: takes no room
            if place is not None:
                file.seek(place)
                file.write(b"other")
        os.utime(folder / "model.safetensors", (0, 0))
        names.add(fingerprint(str(folder), Model))
    assert len(names) == 4
    os.utime(folder / "model.safetensors", (0, 1))
    assert fingerprint(str(folder), Model) not in names
    (tmp_path / "bin").mkdir()
    with pytest.raises(ValueError, match="holds no weights to tell apart"):
        fingerprint(str(tmp_path / "bin"), Model)
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"weights")
    assert fingerprint(str(tmp_path / "bin"), Model) not in names
    assert fingerprint("mini", Model) == "d3811f43eefb"  # as in the committed rows


def test_one_switch_lets_models_and_data_be_fetched():
    environment = Path(__file__).parents[2] / ".ci" / "env.sh"
    for value in ("0", "1"):
        shell = f"HF_HUB_OFFLINE={value}; source {environment}; echo $HF_DATASETS_OFFLINE"
        said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == value
