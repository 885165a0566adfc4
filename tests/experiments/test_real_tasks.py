"""The real tasks, on snapshots with the hub's layout: prompts, scores, and what may be wrong."""

import io
import shutil

import pytest
from evaluated import save_tiny
from snapshots import (
    ANSWERS,
    MMBENCH,
    MME,
    NUMBERS,
    PROMPTS,
    SCIENCEQA,
    VQAV2,
    save_snapshots,
)

from prumerge.experiments.evaluation.__main__ import main
from prumerge.experiments.evaluation.mini_tasks import encode_picture, write

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

import numpy as np
import pandas as pd
from lmms_eval.api.task import ConfigurableTask
from PIL import Image, ImageFile
from scored import scored, scored_questions
from tenacity import RetryError

from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.scoring import first_sentence
from prumerge.experiments.evaluation.tasks import PUBLISHED, REAL, TASKS, task_manager, tasks_named

POPE_TASKS = [f"prumerge_pope_{part}" for part in ("random", "popular", "adversarial")]


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    return save_snapshots(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Take the snapshots' numbers of questions for the published ones."""
    for name, number in NUMBERS.items():
        monkeypatch.setitem(PUBLISHED, name, number)


@pytest.fixture
def local(snapshots, monkeypatch):
    monkeypatch.setenv("PRUMERGE_DATA", str(snapshots))
    return snapshots


def test_prompts_and_scores_are_those_of_the_field(local):
    values, asked = scored(ANSWERS, tasks=REAL)
    for task, prompt in PROMPTS.items():
        assert asked[task][0] == prompt
    # Eight of ten said red: the ten folds of nine have at least three of them.
    assert values["prumerge_vqav2_val", "exact_match"] == 1.0
    assert values["prumerge_scienceqa_img", "exact_match"] == 1.0
    assert values["prumerge_textvqa_val", "exact_match"] == 1.0
    assert values["prumerge_textvqa_val_ocr", "exact_match"] == 1.0
    assert values["prumerge_pope_adversarial", "pope_f1_score"] == pytest.approx(0.8)
    assert values["prumerge_pope", "pope_f1_score"] == pytest.approx((1 + 1 + 0.8) / 3)
    assert values["prumerge_mme", "mme_perception_score"] == 200
    assert values["prumerge_mme", "mme_cognition_score"] == 200
    assert values["prumerge_mme", "mme_total_score"] == 400
    assert values["prumerge_mmbench_en_dev", "gpt_eval_score"] == 100


def test_partly_right_answers_score_as_in_the_field(local):
    answers = {"prumerge_mmbench_en_dev": ["B", "B"], "prumerge_mme": ["Yes", "Yes", "Yes", "No"]}
    values, _ = scored(answers | {"prumerge_vqav2_val": ["maroon", "no"]})
    assert values["prumerge_mmbench_en_dev", "gpt_eval_score"] == 0  # one rotation is wrong
    # 50 for one of two questions, nothing for the pair.
    assert values["prumerge_mme", "mme_perception_score"] == 50
    # One of ten said maroon: a third of the credit in nine of ten folds.
    assert values["prumerge_vqav2_val", "exact_match"] == pytest.approx(0.3 / 2)


def test_a_model_answers_all_six_into_rows(local, tiny, tmp_path, capsys):
    rows_file = tmp_path / "rows.csv"
    words = [f"pretrained={tiny}", "method=release+", "budget=9", "device=cpu", "batch_size=4"]
    assert main([*words, "--tasks", "real", "--rows", str(rows_file)]) == 0
    rows = pd.read_csv(rows_file)
    assert set(rows["task"]) > {*REAL, "prumerge_pope_random"}
    assert rows["benchmark"].nunique() == 6
    assert (rows[["tokens_mean", "tokens_min", "tokens_max", "budget"]] == 9).all(axis=None)
    assert rows.set_index("task").loc["prumerge_pope", "items"].tolist() == [12, 12]
    pope = rows["benchmark"] == "pope"
    assert (rows[["value_llava", "neither"]].notna().all(axis=1) == pope).all()
    assert rows["limit"].isna().all()
    assert (
        rows[["images_per_s", "peak_mib", "weights", "dtype", "lmms_eval"]].notna().all(axis=None)
    )
    assert "prumerge_mme mme_cognition_score" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--tasks", "prumerge_mme", "--rows", str(rows_file)]) == 0
    assert len(pd.read_csv(rows_file)) == len(rows) + 3


POPE_SAID = ["Yes, there is.", "No.", "yes", "There is a bed. Not a car."]


def test_pope_is_scored_by_both_rules(local):
    values, _ = scored({"prumerge_pope_random": POPE_SAID})
    own = {metric: value for (_, metric), value in values.items()}
    # Read as they stand, one of four is yes and none is no.
    assert own["pope_f1_score"] == 1.0 and own["pope_accuracy"] == 0.25
    assert own["pope_neither"] == 0.75
    # Read by their first sentences: yes, no, yes, yes; the truth of the last is no.
    assert own["pope_llava_accuracy"] == 0.75
    assert own["pope_llava_f1_score"] == pytest.approx(0.8)
    values, _ = scored(dict.fromkeys(POPE_TASKS, POPE_SAID), tasks=["prumerge_pope"])
    assert values["prumerge_pope", "pope_llava_f1_score"] == pytest.approx(0.8)
    assert values["prumerge_pope", "pope_neither"] == 0.75


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes, there is.", "yes"),
        ("No", "no"),
        ("no, there is none", "no"),
        ("There is not. Yes.", "no"),
        ("I see. No dog.", "yes"),
        ("Nobody knows", "yes"),
        ("", "yes"),
    ],
)
def test_an_answer_is_read_as_llavas_script_reads_it(said, read):
    assert first_sentence(said) == read


