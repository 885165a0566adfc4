"""The model of lmms-eval: batches, token counts, resuming, and items that cannot be answered."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import PATCHES, save_tiny
from PIL import Image, ImageFile

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

import datasets
from datasets import Dataset
from lmms_eval.api.instance import Instance

import prumerge
from prumerge import methods
from prumerge.experiments.evaluation.answering import Journal
from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.harness import PruMergeLlava, in_order
from prumerge.mini.pictures import read_picture, to_pixels
from prumerge.models import load
from prumerge.models.asking import prompt_of
from prumerge.paths import ROOT

QUESTIONS = (
    "what colour is the circle ?",
    "is there a red 7 ?",
    "what shape is red ? a . circle b . ring c . star d . cross",
    "where is the blue 7 ?",
    "how many red objects are there ?",
    "what number is on the sign ?",
    "are there 2 red objects ?",
)
GREEDY = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (60, 48), (48, 70), (48, 48), (90, 48), (48, 48), (50, 60)]
    found = []
    for width, height in sizes:
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        pixels[: height // 2] //= 4
        found.append(Image.fromarray(pixels))
    return found


def ask(model, pictures, questions=QUESTIONS, generation=GREEDY):
    """Have the model answer as lmms-eval would."""
    model.task_dict = {"quiz": {"test": [{"image": picture} for picture in pictures]}}
    requests = [
        Instance(
            "generate_until",
            (text, dict(generation), _picture, number, "quiz", "test"),
            0,
            {"task": "quiz", "doc_id": number, "repeats": 1},
        )
        for number, text in enumerate(questions)
    ]
    return model.generate_until(requests)


def _picture(doc):
    if doc["image"] == "torn":
        raise OSError("image file is truncated")
    return [] if doc["image"] is None else [doc["image"].convert("RGB")]


@pytest.mark.parametrize("method", ["full", "release", "release+"])
def test_answers_do_not_depend_on_the_batch(tiny, pictures, method):
    alone, three, all_at_once = (
        ask(PruMergeLlava(pretrained=tiny, method=method, batch_size=size, device="cpu"), pictures)
        for size in (1, 3, 16)
    )
    assert alone == three == all_at_once
    assert len({answer.text for answer in alone}) > 1  # the test can fail


def test_answers_are_those_of_an_attached_model(tiny, pictures):
    model, processor = load(tiny)
    expected, kept = [], []
    with prumerge.attach(model, "release+", budget=9) as reducer:
        for picture, question in zip(pictures, QUESTIONS, strict=True):
            prompt = prompt_of(processor, question)
            inputs = processor(images=picture, text=prompt, return_tensors="pt")
            output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
            length = inputs["input_ids"].shape[1]
            expected.append(processor.decode(output[0, length:], skip_special_tokens=True).strip())
            kept.append((length, *reducer.kept))
    options = {"pretrained": tiny, "method": "release+", "budget": 9, "do_pad": False}
    evaluated = PruMergeLlava(**options, device="cpu", batch_size=4)
    answers = ask(evaluated, pictures)
    assert [answer.text for answer in answers] == expected
    assert [a.token_counts.input_tokens for a in answers] == [n - PATCHES + k for n, k in kept]
    assert list(evaluated.efforts["quiz"].visual_tokens) != []
    assert set(evaluated.efforts["quiz"].visual_tokens.values()) == {9}


@pytest.mark.parametrize("method", ["full", "release", "small_picture"])
def test_a_picture_asked_about_several_times_is_encoded_once(tiny, pictures, method):
    options = {"pretrained": tiny, "method": method, "device": "cpu"}
    if method == "small_picture":  # encodes again, smaller
        options["budget"] = 9
    answerer = PruMergeLlava(**options).answerer
    prompts = [answerer.prompt(question) for question in QUESTIONS[:4]]
    shown = [pictures[0], pictures[1], pictures[0].copy(), pictures[0]]
    seen = []
    embeddings = answerer.model.model.vision_tower.embeddings
    embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    together = answerer.answer(shown, prompts, {"max_new_tokens": 5})
    assert seen[0] == 2
    pairs = zip(shown, prompts, strict=True)
    assert together == [answerer.answer([p], [q], {"max_new_tokens": 5})[0] for p, q in pairs]
    assert len({answer.text for answer in together}) > 1  # the test can fail


def test_questions_about_one_picture_stand_together_the_longest_first():
    rows = Dataset.from_dict({"image_id": [7, 8, 7, 9, 8]})
    texts = ["ab", "abcd", "abcde", "abc", "a"]
    requests = [(text, {}, None, n, "quiz", "test") for n, text in enumerate(texts)]
    requests.append(("abcdefgh", {"max_new_tokens": 3}, None, 3, "quiz", "test"))
    assert in_order(requests, {"quiz": {"test": rows}}) == [[5], [0, 2, 1, 4, 3]]
    unnamed = Dataset.from_dict({"question": texts})
    assert in_order(requests[:5], {"quiz": {"test": unnamed}}) == [[2, 1, 3, 0, 4]]


def test_a_prompt_without_its_picture_is_refused(tiny, pictures, monkeypatch):
    model = PruMergeLlava(pretrained=tiny, device="cpu")
    monkeypatch.setattr(model.answerer.processor, "chat_template", "user : {{ messages | length }}")
    with pytest.raises(RuntimeError, match=r"7 of 7 items .*\n.*the prompt has 0 <image>"):
        ask(model, pictures)
    with pytest.raises(ValueError, match="the prompt has 0 <image> instead of one"):
        model.answerer.prompt("what is there ?")


def test_a_journal_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "answers-3.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"answers-3\.jsonl cannot be read"):
        Journal(tmp_path)


def test_padding_to_a_square_shows_the_edges(tiny, pictures):
    wide = Image.new("RGB", (144, 48))
    wide.paste((255, 255, 255), (0, 0, 40, 48))
    model = PruMergeLlava(pretrained=tiny, device="cpu")
    prompt = model.answerer.prompt(QUESTIONS[0])
    seen = {}
    for do_pad in (True, False):
        padded = PruMergeLlava(pretrained=tiny, do_pad=do_pad, device="cpu")
        tower = padded.answerer.model.model.vision_tower
        tower.register_forward_pre_hook(
            lambda module, args, kwargs, name=do_pad: seen.update(
                {name: (args or tuple(kwargs.values()))[0].amax().item()}
            ),
            with_kwargs=True,
        )
        padded.answerer.answer([wide], [prompt], {"max_new_tokens": 1})
    assert seen[True] > 0.9 and seen[False] < -0.9  # the crop is black, the white edge cut off


def test_the_harness_leaves_pillow_as_strict_as_it_was():
    assert "lmms_eval.api.task" in sys.modules  # what makes it lenient
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("do_pad", [True, False])
def test_pictures_have_the_pixels_of_the_notebooks(tiny, tmp_path, do_pad):
    """Also where a task lays transparency on black, whatever the mode."""
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (48, 90, 4)).astype(np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(rng.integers(0, 65_536, (48, 60)).astype(np.uint16)).save(tmp_path / "2.png")
    Image.fromarray(rng.integers(0, 256, (60, 48, 3)).astype(np.uint8)).save(
        tmp_path / "3.jpg", exif=exif
    )
    files = sorted(tmp_path.iterdir())
    rows = Dataset.from_dict({"image": [str(file) for file in files]})
    rows = rows.cast_column("image", datasets.Image())
    model = PruMergeLlava(pretrained=tiny, device="cpu", do_pad=do_pad, batch_size=3)
    seen = []
    tower = model.answerer.model.model.vision_tower
    tower.embeddings.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    ask(model, [row["image"] for row in rows], ["what ?"] * 3)
    wanted = to_pixels(model.answerer.processor, [read_picture(f) for f in files], do_pad)
    assert len(seen) == 3
    for pixels in wanted:
        assert any(torch.equal(pixels, other) for other in seen)


def test_a_broken_item_is_named_and_the_others_are_kept(tiny, pictures, tmp_path, capsys):
    broken = list(pictures)
    broken[2], broken[4] = "torn", None
    options = {"pretrained": tiny, "method": "release", "batch_size": 3, "device": "cpu"}
    with pytest.raises(RuntimeError) as raised:
        ask(PruMergeLlava(**options, answers=str(tmp_path)), broken)
    message = str(raised.value)
    assert "2 of 7 items cannot be answered" in message
    assert "item 2" in message and "truncated" in message
    assert "item 4" in message and "one picture is needed, the item has 0" in message
    assert "The answers to the other 5 are kept" in message
    mended = PruMergeLlava(**options, answers=str(tmp_path))
    answers = ask(mended, pictures)
    assert "release: 5 of 7 were already answered" in capsys.readouterr().err
    assert mended.efforts["quiz"].fresh == {2, 4}
    fresh = ask(PruMergeLlava(**options), pictures)
    assert answers == fresh


@pytest.mark.parametrize(
    ("kind", "hint"), [(MemoryError, True), (torch.OutOfMemoryError, True), (AttributeError, False)]
)
def test_an_error_while_answering_is_no_empty_answer(tiny, pictures, monkeypatch, kind, hint):
    def fail(**_):
        raise kind("not enough")

    model = PruMergeLlava(pretrained=tiny, device="cpu", batch_size=2)
    monkeypatch.setattr(model.answerer.model, "generate", fail)
    with pytest.raises(kind, match="not enough") as raised:
        ask(model, pictures)
    (note,) = raised.value.__notes__
    assert "while answering 2 items of quiz" in note
    assert ("a smaller batch_size needs less memory" in note) == hint


def test_sampled_answers_are_refused(tiny, pictures):
    with pytest.raises(RuntimeError, match="sampled answers are not offered"):
        model = PruMergeLlava(pretrained=tiny, device="cpu")
        ask(model, pictures, generation=GREEDY | {"do_sample": True, "temperature": 0.7})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "prumege"}, "unknown method 'prumege': did you mean 'prumerge'"),
        ({"buget": 64}, "unknown argument 'buget': did you mean 'budget'"),
        ({"method": "release", "budget": -3}, "budget must be"),
        ({"budget": 64}, "method 'full' reduces nothing and takes no budget"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1"),
        ({"batch_size": "auto"}, "batch_size must be an int of at least 1"),
        ({"conversation": "vicuna"}, "unknown conversation 'vicuna': did you mean 'vicuna_v1'"),
        ({"dtype": "float61"}, "dtype must name a type of torch"),
        ({"do_pad": "yes"}, "do_pad must be True or False"),
        ({"module": "absent.py"}, "module='absent.py': there is no such file"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError) as raised:
        PruMergeLlava(**arguments)
    assert message in str(raised.value)


def test_a_torn_last_line_is_dropped_and_a_wrong_one_named(tiny, pictures, tmp_path):
    options = {"pretrained": tiny, "batch_size": 3, "device": "cpu", "answers": str(tmp_path)}
    ask(PruMergeLlava(**options), pictures)
    (file,) = tmp_path.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    resumed = PruMergeLlava(**options)
    assert len(resumed.journal) == 4
    ask(resumed, pictures)
    assert len(Journal(tmp_path)) == len(QUESTIONS)
    file.write_bytes(b"".join([*lines[:2], b"not json\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"answers-0\.jsonl, line 3, is no answer"):
        PruMergeLlava(**options)


def test_other_settings_do_not_find_the_answers(tiny, pictures, tmp_path):
    options = {"pretrained": tiny, "device": "cpu", "answers": str(tmp_path), "method": "release"}
    ask(PruMergeLlava(**options), pictures)
    for change in ({"neighbours": 3}, {"method": "full"}, {"do_pad": False}):
        model = PruMergeLlava(**options | change)
        ask(model, pictures)
        assert model.efforts["quiz"].fresh == set(range(len(QUESTIONS)))


def test_a_method_of_ones_own_is_told_from_its_next_version(tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "_REGISTRY", dict(methods._REGISTRY))
    file, source = tmp_path / "mine.py", ROOT / "tests/fixtures/every_ninth.py"
    own = {"method": "every_ninth", "budget": 4, "module": str(file)}
    fresh = []
    for version in (1, 1, 2):
        file.write_text(f"{source.read_text(encoding='utf-8')}# version {version}\n")
        model = PruMergeLlava(
            pretrained=tiny, device="cpu", answers=str(tmp_path / "journal"), **own
        )
        ask(model, pictures)
        assert set(model.efforts["quiz"].visual_tokens.values()) == {4}
        fresh.append(len(model.efforts["quiz"].fresh))
    assert fresh == [len(QUESTIONS), 0, len(QUESTIONS)]


RUN = """
import sys
from prumerge.experiments.evaluation.comparison import evaluate
evaluate(["mini_mme"], pretrained=sys.argv[1], method="release", answers=sys.argv[2],
         batch_size=1, device="cpu")
