"""Clips for LLaVA-NeXT-Video and LLaVA-OneVision: frames, slots and answers are the stock ones."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluated import save_tiny_of
from families import TRIED
from PIL import Image
from toy import SIZE
from transformers import (
    LlavaNextVideoProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
)

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge import attach
from prumerge.experiments.evaluation import videos
from prumerge.mini.video import VIDEO_TEMPLATE
from prumerge.models.videos import load_video, video_prompt

pytestmark = TRIED
SQUARE = {"height": SIZE, "width": SIZE}
FORM = {
    "llava_next_video": {
        "size": {"shortest_edge": SIZE},
        "crop_size": SQUARE,
        "image_mean": [0.5] * 3,
    },
    "llava_onevision": {"size": SQUARE, "image_mean": [0.5] * 3},
}
QUESTION = "is there a red 7 ?"


@pytest.fixture(scope="module", params=sorted(FORM))
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_of(request.param, folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(FORM[request.param]))
    (folder / "chat_template.jinja").write_text(VIDEO_TEMPLATE)
    return request.param, folder, *load_video(folder, any_family=True)


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
            **FORM[family], image_std=[0.26862954, 0.26130258, 0.27577711],
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
