"""What a picture or clip is to every family: counts of the stock packing, sizes of stock models."""

import random

import pytest
import torch
import transformers
from families import BUILDERS, QWEN_PATCH, toy
from PIL import Image
from published import REAL, language
from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from prumerge.roofline import estimate_costs, read_shape, shown_by, weight_bytes
from prumerge.tower import open_tower


@pytest.mark.parametrize("family", REAL)
def test_weights_are_those_of_the_stock_model(family):
    config = REAL[family]()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    numbers = sum(weight.numel() for weight in model.parameters())
    assert weight_bytes(config, "fp16") == pytest.approx(2 * numbers, rel=2e-4)
    tower = getattr(model.model, "vision_tower", None) or model.model.image_tower
    shape = read_shape(config).vision
    assert (shape.layers, shape.class_tokens) == (
        len(open_tower(tower).blocks), open_tower(tower).has_class,
    )  # fmt: skip


COUNTED = [name for name in BUILDERS if name in REAL or name.startswith("qwen")]


@pytest.mark.parametrize("family", COUNTED)
def test_counts_are_those_of_the_stock_model(family):
    made, config = toy(family), toy(family).model.config
    kinds = {part for row in made.rows for part in row if isinstance(part, tuple)}
    for kind, number in kinds:
        given = made.pixels([(kind, number)])
        if family.startswith("qwen"):
            (own,) = next(given[name] for name in given if "grid" in name).tolist()
            size, frames = (QWEN_PATCH * own[1], QWEN_PATCH * own[2]), 2 * own[0] - 1
            frames = frames if kind == "video" and frames > 1 else None
            shown = shown_by(config, size, frames, pixels=(1, 10**9))
            assert shown.slots == made.slots(kind, number)
            assert [shown.tiles, *shown.grid] == own
            continue
        frames = given["pixel_values_videos"].shape[1] if kind == "video" else None
        size = given["image_sizes"][0].tolist() if "image_sizes" in given else None
        tiles = len(given["pixel_values"]) if family == "internvl" else None
        shown = shown_by(config, size and tuple(size), frames, tiles)
        assert shown.slots == made.slots(kind, number)
        pixels = given.get("pixel_values", given.get("pixel_values_videos"))
        assert shown.tiles == (pixels.shape[1] if pixels.ndim == 5 else len(pixels))


def test_a_llava_next_shows_what_papers_count():
    config = REAL["llava_next"]()
    square = shown_by(config, (672, 672))
    assert (square.tiles, square.tokens, square.markers) == (5, 2880, 48)
    assert shown_by(config, (480, 640)).slots == 2340  # padding is cut off
    assert shown_by(REAL["video_llava"](), frames=8).tokens == 2048
    assert shown_by(REAL["internvl"](), tiles=13).tokens == 13 * 256


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_any_size_has_the_placeholders_of_the_processor(family):
    config, draw = REAL[family](), random.Random(0)
    kind = {"llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}[family]
    counted = getattr(transformers, f"{kind}Processor")._get_number_of_features
    vision = config.vision_config

    class Sizes:
        image_processor = type("_", (), {"image_grid_pinpoints": config.image_grid_pinpoints})
        patch_size, vision_feature_select_strategy = vision.patch_size, "full"
        num_additional_image_tokens = 0
        num_image_tokens = (vision.image_size // vision.patch_size) ** 2
        vision_aspect_ratio = "anyres_max_9"
        _get_unpadded_features = getattr(transformers, f"{kind}Processor")._get_unpadded_features

    for _ in range(50):
        size = (draw.randint(30, 2000), draw.randint(30, 2000))
        edge = vision.image_size
        assert shown_by(config, size).slots == counted(Sizes(), *size, edge, edge)


QWEN = {
    name: kind()
    for name, kind in (
        ("qwen2_vl", transformers.Qwen2VLConfig), ("qwen2_5_vl", transformers.Qwen2_5_VLConfig),
        ("qwen3_vl", transformers.Qwen3VLConfig),
    )
}  # fmt: skip


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("pixels", [None, (50_000, 200_000)])
def test_a_qwen_reads_the_patches_that_its_processor_makes(family, pixels):
    config, draw = QWEN[family], random.Random(0)
    made = {"patch_size": config.vision_config.patch_size}
    if pixels is not None:
        made["size"] = dict(zip(("shortest_edge", "longest_edge"), pixels, strict=True))
    processor = Qwen2VLImageProcessorPil(**made)
    for _ in range(50):
        size = (draw.randint(8, 3000), draw.randint(20, 1500))
        shown = shown_by(config, size, pixels=pixels)
        patches = shown.grid[0] * shown.grid[1]
        assert patches == processor.get_number_of_image_patches(*size, {}) == 4 * shown.tokens
    for size in ((30, 50), (480, 640), (900, 200)):
        picture = Image.new("RGB", size[::-1])
        ((_, *grid),) = processor(images=picture, return_tensors="pt")["image_grid_thw"].tolist()
        assert list(shown_by(config, size, pixels=pixels).grid) == grid


def test_clips_of_a_qwen_are_pairs_of_frames():
    for family, config in QWEN.items():
        limits = (1024, 10**8)
        eight, nine = (shown_by(config, (224, 448), frames=n, pixels=limits) for n in (8, 9))
        edge = 16 if family == "qwen3_vl" else 14
        assert (eight.tiles, eight.grid) == (4, (224 // edge, 448 // edge))
        assert (nine.tiles, nine.tokens * 4) == (5, eight.tokens * 5)
    longest = Qwen3VLVideoProcessor.size["longest_edge"]  # of all frames together
    for frames in (2, 16):
        shown = shown_by(QWEN["qwen3_vl"], (1080, 1920), frames=frames)
        assert 0.7 * longest < frames * 16**2 * shown.grid[0] * shown.grid[1] <= longest
    few, many = (shown_by(QWEN["qwen2_vl"], (1080, 1920), frames=n) for n in (2, 16))
    assert few.grid == many.grid and 2 * few.tokens * 28**2 <= 2 * 768 * 28**2


def test_tiles_are_encoded_and_tokens_are_read():
    config = REAL["llava_next"]()
    shown = shown_by(config, (672, 672))
    how = {"text_tokens": 40, "hardware": "A100", "pictures": shown.tiles}
    rows = estimate_costs(config, 40 + shown.slots, **how).set_index("stage")["operations"]
    one = estimate_costs(config, 40 + 576, text_tokens=40, hardware="A100").set_index("stage")
    assert rows["vision_tower"] == 5 * one["operations"]["vision_tower"]
    assert rows["prefill"] > 4 * one["operations"]["prefill"]


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("llava_next", {}, "depends on its size: pass size="),
        ("llava_next", {"frames": 8}, "shows no frames here, only video_llava"),
        ("qwen2_5_vl", {"frames": 8}, "depends on its size: pass size="),
        ("qwen3_vl", {"frames": 0, "size": (64, 64)}, "frames must be at least 1"),
        ("internvl", {}, "its processor decides, not its config: pass tiles="),
        ("video_llava", {"frames": 0}, "frames must be at least 1"),
    ],
)
def test_what_the_config_does_not_say_is_asked_for(family, options, words):
    with pytest.raises(ValueError, match=words):
        shown_by(QWEN[family] if family in QWEN else REAL[family](), **options)


def test_other_families_are_named():
    with pytest.raises(ValueError, match="'paligemma' shows is not known here, only of llava"):
        shown_by(transformers.PaliGemmaConfig())
    with pytest.raises(ValueError, match="a language model alone shows no pictures"):
        shown_by(language())
