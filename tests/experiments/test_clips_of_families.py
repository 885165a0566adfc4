"""Clips for every family that is shown some: frames, slots, times and answers are the stock ones.

The models are tiny and random, so answers mean nothing.
"""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import FRAMES, save_tiny_for_clips
from families import TRIED
from PIL import Image
from toy import SIZE
from transformers import (
    LlavaNextVideoProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
)
from transformers.video_utils import VideoMetadata

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge import attach
from prumerge.experiments.evaluation import videos
from prumerge.models.videos import load_video, video_prompt

pytestmark = TRIED
PACKED = ["llava_next_video", "llava_onevision"]
STOCK = sorted(set(FRAMES) - set(PACKED))
QUESTION = "is there a red 7 ?"


@pytest.fixture(scope="module", params=PACKED)
def tiny(request, tmp_path_factory):
    return loaded(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=STOCK)
def whole(request, tmp_path_factory):
    """Prepared by the stock processor."""
    return loaded(request.param, tmp_path_factory)


def loaded(family, tmp_path_factory):
    folder = save_tiny_for_clips(family, tmp_path_factory.mktemp(family))
    return family, folder, *load_video(folder, any_family=True)


def film(frames=3, height=50, width=70):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(frames)
    ]


def test_slots_are_as_many_as_the_stock_processor_writes(tiny):
    family, _, model, processor = tiny
    inputs = processor([video_prompt(processor, QUESTION)], [film()])
    pixels = {"pixel_values_videos": inputs["pixel_values_videos"].numpy()}
    stub = SimpleNamespace(patch_size=SIZE // 4, num_image_tokens=16, video_token="<video>")
    stock = LlavaOnevisionProcessor if family == "llava_onevision" else LlavaNextVideoProcessor
    slots = int((inputs["input_ids"] == model.config.video_token_id).sum())
    assert slots == stock.replace_video_token(stub, pixels, 0).count("<video>")
    with pytest.raises(ValueError, match="clips alone are prepared here"):
        processor(["user : <image>"], images=film(1))


def test_frames_are_prepared_as_the_checkpoint_says(tiny):
    family, *_, processor = tiny
    ours = processor.video_pixels([film()])[0]
    assert ours.shape == (3, 3, SIZE, SIZE)
    if family == "llava_onevision":  # the whole picture, seen small, is prepared like a frame
        stock = LlavaOnevisionImageProcessorPil(
            **FRAMES[family], image_std=[0.26862954, 0.26130258, 0.27577711],
            image_grid_pinpoints=[[SIZE, 2 * SIZE]],
        )  # fmt: skip
        whole = [stock(frame, return_tensors="pt")["pixel_values"][0, 0] for frame in film()]
        assert torch.equal(ours, torch.stack(whole))


@torch.no_grad()
def test_a_clip_is_asked_about_as_by_the_stock_model(tiny, tmp_path):
    _, folder, model, processor = tiny
    for number, frame in enumerate(film()):
        frame.save(tmp_path / f"{number}.png")
    inputs = processor([video_prompt(processor, QUESTION)], [film()])
    for method in ({}, {"method": "all"}, {"method": "prumerge+", "budget": 6}):
        asked = videos.PruMergeVideo(pretrained=str(folder), **method)
        asked.task_dict = {"task": {"test": [{}]}}
        request = (QUESTION, {"max_new_tokens": 5}, lambda _: [videos.open_frames(tmp_path)])
        text = asked._answer(*request, 0, "task", "test")
        with attach(model, **method) if "budget" in method else nullcontext():
            output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        assert text == processor.batch_decode(new, skip_special_tokens=True)[0].strip()
        assert asked.kept == [method.get("budget", 12)]


@torch.no_grad()
def test_a_stock_processors_clip_is_asked_about_as_by_the_stock_model(whole):
    """Three of five frames, so that the last one fills a pair of Qwen's."""
    family, folder, model, processor = whole
    frames, count = film(5), 3
    about = VideoMetadata(total_num_frames=5, fps=24, frames_indices=[0, 2, 4])
    inputs = processor(
        text=[video_prompt(processor, QUESTION)], videos=[frames[::2]], video_metadata=[about],
        return_tensors="pt",
    )  # fmt: skip
    pictures = family == "internvl"
    token = model.config.image_token_id if pictures else model.config.video_token_id
    slots = int((inputs["input_ids"] == token).sum())
    assert slots % (3 if pictures else 2) == 0
    said = []
    for method in ({}, {"method": "all"}, {"method": "prumerge+", "budget": 6}):
        asked = videos.PruMergeVideo(pretrained=folder, frames=count, **method)
        asked.task_dict = {"task": {"test": [{}]}}
        request = (QUESTION, {"max_new_tokens": 5}, lambda _: [frames])
        said.append(asked._answer(*request, 0, "task", "test"))
        own = method | ({"budget": 2} if pictures and "budget" in method else {})
        with attach(model, **own) if "budget" in method else nullcontext() as reducer:
            output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        assert said[-1] == processor.batch_decode(new, skip_special_tokens=True)[0].strip()
        assert asked.kept == [sum(reducer.kept) if reducer else slots]
    assert asked.kept == [6] and said[0] != said[2]


def test_rows_name_the_frames_per_second_that_clips_did_not_tell(whole, tmp_path, monkeypatch):
    family, folder, *_ = whole
    timed = family not in ("internvl", "qwen2_vl")
    place = tmp_path / "MSVD-QA"
    (place / "videos").mkdir(parents=True)
    frames = film(6, 20, 30)
    frames[0].save(
        place / "videos" / "one.gif", save_all=True, append_images=frames[1:], duration=500
    )
    row = {"video": "one.gif", "question": QUESTION, "answer": "nothing"}
    (place / "test.json").write_text(json.dumps([row]))
    monkeypatch.setenv("PRUMERGE_DATA", str(tmp_path))
    monkeypatch.setitem(videos.PUBLISHED, "MSVD-QA", 1)
    words = [f"pretrained={folder}", "method=prumerge", "budget=8", "frames=4", "--limit", "2"]
    words += ["--rows", str(tmp_path / "rows.csv"), "--tasks", "mini_msvdqa", "prumerge_msvdqa"]
    assert videos.main(words) == 0
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table["tokens_mean"].tolist() == [8, 8] and table["items"].tolist() == [2, 1]
    assert table["fps"].fillna(0).tolist() == [24 * timed, 0]


def test_a_wrong_frame_rate_is_told(whole, capsys):
    family, folder, *_ = whole
    words = [f"pretrained={folder}", "--tasks", "mini_msvdqa", "--limit", "1"]
    assert videos.main([*words, "fps=0"]) == 1
    assert "fps=0 is no frame rate: give frames per second above 0" in capsys.readouterr().err
    if family in ("internvl", "qwen2_vl"):
        assert videos.main([*words, "fps=2"]) == 1
        assert "fps=2, and this model's prompts hold no times" in capsys.readouterr().err
