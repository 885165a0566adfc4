"""Frames for stock processors of videos: sizes, patches and times are transformers' own.

Its classes want torchvision, so what they compute is taken from their source.
"""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from evaluated import FRAMES as FORMS
from evaluated import TIMES, processor_for, words_for
from families import TRIED
from PIL import Image
from transformers import image_utils
from transformers.video_utils import VideoMetadata

from prumerge.mini.video import VIDEO_TEMPLATE
from prumerge.models.frames import FRAMES_OF, Qwen2VLFrames, Qwen3VLFrames, frames_for
from prumerge.models.videos import FPS, SHOWN_MS, clip_inputs, frame_rate, load_video, open_frames

pytestmark = TRIED
RNG = np.random.default_rng(0)
QUESTION = "what is it ?"
SOURCES = [("qwen2_vl", Qwen2VLFrames), ("qwen3_vl", Qwen3VLFrames)]


def source(family: str) -> ast.Module:
    file = Path(transformers.__file__).parent / f"models/{family}/video_processing_{family}.py"
    return ast.parse(file.read_text(encoding="utf-8"))


def stock(family: str, name: str):
    """A function of the stock module."""
    found = [n for n in ast.walk(source(family)) if getattr(n, "name", "") == name]
    names = {"math": math, "torch": torch}
    exec(compile(ast.Module(found[:1], []), name, "exec"), names)
    return names[name]


def film(frames: int = 5, height: int = 50, width: int = 70) -> list[Image.Image]:
    drawn = RNG.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in drawn]


def processor_of(family: str):
    tokenizer = words_for(family)
    tokenizer.add_tokens(TIMES)
    processor = processor_for(family, tokenizer)
    processor.chat_template = VIDEO_TEMPLATE
    processor.video_processor = FRAMES_OF[family](**FORMS[family])
    return processor


@pytest.mark.parametrize("family", FRAMES_OF)
def test_what_a_checkpoint_does_not_say_is_as_in_the_stock_class(family):
    folder = family.removesuffix("_moe").replace("2_5", "2")
    (made,) = (n for n in source(folder).body if getattr(n, "name", "").endswith("VideoProcessor"))
    said = {n.targets[0].id: n.value for n in made.body if isinstance(n, ast.Assign)}
    ours, compared = FRAMES_OF[family](), 0
    for name in ("size", "patch_size", "temporal_patch_size", "merge_size", "resample"):
        if name in said:
            value = eval(compile(ast.Expression(said[name]), name, "eval"), vars(image_utils))
            assert (
                dict(value) == dict(getattr(ours, name))
                if name == "size"
                else value == getattr(ours, name)
            )
            compared += 1
    for name in ("image_mean", "image_std"):
        assert list(getattr(image_utils, said[name].id)) == list(getattr(ours, name))
    assert compared == (2 if family == "internvl" else 5)


@pytest.mark.parametrize(("family", "made"), SOURCES)
def test_frames_have_the_stock_classes_sizes(family, made):
    """Of 500 clips, odd ones too, many at the bounds on pixels."""
    resize, ours, seen = stock(family, "smart_resize"), made(), set()
    least, most = ours.size["shortest_edge"], ours.size["longest_edge"]
    for frames, *size in RNG.integers((2, 9, 9), (30, 700, 700), size=(500, 3)).tolist():
        options = {"temporal_factor": 2, "num_frames": frames} if family == "qwen3_vl" else {}
        expected = resize(
            *((options.pop("num_frames"),) if options else ()), *size,
            factor=2 * ours.patch_size, min_pixels=least, max_pixels=most, **options,
        )  # fmt: skip
        assert ours.fitted(frames, *size) == expected
        seen.add(
            expected
            == tuple(round(edge / ours.patch_size / 2) * 2 * ours.patch_size for edge in size)
        )
    assert seen == {True, False}


@pytest.mark.parametrize("frames", [4, 5])
@pytest.mark.parametrize(("family", "made"), SOURCES)
def test_patches_are_laid_out_as_by_the_stock_class(family, made, frames):
    ours, clip = made(**FORMS[family]), film(frames)
    height, width = ours.fitted(frames, 50, 70)
    resized = [
        np.asarray(frame.resize((width, height), Image.Resampling.BICUBIC)) for frame in clip
    ]
    pixels = torch.tensor(np.stack(resized)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(own)[:, None, None] for own in (ours.image_mean, ours.image_std))
    expected, *grid = stock(family, "patchify")(None, (pixels - mean)[None] / std, 4, 2, 2)
    given = ours([clip])
    torch.testing.assert_close(given["pixel_values_videos"], expected[0])
    assert given["video_grid_thw"].tolist() == [grid] and grid[0] == math.ceil(frames / 2)


def times_in(processor, inputs) -> list[str]:
    text = processor.tokenizer.decode(inputs["input_ids"][0]).replace(" ", "")
    return [part.split("seconds>")[0] for part in text.split("<") if "seconds>" in part]


