"""Frames and prompts for Video-LLaVA: the numbers of the stock processor, without torchvision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge.mini.model import build_tokenizer, words_of
from prumerge.mini.styles import MOVING
from prumerge.models.videos import VideoProcessor, evenly_spaced, open_frames

FORM = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
RNG = np.random.default_rng(0)


def film(frames: int = 8, height: int = 70, width: int = 90) -> list[np.ndarray]:
    return list(RNG.integers(0, 256, (frames, height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def processor():
    return VideoProcessor(CLIPImageProcessorPil(**FORM), build_tokenizer(words_of(MOVING)), 14)


@pytest.mark.parametrize("height, width", [(70, 90), (31, 200), (56, 56)])
def test_pixels_are_those_of_the_stock_processor(processor, height, width):
    videos = [film(3, height, width), film(3, height, width)]
    stock = VideoLlavaImageProcessor(**FORM)
    expected = [stock(video, return_tensors="pt")["pixel_values_images"] for video in videos]
    ours = processor.video_pixels(videos)
    assert ours.shape == (2, 3, 3, 56, 56)
    assert (ours - torch.stack(expected)).abs().max() < 1e-6


@pytest.mark.parametrize("frames", [1, 8])
def test_slots_are_as_many_as_the_stock_processor_writes(processor, frames):
    prompt = "user : <video> which way does it move ? <image> assistant :"
    out = processor(prompt, [film(frames)], [film(1)[0]])
    stub = SimpleNamespace(
        patch_size=14, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        video_token="<video>", image_token="<image>",
    )  # fmt: skip
    pixels = {"pixel_values_videos": out["pixel_values_videos"].numpy()}
    stock = prompt.replace("<video>", VideoLlavaProcessor.replace_video_token(stub, pixels, 0))
    pixels = {"pixel_values": out["pixel_values"].numpy()}
    stock = stock.replace("<image>", VideoLlavaProcessor.replace_image_token(stub, pixels, 0))
    assert out["input_ids"].tolist() == processor.tokenizer([stock])["input_ids"]
    assert stock.count("<video>") == frames * 17 and stock.count("<image>") == 16


@pytest.mark.parametrize(
    ("videos", "marks", "told"),
    [
        ([film(4), film(6)], 2, r"of 4 and 6 frames in one batch.*evenly_spaced\(video, 4\)"),
        ([film(4), []], 2, "video 1 has no frames"),
        ([[*film(2), None]], 1, "frame 2 of video 0 is no picture but NoneType"),
        ([[np.zeros((4, 4))]], 1, "frame 0 of video 0 is no picture but ndarray"),
        ([[np.zeros((2, 900, 3), np.uint8)]], 1, "frame 0 of video 0 cannot be read: 900 x 2"),
        ([film(2)], 2, "prompts have 2 marks <video> and 1 were given"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_told_in_a_sentence(processor, videos, marks, told):
    with pytest.raises(ValueError, match=told):
        processor(["<video>"] * marks, videos)


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_a_moving_picture_that_is_cut_off_anywhere_is_no_shorter_clip(form, tmp_path):
    frames = [Image.new("RGB", (8, 8), (60 * number, 0, 90)) for number in range(1, 5)]
    frames[0].save(
        file := tmp_path / f"moving.{form}", save_all=True, append_images=frames[1:], duration=100
    )
    content = file.read_bytes()
    assert len(open_frames(file)) == 4
    for end in range(30, len(content)):
        file.write_bytes(content[:end])
        try:
            assert len(open_frames(file)) == 4, end  # a last mark alone is missing
        except ValueError as error:
            assert f"{file.name} is no moving picture" in str(error)


def test_frames_are_read_from_folders_and_moving_pictures(tmp_path):
    frames = [Image.fromarray(frame) for frame in film(3, 20, 20)]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number:04}.png")
    read = open_frames(tmp_path)
    assert [np.array(f).tolist() for f in read] == [np.array(f).tolist() for f in frames]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert len(open_frames(tmp_path / "moving.webp")) == 3
    for source in (tmp_path / "moving.webp", tmp_path):
        assert open_frames(source, 2) == evenly_spaced(open_frames(source), 2)
    (tmp_path / "half.webp").write_bytes((tmp_path / "moving.webp").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half\.webp is no moving picture"):
        open_frames(tmp_path / "half.webp", 2)
    (tmp_path / "half.webp").unlink()
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match="ffmpeg"):
        open_frames(tmp_path / "film.mp4")
    with pytest.raises(ValueError, match=r"film\.mp4 is no frame"):
        open_frames(tmp_path)
    with pytest.raises(ValueError, match="no video"):
        open_frames(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no frames"):
        open_frames(tmp_path / "empty")


def test_too_few_frames_are_not_spread():
    with pytest.raises(ValueError, match="cannot choose 8 of 3 frames"):
        evenly_spaced(film(3))