"""


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(tiny, tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", RUN, tiny, str(tmp_path)])
    file = tmp_path / "answers-0.jsonl"
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 10):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(Journal(tmp_path))
    assert 10 <= done < 128  # killed in the middle
    options = {"pretrained": tiny, "method": "release", "batch_size": 8, "device": "cpu"}
    resumed, answers = evaluate(["mini_mme"], **options, answers=str(tmp_path))
    undisturbed, expected = evaluate(["mini_mme"], **options)
    assert resumed["fresh_items"].unique().tolist() == [128 - done]
    told = ["task", "metric", "value", "items", "tokens_mean", "tokens_min", "tokens_max"]
    assert resumed[told].equals(undisturbed[told])
    given, wanted = ([s["resps"] for s in r["samples"]["mini_mme"]] for r in (answers, expected))
    assert given == wanted
    lines = file.read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 128  # none twice


# Their processes wait for the first one, which may be at a data set or at scoring for long. Whoever
# calls, the group ends: here a script of one's own, which knows nothing of it. A thread that still
# runs while the interpreter is taken apart may abort the process.
LAUNCHED = """
import atexit, os, sys
from pathlib import Path
from torch import device, distributed
from prumerge.experiments.evaluation import harness
from prumerge.experiments.evaluation.__main__ import main

