"""Tables, speeds and memory of a comparison, by hand."""

import gc
import importlib
import runpy
import sys
import weakref
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from evaluated import save_tiny

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge import attach
from prumerge.experiments.evaluation import comparison
from prumerge.experiments.evaluation.__main__ import add_rows
from prumerge.experiments.evaluation.answering import Answerer
from prumerge.experiments.evaluation.beside import titles
from prumerge.experiments.evaluation.comparison import (
    CONSTANT,
    losses,
    main_scores,
    ratios,
    score_table,
)
from prumerge.experiments.evaluation.memory import peak_mib, reset_peak
from prumerge.experiments.evaluation.options import read
from prumerge.experiments.finetuning import arms


def row(label, task, metric, value, tokens, items=10):
    benchmark = next(name for name in ("vqav2", "pope", "mme") if name in task)
    named = {"label": label, "task": task, "benchmark": benchmark, "metric": metric}
    sent = {"tokens_mean": tokens, "tokens_min": tokens - 5, "tokens_max": tokens + 5}
    bounds = {"value": value, "low": value - 2, "high": value + 2, "constant": 40.0}
    return named | bounds | sent | {"items": items}


def test_main_scores_are_those_that_papers_print():
    rows = pd.DataFrame(
        [
            row("full", "prumerge_pope", "pope_f1_score", 80.0, 576),
            row("full", "prumerge_pope", "pope_accuracy", 81.0, 576),
            row("full", "prumerge_pope_random", "pope_f1_score", 82.0, 576),
            row("full", "prumerge_mme", "mme_perception_score", 1500.0, 576),
            row("full", "prumerge_mme", "mme_total_score", 1800.0, 576),
        ]
    )
    assert main_scores(rows)["value"].tolist() == [80.0, 1500.0]


def test_the_larger_sets_stand_alone():
    tasks = ("mini_vqav2", "mini_vqav2_full")
    rows = pd.DataFrame([row("full", task, "exact_match", 50.0, 576) for task in tasks])
    assert main_scores(rows)["task"].tolist() == ["mini_vqav2_full"]
    assert main_scores(rows[:1])["task"].tolist() == ["mini_vqav2"]


def test_the_table_weighs_tokens_by_questions_and_ends_with_the_constant_answer():
    rows = pd.DataFrame(
        [
            row("full", "mini_vqav2", "exact_match", 80.0, 576),
            row("release:order=grouped", "mini_vqav2", "exact_match", 77.25, 40, items=30),
            row("release:order=grouped", "mini_pope", "pope_f1_score", 90.0, 80, items=10),
        ]
    )
    rows[["order", "positions"]] = [[None, None], *[["grouped", "compact"]] * 2]
    table = score_table(rows)
    assert list(table)[2:] == ["mini VQAv2", "mini POPE"]
    assert table.loc["full", "order, positions"] == "raster, original"
    assert table.loc["release"].tolist() == [
        "50 (35 to 85)",
        "grouped, compact",
        "77.2 (75.2 to 79.2)",
        "90.0 (88.0 to 92.0)",
    ]
    assert table.loc[CONSTANT].tolist() == ["0", "-", "40.0", "40.0"]


def test_tasks_of_one_benchmark_keep_their_own_names():
    assert titles(["prumerge_textvqa_val", "prumerge_textvqa_val_ocr", "mine"]) == {
        "prumerge_textvqa_val": "prumerge_textvqa_val",
        "prumerge_textvqa_val_ocr": "prumerge_textvqa_val_ocr",
        "mine": "mine",
    }


def test_rows_are_added_with_weights_that_look_like_numbers(tmp_path):
    named = ["012345678901", "12345e678901"]
    for weights in named:
        add_rows(tmp_path / "rows.csv", pd.DataFrame([{"task": "mini_pope", "weights": weights}]))
    assert pd.read_csv(tmp_path / "rows.csv", dtype=str)["weights"].tolist() == named


def test_losses_compare_the_same_questions():
    right = {"full": [1, 1, 1, 0] * 10, "less": [1, 0, 1, 0] * 10}
    questions = pd.DataFrame(
        [
            {"label": label, "task": "quiz", "picture": str(n), "item": n, "right": float(value)}
            for label, values in right.items()
            for n, value in enumerate(values)
        ]
    )
    (found,) = losses(questions.sample(frac=1, random_state=0)).to_dict("records")
    assert found["label"] == "less" and found["mean"] == pytest.approx(-25)
    assert -45 < found["low"] < -25 < found["high"] < -5
    assert found["p"] == pytest.approx(2 / 2**10)  # ten pictures differ, all the same way


def test_ratios_are_those_of_the_quickest_turns_and_of_all_seconds_together():
    speeds = {"mme": {"full": [1.0, 2.0, 0.1], "fast": [6.0, 4.0, 0.9]}}
    speeds["pope"] = {"full": [1.0], "fast": [10.0]}
    measured = pd.DataFrame(
        [
            {"benchmark": name, "label": label, "turn": turn, "images_per_s": speed}
            for name, by_label in speeds.items()
            for label, found in by_label.items()
            for turn, speed in enumerate(found)
        ]
    )
    together = (1 / 2 + 1) / (1 / 6 + 1 / 10)
    expected = {"mme": 3.0, "pope": 10.0, "together": together}
    assert ratios(measured, "fast").to_dict() == pytest.approx(expected)


def test_the_peak_counts_from_the_reset():
    large = torch.ones(32 * 2**20)  # 128 MiB
    before = peak_mib("cpu")
    del large
    reset_peak("cpu")
    after = peak_mib("cpu")
    assert 0 < after < before - 32
    again = torch.ones(2**20)
    assert peak_mib("cpu") >= after and len(again)


def test_without_the_unix_module_resource_windows_is_asked(monkeypatch):
    class Asked:  # what psutil has on Windows alone
        def memory_info(self):
            return SimpleNamespace(peak_wset=3 * 2**20)

    monkeypatch.setitem(sys.modules, "resource", None)
    memory = importlib.reload(importlib.import_module("prumerge.experiments.evaluation.memory"))
    monkeypatch.setattr("psutil.Process", Asked)
    try:
        assert memory.peak_mib("cpu") == 3
        runpy.run_path(arms.__file__)
    finally:
        monkeypatch.undo()
        importlib.reload(memory)


def test_an_earlier_model_is_gone_before_speed_is_measured(tmp_path, monkeypatch):
    tiny = save_tiny(tmp_path)
    earlier = Answerer(read({"pretrained": tiny, "method": "release"}), "cpu")
    attach(earlier.model, "release")
    alive = weakref.ref(earlier.model)
    seen = []

    def observed(*arguments):
        seen.append(alive())
        return Answerer(*arguments)

    monkeypatch.setattr(comparison, "Answerer", observed)
    gc.disable()  # else it may be collected by chance
    try:
        del earlier
        assert alive() is not None  # the model and its reducer hold on to each other
        comparison.take_turns(["full"], ["pope"], questions=1, rounds=1, pretrained=tiny)
    finally:
        gc.enable()
    assert seen == [None]
