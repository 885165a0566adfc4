"""Several methods in one command: killed and resumed, merged, refused; random weights."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from evaluated import PATCHES, save_tiny

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge.experiments.evaluation import __main__ as command
from prumerge.experiments.evaluation.__main__ import main
from prumerge.experiments.evaluation.answering import Journal
from prumerge.experiments.evaluation.comparison import COMPARED, method_of
from prumerge.experiments.evaluation.results import merge_into, read_results
from prumerge.methods import resolve
from prumerge.models.random_weights import RANDOM, build

MEASURED = ["seconds", "images_per_s", "peak_mib", "fresh_items", "date"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def killed_and_resumed(tiny, tmp_path_factory):
    """The same command undisturbed, and killed within its second method and started again."""
    folder = tmp_path_factory.mktemp("comparison")
    words = [f"pretrained={tiny}", "device=cpu", "batch_size=1", "--compare", "full", "release@9"]
    words += ["--tasks", "mini_pope", "mini_mme", "--limit", "8"]
    assert main([*words, "--save", str(folder / "whole")]) == 0

    journal = folder / "journal"
    file = journal / "answers-0.jsonl"
    words += [f"answers={journal}", "--save", str(folder / "killed")]
    running = subprocess.Popen([sys.executable, "-m", "prumerge.evaluation", *words])
    deadline = time.monotonic() + 240
    while not (file.exists() and file.read_bytes().count(b"\n") >= 20):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    done = len(Journal(journal))
    before = read_results(folder / "killed")[0]
    assert main(words) == 0
    return folder, done, before


def test_a_killed_comparison_ends_as_an_undisturbed_one(killed_and_resumed):
    folder, done, before = killed_and_resumed
    assert 20 <= done < 32
    assert before["label"].unique().tolist() == ["full"]  # saved before the kill
    (whole, asked), (resumed, again) = (read_results(folder / n) for n in ("whole", "killed"))
    pd.testing.assert_frame_equal(asked, again)
    pd.testing.assert_frame_equal(whole.drop(columns=MEASURED), resumed.drop(columns=MEASURED))
    assert resumed.groupby("label")["fresh_items"].max().to_dict() == {"full": 0, "release@9": 8}


def test_rows_tell_everything_a_score_depends_on(killed_and_resumed):
    rows, questions = read_results(killed_and_resumed[0] / "killed")
    assert rows.groupby(["label", "task"]).size().eq(2).all()  # F1 and accuracy; both MME scores
    known = "weights method batch_size dtype device torch transformers lmms_eval do_pad processes"
    assert rows[known.split()].notna().all(axis=None)
    measured = rows[["images_per_s", "peak_mib", "seconds"]]
    assert measured.notna().all(axis=None) and (measured > 0).all(axis=None)
    reduced = rows[rows["label"] == "release@9"]
    assert (reduced[["tokens_mean", "tokens_min", "tokens_max", "budget"]] == 9).all(axis=None)
    assert (rows.loc[rows["label"] == "full", "tokens_mean"] == PATCHES).all()
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert len(questions) == 32 and set(questions["label"]) == {"full", "release@9"}


def test_other_methods_and_tasks_stay(killed_and_resumed, tmp_path):
    rows, questions = read_results(killed_and_resumed[0] / "whole")
    new = rows["label"].eq("full") & rows["task"].eq("mini_pope")
    asked = questions["label"].eq("full") & questions["task"].eq("mini_pope")
    merge_into(tmp_path, rows, questions)
    merge_into(tmp_path, rows[new].assign(value=1.0), questions[asked])
    merged, answers = read_results(tmp_path)
    assert len(merged) == len(rows) and len(answers) == len(questions)
    assert merged["value"].eq(1.0).sum() >= 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": "others"}, "another weights"),
        ({"adapter": "lora (1)"}, r"another adapter \(lora \(1\) and none\)"),
        ({"do_pad": False}, "another do_pad"),
        ({"conversation": "vicuna_v1"}, "another conversation"),
        ({"dtype": "float16"}, "another dtype"),
        ({"items": 5}, r"another number of questions of mini_pope \(5 and 8\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(killed_and_resumed, tmp_path, change, named):
    rows, questions = read_results(killed_and_resumed[0] / "whole")
    new = rows["label"].eq("full") & rows["task"].eq("mini_pope")
    asked = questions["label"].eq("full") & questions["task"].eq("mini_pope")
    merge_into(tmp_path, rows, questions)
    with pytest.raises(ValueError, match=f"holds results of {named}.* move it away"):
        merge_into(tmp_path, rows[new].assign(**change), questions[asked])
    pd.testing.assert_frame_equal(read_results(tmp_path)[0], rows)


def test_absent_and_broken_results_are_told(killed_and_resumed, tmp_path):
    with pytest.raises(ValueError, match=r"holds no rows\.csv: make one with"):
        read_results(tmp_path)
    rows, questions = read_results(killed_and_resumed[0] / "whole")
    merge_into(tmp_path, rows, questions)
    (tmp_path / "questions.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"cannot be read .*: remove that folder"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "full", "relaese"], "did you mean 'release'"),
        (["--compare", "release@many"], "'release@many' names no budget"),
        (["--compare", "release@-3"], "budget must be"),
        (["--compare", "full@64"], "reduces nothing and takes no budget"),
        (["--compare", "release@64:raster"], "'release@64:raster': 'raster' is no name=value"),
        (["--compare", "release:budget=64"], "'release:budget=64': no setting 'budget'"),
        (["--compare", "release:orders=raster"], "did you mean 'order'"),
        (["--compare", "release@64:batch_size=2"], "no setting 'batch_size'"),
    ],
)
def test_wrong_methods_are_told_before_anything_is_asked(words, message, capsys):
    assert main(["device=cpu", *words, "--tasks", "mini_pope"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "limit must be at least 1, got 0"),
        (["--limit", "0", "--compare", "full"], "limit must be at least 1, got 0"),
        (["--tasks", "mini_popes"], "unknown task 'mini_popes': did you mean 'mini_pope'"),
        (["--tasks", "mini_popes", "--compare", "full"], "did you mean 'mini_pope'"),
    ],
)
def test_wrong_tasks_and_limits_are_told_before_a_model_is_loaded(words, message, capsys):
    assert main(["pretrained=nothing/like-it", "device=cpu", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_module_that_fails_is_told_in_a_sentence_with_the_trace_behind(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ntorch.nine()\n")
    assert main(["device=cpu", f"module={file}", "method=mine", "--tasks", "mini_pope"]) == 1
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"evaluation: module='{file}' fails in line 2: AttributeError")
    assert second.startswith("Traceback")


def test_a_finished_comparison_removes_its_own_answers_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RUNS", tmp_path / "runs")
    kept = [command.journal_of(tmp_path / "B/y"), command.journal_of(tmp_path / "A/y")]
    for folder in kept:
        folder.mkdir(parents=True)
        (folder / "another-0.jsonl").write_text("")
    words = [f"pretrained={tiny}", "device=cpu", "--compare", "full", "--limit", "2"]
    words += ["--tasks", "mini_pope", "--save"]
    assert main([*words, str(tmp_path / "A/y")]) == 0
    for folder in kept:
        assert [file.name for file in folder.iterdir()] == ["another-0.jsonl"]
    assert main([*words, str(tmp_path / "C/y")]) == 0
    assert not command.journal_of(tmp_path / "C/y").exists()


@pytest.mark.parametrize("words", [["--save", "x"], ["method=release", "--compare", "full"]])
def test_contradicting_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert "--compare" in capsys.readouterr().err


def test_all_compared_methods_exist():
    assert [method_of(label)["method"] for label in COMPARED][:2] == ["full", "release"]
    handled = [resolve(**method_of(label)).settings for label in COMPARED[6:]]
    assert [s.budget for s in handled] == [None, *[64] * 5]
    released = COMPARED.index("release@64") - 6
    for number, settings in enumerate(handled):
        pair = ("attention", "compact") if number == released else ("raster", "original")
        assert (settings.order, settings.positions) == pair


def test_a_label_carries_settings():
    label = "top_k@0.25:order=attention,positions=stretched"
    settings = resolve(**method_of(label)).settings
    assert (
        settings == resolve("top_k", budget=0.25, order="attention", positions="stretched").settings
    )


def test_random_weights_have_the_size_of_llava():
    model, processor = build("random-7b", device="meta")
    assert sum(weight.numel() for weight in model.parameters()) == 7_063_427_072
    assert processor.image_processor.crop_size["height"] == 336
    assert set(RANDOM) == {"random-7b", "random-13b", "random-7b-cut"}


def test_random_weights_are_those_of_the_seed():
    first, second = (build("random-7b-cut")[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_weights_go_the_whole_way(tmp_path, capsys):
    words = ["pretrained=random-7b-cut", "device=cpu", "batch_size=4", "--compare", "full"]
    words += ["release@32", "--tasks", "mini_mme", "--limit", "2", "--save", str(tmp_path)]
    assert main(words) == 0
    rows, _ = read_results(tmp_path)
    assert rows["tokens_mean"].tolist() == [576, 576, 32, 32]
    assert rows["weights"].unique().tolist() == ["random, seed 0"]
    assert rows["model"].unique().tolist() == ["random-7b-cut"]
    assert "release@32" in capsys.readouterr().out
    assert main(["pretrained=random-7b-cut", "device=cpu", "--preflight"]) == 0
    assert "random, drawn on the device" in capsys.readouterr().out