def note(model, gather=harness.PruMergeLlava.gather):
    group = distributed.group.WORLD._get_backend(device("cpu"))
    with open(f"{sys.argv[1]}/waits-{distributed.get_rank()}", "w") as file:
        file.write(str(group.options._timeout.days))
    gather(model)

def name_of(task):
    try:
        return (task / "comm").read_text()
    except OSError:  # it ended since it was listed
        return ""

def threads():
    return sum("gloo" in name_of(task) for task in Path("/proc/self/task").glob("*"))

def tell():  # in one piece: two processes share the pipe
    os.write(1, f"left behind: {threads()} {distributed.is_initialized()}\\n".encode())

harness.PruMergeLlava.gather = note
atexit.register(tell)
status = main(sys.argv[2:])
assert distributed.is_initialized() and (sys.platform != "linux" or threads())
sys.exit(status)
"""
# --multi_gpu makes accelerate start several processes; device=cpu keeps them off GPUs.
LAUNCH = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1".split()
LAUNCH += "--mixed_precision no --dynamo_backend no --main_process_port 0".split()


def test_a_launch_ends_well_with_the_rows_of_one_process(tiny, tmp_path, pytestconfig):
    told = ["task", "metric", "value", "items", "tokens_mean", "tokens_min", "tokens_max"]
    told += ["fresh_items"]
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    options = {"pretrained": tiny, "method": "release", "device": "cpu", "batch_size": 2}
    words = [f"{option}={value}" for option, value in options.items()]
    # An odd number does not share out evenly: the harness asks something twice.
    words += "--tasks mini_mme mini_mmbench --limit 11".split()
    alone, _ = evaluate(["mini_mme", "mini_mmbench"], limit=11, **options)
    for number in range(pytestconfig.getoption("--launches")):
        out = tmp_path / str(number)
        out.mkdir()
        places = [f"answers={out / 'answers'}", "--rows", str(out / "rows.csv")]
        command = [sys.executable, "-m", *LAUNCH, str(script), str(out), *words, *places]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, f"launch {number}: {ended.stderr[-2000:]}"
        assert ended.stdout.count("left behind: 0 False") == 2
        together = pd.read_csv(out / "rows.csv")
        assert together["processes"].unique().tolist() == [2]
        assert together["limit"].unique().tolist() == [11]
        files = sorted(path.name for path in (out / "answers").iterdir())
        assert files == ["answers-0.jsonl", "answers-1.jsonl"]
        assert [int((out / f"waits-{rank}").read_text()) for rank in (0, 1)] == [364, 364]
        pd.testing.assert_frame_equal(together[told], alone[told].reset_index(drop=True))