def changed(local, folder, monkeypatch, repository, file, rows):
    """A snapshot with other rows, in another folder."""
    shutil.copytree(local / repository, folder / repository)
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    write(folder / repository / file, [(encode_picture(pixels), row) for row in rows])
    monkeypatch.setenv("PRUMERGE_DATA", str(folder))


def test_text_for_numbers_and_letters_for_places_score_alike(local, tmp_path, monkeypatch):
    numbered = [row | {"index": str(row["index"])} for row in MMBENCH]
    lettered = [row | {"answer": "ABC"[row["answer"]]} for row in SCIENCEQA]
    bench = "en/dev-00000-of-00001.parquet"
    changed(local, tmp_path, monkeypatch, "MMBench", bench, numbered)
    science = "ScienceQA-IMG/test-00000-of-00001.parquet"
    changed(local, tmp_path, monkeypatch, "ScienceQA", science, lettered)
    tasks = ["prumerge_mmbench_en_dev", "prumerge_scienceqa_img"]
    values, questions = scored_questions({task: ANSWERS[task] for task in tasks})
    assert values["prumerge_mmbench_en_dev", "gpt_eval_score"] == 100
    assert values["prumerge_scienceqa_img", "exact_match"] == 1.0
    assert questions["right"].tolist() == [1.0] * 4
    assert questions["unit"].tolist() == ["7", "7", "0", "1"]
    assert questions["truth"].tolist() == ["B", "A", "B", "A"]


def test_a_part_of_a_benchmark_is_not_scored_as_the_whole(local, monkeypatch, tiny):
    monkeypatch.setitem(PUBLISHED, "mme", 2_374)
    for limit in (None, 2):
        with pytest.raises(ValueError, match=r"mme has 4 questions here, 2374 are published: a"):
            evaluate(["prumerge_mme"], limit, pretrained=tiny, device="cpu")
    # Other ways into the harness are no way round.
    monkeypatch.setattr(ConfigurableTask.download.retry, "sleep", lambda _: None)
    with pytest.raises(RetryError):
        scored({"prumerge_mme": ANSWERS["prumerge_mme"]})


def test_half_of_the_files_are_not_the_whole(local, tmp_path, monkeypatch, tiny):
    shutil.copytree(local / "MME", tmp_path / "MME")
    folder = tmp_path / "MME/default"
    (folder / "test-00000-of-00001.parquet").rename(folder / "test-00000-of-00002.parquet")
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"default lacks test-00001-of-00002: hf download") as told:
        evaluate(["prumerge_mme"], pretrained="nothing/like-it", device="cpu")
    assert str(told.value).startswith("prumerge_mme: ")


def test_a_file_that_is_cut_off_within_is_named(local, tmp_path, monkeypatch, tiny):
    shutil.copytree(local / "MME", tmp_path / "MME")
    file = tmp_path / "MME/default/test-00000-of-00001.parquet"
    whole = file.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    file.write_bytes(whole[:100] + whole[-footer:])
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"-of-00001\.parquet is cut off: \d+ bytes of at least"):
        evaluate(["prumerge_mme"], pretrained=tiny, device="cpu")


