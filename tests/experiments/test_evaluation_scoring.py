"""Scores from single answers: equal to the harness's, with bounds, beside constant answers."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from snapshots import ANSWERS, NUMBERS, save_snapshots

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from scored import Parrot, results_of

from prumerge.experiments.evaluation.harness import Effort
from prumerge.experiments.evaluation.mini_tasks import BENCHMARKS, path_of
from prumerge.experiments.evaluation.results import questions_of, read_results
from prumerge.experiments.evaluation.scoring import (
    MAIN_METRICS,
    benchmark_of,
    best_constant,
    first_sentence,
    score,
    score_interval,
    value_of,
)
from prumerge.experiments.evaluation.tasks import PUBLISHED
from prumerge.experiments.statistics import interval


def answered(answers, tasks=None):
    """Score given answers; return the harness's results and the row of each question."""
    results = results_of(Parrot(answers), tasks)
    efforts = {task: Effort(dict.fromkeys(range(999), 7)) for task in results["samples"]}
    return results, questions_of(results, efforts)


@pytest.fixture(scope="module")
def guessed():
    """The mini tasks answered by someone who knows about two thirds."""
    rng, answers = np.random.default_rng(3), {}
    for name in BENCHMARKS:
        rows = pd.read_parquet(path_of(name))
        truth = rows["answer" if "answer" in rows else "answers"]
        if name == "vqav2":
            truth = rows["multiple_choice_answer"]
        if name == "textvqa":
            truth = truth.str[0]
        if name == "scienceqa":
            truth = truth.map(dict(enumerate("abcd")))
        truth = truth.str.lower()
        knows = rng.random(len(rows)) < 0.65
        answers[f"mini_{name}"] = truth.where(knows, rng.permutation(truth)).tolist()
    answers["mini_pope"][5] = "maybe"
    return answered(answers)


def scores_of(results, questions):
    """The harness's scores with those from single answers."""
    groups = results.get("group_subtasks", {})
    for task, found in results["results"].items():
        for metric in MAIN_METRICS[benchmark_of(task)]:
            if isinstance(value := found.get(f"{metric},none"), int | float):
                own = questions[questions["task"].isin(groups.get(task) or [task])]
                yield metric, value_of(metric, value)[0], own


def test_scores_from_single_answers_are_the_harness_own(guessed):
    compared = list(scores_of(*guessed))
    assert len(compared) == 8
    for metric, value, questions in compared:
        assert score(metric, questions) == pytest.approx(value), metric
        assert value not in (0, 100, 800)  # the test can fail


def test_groups_and_both_parts_of_mme_are_scored_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUMERGE_DATA", str(save_snapshots(tmp_path)))
    for name, number in NUMBERS.items():
        monkeypatch.setitem(PUBLISHED, name, number)
    wrong = {task: list(said) for task, said in ANSWERS.items()}
    wrong["prumerge_mme"][-1] = "Maybe"
    results, questions = answered(wrong, tasks=["prumerge_pope", "prumerge_mme"])
    compared = {(metric, value) for metric, value, _ in scores_of(results, questions)}
    assert len({value for _, value in compared}) >= 4
    for metric, value, own in scores_of(results, questions):
        assert score(metric, own) == pytest.approx(value), metric


def test_every_question_has_its_row(guessed):
    _, questions = guessed
    assert questions.groupby("task").size().sum() == 638
    assert questions["right"].between(0, 1).all() and (questions["tokens"] == 7).all()
    exact = questions[~questions["task"].str.contains("mmbench|scienceqa|textvqa")]
    said = exact["said"].str.replace("-", " ")  # as VQAv2's scoring does
    assert (exact["right"] == (said == exact["truth"])).all()
    mme = questions[questions["task"] == "mini_mme"]
    assert (mme.groupby(["category", "unit"]).size() == 2).all()
    rotated = questions[questions["task"] == "mini_mmbench"]
    assert (rotated.groupby("unit").size() == 4).all()


def test_bounds_hold_the_score_and_draw_pictures(guessed):
    for metric, value, questions in scores_of(*guessed):
        found = score_interval(metric, questions, draws=500)
        assert found.low < value < found.high
    own = guessed[1].query("task == 'mini_textvqa'")  # one question per picture
    assert np.allclose(
        score_interval("exact_match", own), [100 * b for b in interval(own["right"])]
    )


@pytest.mark.parametrize(
    ("task", "metric", "answer", "expected"),
    [
        ("mini_pope", "pope_f1_score", "yes", 200 / 3),
        ("mini_pope", "pope_accuracy", None, 50),
        ("mini_mme", "mme_perception_score", None, 200),
        ("mini_mmbench", "gpt_eval_score", None, 0),
    ],
)
def test_constant_answers_score_what_they_must(guessed, task, metric, answer, expected):
    said, value = best_constant(metric, guessed[1][guessed[1]["task"] == task])
    assert value == pytest.approx(expected)
    assert answer in (None, said)


def test_the_best_constant_answer_is_the_most_frequent_truth(guessed):
    own = guessed[1].query("task == 'mini_vqav2'")
    said, value = best_constant("exact_match", own)
    counts = own["truth"].value_counts()
    assert counts[said] == counts.max() and value == pytest.approx(100 * counts.max() / len(own))


def test_of_many_truths_the_frequent_are_tried_one_at_a_time():
    many = pd.DataFrame({"task": "mini_vqav2", "truth": [str(n // 2) for n in range(4_000)]})
    many["truth"] = many["truth"].where(many.index >= 3, "red")
    many = many.assign(said="", right=0.0)
    tracemalloc.start()
    found = best_constant("exact_match", many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ("red", pytest.approx(100 * 3 / len(many)))
    assert peak < 16 * 2**20  # two thousand copies held at once take more


def test_the_truth_is_what_most_annotators_said():
    from prumerge.experiments.evaluation.scoring import common_answer

    assert common_answer({"answers": ["a cat", "cat", "cat"]}) == "cat"
    said = [{"answer": "maroon"}, {"answer": "red"}, {"answer": "red"}]
    assert common_answer({"answers": said}) == "red"


def test_committed_rows_of_pope_are_scored_by_both_rules():
    rows, questions = read_results("mini")
    pope = rows[rows["benchmark"] == "pope"]
    assert len(pope) and rows["limit"].isna().all()
    # Merged to the letter of the formula, the model says other words too.
    assert set(pope.loc[pope["neither"] > 0, "label"]) == {"paper-literal"}
    for row in pope.to_dict("records"):
        own = questions[(questions["label"] == row["label"]) & (questions["task"] == row["task"])]
        said = own["said"].map(first_sentence)
        read = own.assign(said=said, right=(said == own["truth"]).astype(float))
        assert score(row["metric"], read) == pytest.approx(row["value_llava"])
