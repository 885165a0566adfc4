"""The explorer on pictures in tiles and on clips: what is painted is what `attach` sends."""

import numpy as np
import pytest
import torch
from evaluated import save_tiny_next, save_tiny_of
from families import TRIED
from PIL import Image
from transformers import CLIPVisionConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import prumerge
from prumerge.draw.explorer import Explorer, open_model
from prumerge.draw.looking import draw_picture, look
from prumerge.mini.model import build_tokenizer
from prumerge.mini.styles import LARGE
from prumerge.mini.video import VIDEO_TEMPLATE
from prumerge.models import load
from prumerge.models.asking import prompt_of
from prumerge.models.preprocessing import prepare
from prumerge.models.videos import VIDEO, VideoProcessor, video_prompt
from prumerge.paths import MINI_NEXT


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    return load(save_tiny_next(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def moving(tiled):
    """An untrained Video-LLaVA that reads the mini-LLaVA's words; its frames have 4 x 4 patches."""
    words = build_tokenizer()
    words.add_tokens(VIDEO, special_tokens=True)
    text = tiled[0].config.text_config.to_dict() | {"vocab_size": len(words)}
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ids = {"image_token_id": 4, "video_token_id": words.convert_tokens_to_ids(VIDEO)}
    torch.manual_seed(0)
    model = VideoLlavaForConditionalGeneration(
        VideoLlavaConfig(vision_config=vision, text_config=text, **ids)
    ).eval()
    model.generation_config.update(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return model, VideoProcessor(pictures, words, 8, VIDEO_TEMPLATE)


def test_base_and_crops_are_painted_as_attach_sends_them(tiled):
    model, processor = tiled
    shown = Explorer(*tiled, seed=0, objects=3, method="top_k", budget=40)
    image = draw_picture(0, 3, 6, LARGE).image
    assert shown.picture.image.size == image.size == (384, 384)
    inputs = processor(images=image, text="user : <image> what", return_tensors="pt")
    with torch.no_grad(), prumerge.attach(model, "top_k", budget=40) as reducer:
        model(**inputs)
    base, crops = shown.look.views
    assert (base.grid, crops.grid) == ((6, 6), (12, 12)) and shown.look.kept == reducer.kept[0]
    kept = shown.look.reason != 0
    tiles = reducer.kept_by_tile[0]
    assert kept[base.patches].sum() == tiles[0] and kept[crops.patches].sum() == sum(tiles[1:])
    sent = {int(slot) for slot in reducer.reduction.positions[0]}
    assert {int(slot) for slot in shown.look.slots[kept]} == sent
    told = shown.said["counts"].value
    assert "of 180 visual tokens" in told and f"the whole picture {tiles[0]}, the crops" in told
    assert shown.choose.budget.max == 180 and len({c.shape for c in shown.painted}) == 1


@pytest.mark.parametrize("method", ["prumerge", "divprune", "visionzip", "tome"])
def test_the_origin_of_each_token_of_tiles_gives_it_back(method, tiled):
    shown = Explorer(*tiled, seed=1, objects=3, method=method, budget=20)
    features = shown.look.features[0].detach().numpy()
    assert len(features) == shown.look.reason.size
    held = 0
    for token in range(0, shown.look.kept, 3):
        weights = shown.look.origin(token)
        sent = shown.look.reduction.tokens[0][token].detach().numpy()
        if weights.any():
            np.testing.assert_allclose(weights @ features, sent, rtol=1e-3, atol=1e-3)
            held += 1
    assert held > 3


def test_a_token_is_told_where_it_stands(tiled):
    shown = Explorer(*tiled, seed=0, objects=3, method="top_k", budget=20, order="raster")
    shown.choose.token.value = shown.look.kept
    view, row, column = shown.look.where(shown.look.kept - 1)
    told = f"row {row + 1}, column {column + 1} of {view.name}"
    assert told in shown.said["origin"].value and view.name == "the crops"
    assert view.patches.reshape(view.grid)[row, column] == shown.look.place(shown.look.kept - 1)


def test_frames_of_a_clip_are_painted(moving, tmp_path):
    model, processor = moving
    shown = Explorer(*moving, seed=2, objects=3, method="top_k", budget=24)
    frames = shown.picture.frames
    assert len(frames) == len(shown.look.views) == 8 and shown.look.kept == 24
    inputs = processor([video_prompt(processor, "what ?")], [frames])
    with torch.no_grad(), prumerge.attach(model, "top_k", budget=24) as reducer:
        model(**inputs)
    kept = shown.look.reason != 0
    assert [kept[view.patches].sum() for view in shown.look.views] == reducer.kept_by_tile[0]
    assert shown.painted[0].shape[1] > 1.9 * shown.painted[0].shape[0]  # four in a line
    shown.choose.question.value = "what is it ?"
    shown.choose.ask.click()
    assert "all tokens" in shown.said["answers"].value and "128" in shown.said["answers"].value
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    shown.choose.file.value = str(tmp_path / "clip.gif")
    assert shown.said["trouble"].value == "" and len(shown.picture.frames) == 8
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    for name, words in (("one.png", ""), ("none", "no video")):
        shown.choose.file.value = str(tmp_path / name)
        assert words in shown.said["trouble"].value
    if photographs := [value for _, value in shown.choose.photograph.options if value]:
        shown.choose.photograph.value = photographs[0]
        assert "is shown clips: draw one" in shown.said["trouble"].value


VIEWS = {  # of a picture of twice the width: names, and rows and columns of patches
    "vipllava": [("", (4, 4))],
    "internvl": [("tile 1", (4, 4)), ("tile 2", (4, 4)), ("tile 3", (4, 4))],
    "llava_onevision": [("the whole picture", (4, 4)), ("the crops", (4, 8))],
    "qwen2_5_vl": [("", (4, 8))],
    "qwen3_vl": [("", (4, 8))],
}


@TRIED
@pytest.mark.parametrize("family", VIEWS)
def test_every_family_is_shown_as_attach_sends_it(family, tmp_path):
    model, processor = open_model(save_tiny_of(family, tmp_path))
    picture, options = draw_picture(0, 3).image.resize((64, 32)), {"budget": 12}
    picture.save(tmp_path / "wide.png")
    file = str(tmp_path / "wide.png")
    shown = Explorer(model, processor, file=file, method="prumerge+", **options)
    assert [(view.name, view.grid) for view in shown.look.views] == VIEWS[family]
    images, text = prepare(processor, [picture]), [prompt_of(processor, "what ?")]
    inputs = processor(images=images, text=text, return_tensors="pt")
    with torch.no_grad(), prumerge.attach(model, "prumerge+", **options) as reducer:
        model(**inputs)
    assert torch.equal(shown.look.reduction.positions[0], reducer.reduction.positions[0])
    shown.choose.question.value = "what is it ?"
    shown.choose.ask.click()
    assert shown.said["trouble"].value == "" and "all tokens" in shown.said["answers"].value


@pytest.mark.skipif(not (MINI_NEXT / "model.safetensors").exists(), reason="no data/mini-next")
def test_another_model_is_a_choice():
    shown = Explorer(*load(), seed=1, objects=3)
    shown.choose.budget.value = 100
    before = shown.painted[0].copy()
    shown.choose.which.value = "mini-next"
    assert type(shown.model).__name__ == "LlavaNextForConditionalGeneration"
    assert shown.said["trouble"].value == "" and shown.look.reason.size > 576
    assert shown.look.kept == 100 and len(shown.look.views) == 2
    shown.choose.tower.value = "dinov2-small"
    assert "looks with its own tower" in shown.said["trouble"].value
    assert shown.choose.tower.value == "the model's own" and len(shown.look.views) == 2
    shown.choose.which.value = "the one given"
    assert np.array_equal(shown.painted[0], before)


def test_one_tile_is_one_view(tiled):
    picture = Image.new("RGB", (192, 192), "red")
    model, processor = load("mini")
    with torch.no_grad(), prumerge.attach(model, "top_k", budget=9) as reducer:
        pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        seen = look(reducer.encode(pixels), reducer.method)
    (view,) = seen.views
    assert (view.name, view.grid, view.patches.size) == ("", (24, 24), 576)