def test_a_missing_snapshot_is_told_with_the_command(snapshots, tmp_path, monkeypatch, tiny):
    shutil.copytree(snapshots / "MME", tmp_path / "MME")
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"hf download --repo-type dataset lmms-lab-encoder/POPE"):
        evaluate(["prumerge_pope"], pretrained=tiny, device="cpu")
    rows, _ = evaluate(["prumerge_mme"], pretrained=tiny, device="cpu")
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("repository", "config", "split", "rows", "task", "message"),
    [
        (
            "MME",
            "default",
            "test",
            [{name: row[name] for name in row if name != "category"} for row in MME],
            "prumerge_mme",
            "the data set of mme lacks category; it has",
        ),
        (
            "VQAv2",
            "default",
            "validation",
            [VQAV2[0], VQAV2[1] | {"answers": []}],
            "prumerge_vqav2_val",
            "vqav2, item 1: answers is empty",
        ),
        (
            "ScienceQA",
            "ScienceQA-IMG",
            "test",
            [SCIENCEQA[0] | {"answer": "B"}, SCIENCEQA[1] | {"answer": "C"}],
            "prumerge_scienceqa_img",
            "scienceqa, item 1: answer is 'C', none of its 2 choices",
        ),
        (
            "MMBench",
            "en",
            "dev",
            [row | {"index": f"q{row['index']}"} for row in MMBENCH],
            "prumerge_mmbench_en_dev",
            "mmbench, item 0: index is 'q7', no whole number",
        ),
        (
            "MME",
            "default",
            "test",
            [*MME[:3], MME[3] | {"answer": "maybe"}],
            "prumerge_mme",
            "mme, item 3: answer is 'maybe', not yes or no",
        ),
    ],
)
def test_wrong_data_is_refused_before_anything_is_asked(
    local, tmp_path, monkeypatch, tiny, repository, config, split, rows, task, message
):
    file = f"{config}/{split}-00000-of-00001.parquet"
    changed(local, tmp_path, monkeypatch, repository, file, rows)
    # The harness tries again, as if the network had failed; the pauses are left out.
    monkeypatch.setattr(ConfigurableTask.download.retry, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=message):
        evaluate([task], pretrained=tiny, device="cpu")


def test_a_corrupt_picture_is_named(local, tmp_path, monkeypatch, tiny):
    shutil.copytree(local / "MME", tmp_path / "MME")
    whole = encode_picture(np.zeros((40, 40, 3), dtype=np.uint8))
    pictures = [whole, b"no picture", whole, whole]
    path = tmp_path / "MME" / "default" / "test-00000-of-00001.parquet"
    write(path, list(zip(pictures, MME, strict=True)))
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"1 of 4 items .*\n  prumerge_mme, test, item 1"):
        evaluate(["prumerge_mme"], pretrained=tiny, device="cpu", answers=str(tmp_path / "a"))


def test_half_a_picture_is_named_and_not_scored(local, tmp_path, monkeypatch, tiny):
    shutil.copytree(local / "MME", tmp_path / "MME")
    whole = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(whole, "jpeg")
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    path = tmp_path / "MME" / "default" / "test-00000-of-00001.parquet"
    write(path, list(zip([whole.getvalue(), half] * 2, MME, strict=True)))
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval sets it
    with pytest.raises(RuntimeError, match=r"2 of 4 items (.*\n)+.*item 1 .*truncated"):
        evaluate(["prumerge_mme"], pretrained=tiny, device="cpu")


def test_unknown_and_colliding_task_names_are_told(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'mini_popes': did you mean 'mini_pope'"):
        tasks_named(["mini_popes"], task_manager())
    (tmp_path / "mine.yaml").write_text("task: mini_pope\noutput_type: generate_until\n")
    with pytest.raises(ValueError, match=r"task 'mini_pope' is in .*tasks and in .*: rename one"):
        task_manager(tmp_path)


def test_undrawn_questions_are_told():
    if (TASKS.parents[3] / "data/mini-tasks/full/pope.parquet").exists():
        pytest.skip("the full questions are drawn here")
    with pytest.raises(ValueError, match=r"python -m prumerge.evaluation.mini_tasks full"):
        tasks_named(["mini_pope_full"], task_manager())


def test_task_names_are_none_of_the_harness():
    import lmms_eval.tasks

    built_in = lmms_eval.tasks.TaskManager("ERROR").all_tasks
    assert set(task_manager().all_tasks) & set(built_in) == set()
