"""Rows of budgets and methods on clips, and tasks about videos, on an untrained model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from prumerge import attach
from prumerge.experiments import clip_rows
from prumerge.experiments.clip_rows import Asker, Cell, read_clip_rows
from prumerge.experiments.evaluation import videos
from prumerge.mini.clip_questions import CLIP_FAMILIES, held_out_clips
from prumerge.mini.export import export
from prumerge.mini.video import Filmed
from prumerge.models import load
from prumerge.models.videos import load_video

CELLS = [Cell("top_k", 64, share="joint"), Cell("prumerge", 64), Cell("stock", frames="none")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The mini-LLaVA as a Video-LLaVA, not trained on clips."""
    folder = tmp_path_factory.mktemp("video") / "made"
    curve = [{"stage": "none", "step": 0, "left_s": 0, "seconds": 0.0}]
    record = dict.fromkeys(("pictures", "hours", "seed", "kept"), 0)
    words = dict.fromkeys(("device", "torch", "tower"), "none")
    export(Filmed(load("mini")[0]), folder, curve, record | words)
    return folder


@pytest.fixture(scope="module")
def rows(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    clip_rows.run(folder, str(made), per_family=1, chosen=CELLS)
    return folder


def test_rows_hold_every_answer_of_every_cell(rows):
    answered = read_clip_rows(rows)
    assert list(answered.cells["visual_tokens"]) == [64, 64, 0]
    assert answered.right.shape == (len(CLIP_FAMILIES), len(CELLS))
    assert list(answered.questions["family"]) == list(CLIP_FAMILIES)
    joint = answered.of("top_k", 64, share="joint")
    assert joint.mean() == pytest.approx(answered.cells["accuracy"][0], abs=1e-4)
    with pytest.raises(ValueError, match=r"no row of method='random', budget=64"):
        answered.of("random", 64)


def test_cells_that_are_there_are_not_run_again_and_other_questions_are_refused(
    rows, made, monkeypatch
):
    before = (rows / "mini-video.csv").read_bytes()
    monkeypatch.setattr(Asker, "answers", lambda *_: pytest.fail("asked again"))
    clip_rows.run(rows, str(made), per_family=1, chosen=CELLS)
    assert (rows / "mini-video.csv").read_bytes() == before
    with pytest.raises(ValueError, match="rows of other weights or questions"):
        clip_rows.run(rows, str(made), per_family=2, chosen=CELLS)


def test_answers_of_a_cell_whose_row_was_not_written_do_not_stand_twice(rows, made, tmp_path):
    copy = Path(shutil.copytree(rows, tmp_path / "killed"))
    held = pd.read_csv(copy / "mini-video.csv", dtype=str)
    held[:-1].to_csv(copy / "mini-video.csv", index=False)
    clip_rows.run(copy, str(made), per_family=1, chosen=CELLS)
    answers, whole = (pd.read_csv(f / "mini-video-answers.csv") for f in (copy, rows))
    pd.testing.assert_frame_equal(answers, whole)


def test_answers_are_those_of_a_call_on_the_pixels(made):
    model, processor = load_video(made)
    items = held_out_clips(1)[:2]
    cell = Cell("prumerge", 128, merging="across")
    asker = Asker(model, processor, items)
    inputs = clip_rows.inputs_of(processor, items)
    with attach(model, "prumerge", **cell.settings) as reducer:
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    new = processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert [text for text, _ in asker.answers(cell)] == [text.strip() for text in new]
    assert reducer.kept == [128, 128]
    pixels = inputs["pixel_values_videos"]
    kept = clip_rows.kept_by_frame(model, pixels, {"even": {"budget": 128}, "own": {}})
    assert kept["even"] == [[16] * 8] * 2
    assert len({sum(row) for row in kept["own"]}) > 1


def test_scores_of_a_model_stand_beside_it(made):
    table = clip_rows.write_scores(made, per_family=1)
    assert list(table["family"]) == [*CLIP_FAMILIES, "mean"]
    assert len(pd.read_csv(made / "scores.csv")) == len(table)


def test_every_cell_of_the_tables_is_another_one():
    cells = clip_rows.cells()
    assert len(set(cells)) == len(cells) > 30


def test_drawn_questions_are_those_committed(tmp_path):
    videos.write_drawn(tmp_path)
    for task in videos.DRAWN:
        name = f"{task.removeprefix('mini_')}.json"
        assert (tmp_path / name).read_bytes() == (videos.DATA / "mini-tasks" / name).read_bytes()


def test_drawn_tasks_are_scored_by_the_harness(made, tmp_path, capsys):
    words = [f"pretrained={made}", "method=prumerge", "budget=64", "--limit", "3"]
    assert videos.main([*words, "--tasks", "mini_msvdqa", "--rows", str(tmp_path / "r.csv")]) == 0
    table = pd.read_csv(tmp_path / "r.csv")
    wanted = {"task": "mini_msvdqa", "items": 3, "tokens_mean": 64, "limit": 3, "budget": 64}
    wanted |= {"model": str(made), "method": "prumerge", "frames": 8, "dtype": "float32"}
    assert {name: table[name].iloc[0] for name in wanted} == wanted


def test_a_run_that_is_started_again_asks_only_what_is_open(made, tmp_path, monkeypatch):
    asked, ask = [], videos.PruMergeVideo._ask

    def counted(self, inputs, *rest):
        asked.append(inputs["input_ids"].shape)
        return ask(self, inputs, *rest)

    monkeypatch.setattr(videos.PruMergeVideo, "_ask", counted)
    how = {"pretrained": str(made), "answers": str(tmp_path), "method": "prumerge"}
    counts, tables = [], []
    for limit, budget in ((2, 64), (3, 64), (3, 64), (1, 32)):
        asked.clear()
        tables.append(videos.evaluate(["mini_msvdqa"], limit, budget=budget, **how))
        counts.append(len(asked))
    assert counts == [2, 1, 0, 1]
    assert tables[1].equals(tables[2]) and tables[2]["tokens_mean"].tolist() == [64]
    assert tables[3]["tokens_mean"].tolist() == [32]


def test_real_tasks_read_frames_and_answers_from_a_folder(made, tmp_path, monkeypatch, capsys):
    words = [f"pretrained={made}", "--tasks", "prumerge_msvdqa"]
    assert videos.main(words) == 1
    assert "PRUMERGE_DATA names the folder" in capsys.readouterr().err
    monkeypatch.setitem(videos.PUBLISHED, "MSVD-QA", 1)
    place = tmp_path / "MSVD-QA"
    (place / "videos" / "vid1").mkdir(parents=True)
    for number in range(9):
        frame = Image.fromarray(np.full((40, 60, 3), 20 * number, np.uint8))
        frame.save(place / "videos" / "vid1" / f"{number}.png")
    rows = [{"video": name, "question": "what is it ?", "answer": "nothing"} for name in ("vid1",)]
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    assert videos.main(words) == 1 and "there is no " in capsys.readouterr().err
    (place / "test.json").write_text(json.dumps(rows))
    (place / "videos" / "vid1" / "4.png").write_bytes(b"not shown")  # eight of nine are
    assert videos.main(words) == 0
    assert "2048" in capsys.readouterr().out
    (place / "videos" / "vid1" / "5.png").write_bytes(b"cut off")
    assert videos.main(words) == 1
    assert "prumerge_msvdqa, item 0: " in (told := capsys.readouterr().err) and "5.png is" in told


ROW = {"video": "vid1", "question": "what is it ?", "answer": "a cat"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps([ROW, ROW]), "has 2 questions, 3 are published: a part is missing"),
        (json.dumps([ROW] * 2 + [ROW | {"video": "vid2"}]), "lacks 1 of 2 videos, vid2 among them"),
        (json.dumps([ROW, ROW, ROW | {"answer": None}]), "row 2, has no answer: it cannot be"),
        (json.dumps([ROW, ROW, "vid1"]), "row 2, has no video: it cannot be scored"),
        (json.dumps([ROW] * 3)[:-4], "is cut off, or no list of rows"),
    ],
)
def test_half_a_real_set_is_told_before_a_model_is_loaded(
    content, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(videos.PUBLISHED, "MSVD-QA", 3)
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    (tmp_path / "MSVD-QA/videos/vid1").mkdir(parents=True)
    (tmp_path / "MSVD-QA/test.json").write_text(content)
    words = ["pretrained=nowhere/to-be-found", "--tasks", "prumerge_msvdqa", "--limit", "1"]
    assert videos.main(words) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "truth", "right"), [("Red.", "red", 1.0), ("a red", "red", 1.0), ("blue", "red", 0.0)]
)
def test_answers_are_normalised_as_the_harness_does(said, truth, right):
    assert videos.process({"answer": truth}, [said]) == {"exact_match": right}


def test_what_is_wrong_is_told_in_a_sentence(made, capsys):
    assert videos.main([f"pretrained={made}", "--tasks", "mini_msvd"]) == 1
    assert "unknown task 'mini_msvd': there are mini_activitynetqa" in capsys.readouterr().err
    assert videos.main([f"pretrained={made}", "--tasks", "mini_pope"]) == 1
    assert "unknown task 'mini_pope': there are mini_activitynetqa" in capsys.readouterr().err
    assert videos.main([f"pretrained={made}", "--limit", "0"]) == 1
    assert "limit must be at least 1, got 0" in capsys.readouterr().err
    assert videos.main([f"pretrained={made}", "frames=0"]) == 1
    assert "frames=0: give how many of a clip are shown" in capsys.readouterr().err
    assert videos.main([f"pretrained={made}", "budget=64"]) == 1
    assert "method='full' sends all tokens" in capsys.readouterr().err