def test_chosen_frames_keep_their_times():
    processor = processor_of("qwen3_vl")
    clip = film(10)  # shown are 0, 3, 6 and 9
    assert times_in(processor, clip_inputs(processor, QUESTION, clip, 4)) == ["0.1", "0.3"]
    given = clip_inputs(processor, QUESTION, clip, 4, fps=2)
    assert times_in(processor, given) == ["0.8", "3.8"]
    given = clip_inputs(processor, QUESTION, clip, 3, fps=0.5)  # 0, 4 and 9, the last one twice
    assert times_in(processor, given) == ["4.0", "18.0"]
    pixels = clip_inputs(processor, QUESTION, [clip[0], clip[4], clip[9]], fps=1)
    assert torch.equal(pixels["pixel_values_videos"], given["pixel_values_videos"])
    assert times_in(processor, pixels) == ["0.5", "2.0"]


def test_position_ids_are_told_how_long_a_pair_of_frames_lasts():
    processor = processor_of("qwen2_5_vl")
    given = clip_inputs(processor, QUESTION, film(10), 4, fps=2)
    assert given["second_per_grid_ts"].tolist() == [2.5]  # 5 seconds, 2 pairs
    given = clip_inputs(processor, QUESTION, film(10), 4)
    assert given["second_per_grid_ts"].tolist() == pytest.approx([10 / 24 / 2])
    assert VideoMetadata(total_num_frames=10, fps=None).sampled_fps == FPS
    for family in ("qwen2_vl", "internvl"):
        given = clip_inputs(processor_of(family), QUESTION, film(10), 4)
        assert not {"second_per_grid_ts", "video_metadata"} & set(given)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_moving_pictures_have_times_of_their_own(kind, tmp_path):
    lasting = [500, 1500, 1000, 3000, 2000]
    first, *more = film(5)
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=more, duration=lasting)
    clip = open_frames(tmp_path / f"a.{kind}")
    shown = [tuple(frame.info[SHOWN_MS]) for frame in clip]
    assert shown == [(0, 500), (500, 2000), (2000, 3000), (3000, 6000), (6000, 8000)]
    processor = processor_of("qwen3_vl")
    given = clip_inputs(processor, QUESTION, clip, fps=1)
    assert times_in(processor, given) == ["0.2", "2.5", "6.0"]
    given = clip_inputs(processor, QUESTION, clip[::2], fps=1)  # of some they are true too
    assert times_in(processor, given) == ["1.0", "6.0"]
    given = clip_inputs(processor_of("qwen2_5_vl"), QUESTION, clip, 4)
    assert given["second_per_grid_ts"].tolist() == [4]
    first.save(tmp_path / f"b.{kind}", save_all=True, append_images=more)
    assert not any(SHOWN_MS in frame.info for frame in open_frames(tmp_path / f"b.{kind}"))


@pytest.mark.parametrize(
    ("family", "clip", "options", "told"),
    [
        ("qwen3_vl", [], {}, "a clip of no frames: give it pictures"),
        ("internvl", [], {}, "a clip of no frames: give it pictures"),
        ("qwen2_vl", film(2) + film(1, 20, 30), {}, "frames of 30 x 20 and 70 x 50 pixels in one"),
        ("qwen2_vl", [*film(2), None], {}, "frame 2 of the clip is no picture but NoneType"),
        ("qwen3_vl", film(3), {"count": 0}, "cannot choose 0 of 3 frames"),
        ("qwen3_vl", film(3), {"count": 1}, "a clip of 1 frame: a Qwen3-VL takes 2 or more"),
        ("qwen3_vl", film(3), {"fps": 0}, "fps=0 is no frame rate: give frames per second above 0"),
        ("qwen3_vl", film(3), {"fps": -2.5}, "fps=-2.5 is no frame rate"),
        ("qwen2_5_vl", film(3), {"fps": math.inf}, "fps=inf is no frame rate"),
        ("qwen2_vl", film(3), {"fps": 2}, "fps=2, and this model's prompts hold no times"),
    ],
)  # fmt: skip
def test_what_is_no_clip_is_told_in_a_sentence(family, clip, options, told):
    with pytest.raises(ValueError, match=told):
        clip_inputs(processor_of(family), QUESTION, clip, **options)
    with pytest.raises(ValueError, match="fps='fast' is no frame rate"):
        frame_rate(processor_of(family), "fast")


def test_frames_are_not_sampled_again():
    processor = processor_of("qwen3_vl")
    with pytest.raises(ValueError, match="do_sample_frames=True, and frames are taken as they"):
        processor(text="<video>", videos=[film()], do_sample_frames=True)


def test_settings_for_videos_are_the_checkpoints(tmp_path):
    processor = processor_of("qwen3_vl")
    processor.save_pretrained(tmp_path)  # where a stock processor writes them today
    assert frames_for("qwen3_vl", str(tmp_path), "main").size == processor.video_processor.size
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 64, "max_pixels": 640}')
    found = frames_for("qwen2_5_vl", str(tmp_path), "main").size
    assert (found["shortest_edge"], found["longest_edge"]) == (64, 640)
    (tmp_path / "video_preprocessor_config.json").write_text('{"cap_pixels_per_frame": true}')
    with pytest.raises(ValueError, match="cap_pixels_per_frame, which is not done here"):
        frames_for("qwen2_5_vl", str(tmp_path), "main")


def test_a_model_that_is_shown_no_clips_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match=r"'llava', where 'video_llava'.*'qwen3_vl_moe' is read"):
        load_video(tmp_path, any_family=True)
