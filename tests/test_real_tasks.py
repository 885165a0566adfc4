"""The real tasks, on snapshots with the hub's layout: prompts, scores, and what may be wrong."""

import io
import shutil

import pytest
from evaluated import save_tiny
from snapshots import ANSWERS, MME, PROMPTS, VQAV2, save_snapshots

from prumerge.evaluation.__main__ import main
from prumerge.evaluation.parquet import encode_picture, write

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

import numpy as np
import pandas as pd
from lmms_eval.api.task import ConfigurableTask
from PIL import Image, ImageFile
from scored import scored

from prumerge.evaluation.runs import REAL, TASKS, evaluate, task_manager, tasks_named


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    return save_snapshots(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


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
    assert (
        rows[["images_per_s", "peak_mib", "weights", "dtype", "lmms_eval"]].notna().all(axis=None)
    )
    assert "prumerge_mme mme_cognition_score" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--tasks", "prumerge_mme", "--rows", str(rows_file)]) == 0
    assert len(pd.read_csv(rows_file)) == len(rows) + 3


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
    ],
)
def test_wrong_data_is_refused_before_anything_is_asked(
    local, tmp_path, monkeypatch, tiny, repository, config, split, rows, task, message
):
    shutil.copytree(local / repository, tmp_path / repository)
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    path = tmp_path / repository / config / f"{split}-00000-of-00001.parquet"
    write(path, [(encode_picture(pixels), row) for row in rows])
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
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
    if (TASKS.parents[2] / "data/mini-tasks/full/pope.parquet").exists():
        pytest.skip("the full questions are drawn here")
    with pytest.raises(ValueError, match=r"python -m prumerge.evaluation.mini_tasks full"):
        tasks_named(["mini_pope_full"], task_manager())


def test_task_names_are_none_of_the_harness():
    import lmms_eval.tasks

    built_in = lmms_eval.tasks.TaskManager("ERROR").all_tasks
    assert set(task_manager().all_tasks) & set(built_in) == set()
