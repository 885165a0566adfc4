"""The cost model's vision towers against the stock models: weights, and operations as counted."""

import pytest
import torch
from roofline_samples import DINOV2, QWEN, products_of, small_clip, small_llama
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from prumerge.roofline import PRECISIONS, estimate_costs, read_shape, shown_by, weight_bytes
from prumerge.roofline.costs import vision_weights
from prumerge.roofline.operations import projector_operations, vision_operations

SIGLIP = SiglipVisionConfig(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
    image_size=32, patch_size=8, vision_use_head=False,
)  # fmt: skip
TOWERS = DINOV2 | {"CLIP": small_clip(), "SigLIP": SIGLIP}
each_tower = pytest.mark.parametrize("config", TOWERS.values(), ids=TOWERS)


def behind(tower) -> LlavaConfig:
    return LlavaConfig(text_config=small_llama(), vision_config=tower, image_token_index=5)


@each_tower
def test_operations_are_those_that_torch_counts(config):
    """In two pictures."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
        pictures = torch.empty(2, 3, config.image_size, config.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(pictures)
    shape = read_shape(behind(config)).vision
    listed = vision_operations(shape, 2, PRECISIONS["fp16"], False, shape.layers)
    assert products_of(listed) == counted.get_total_flops()


@each_tower
def test_weights_of_every_tower_are_counted_exactly(config):
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(behind(config))
    unused = ("mask_token",)
    numbers = sum(w.numel() for name, w in llava.named_parameters() if not name.endswith(unused))
    assert weight_bytes(behind(config), "fp16") == 2 * numbers


def test_a_dinov2_costs_its_registers_layer_scale_and_gate():
    plain, gated, registers = (read_shape(behind(config)).vision for config in DINOV2.values())
    assert (plain.patches, plain.tokens, registers.tokens) == (16, 17, 22)
    assert (plain.inner_width, gated.inner_width) == (72, 48)

    def listed(shape):
        rows = vision_operations(shape, 1, PRECISIONS["fp16"], False, 1)
        return {each.name: each for each in rows}

    assert listed(plain)["layer_scale"].operations == 2 * 17 * 24
    assert listed(plain)["norms"].repeats == 2  # none in front of the blocks
    assert "gate" in listed(gated) and "gate" not in listed(plain)
    assert listed(gated)["activation"].activation_read_bytes == 2 * 2 * 17 * 48
    rows = estimate_costs(behind(DINOV2["MLP"]), 40, text_tokens=24)
    assert list(rows["stage"]) == ["vision_tower", "projector", "prefill"]


each_qwen = pytest.mark.parametrize("config", QWEN.values(), ids=QWEN)


@each_qwen
def test_pictures_of_any_size_take_the_operations_that_torch_counts(config):
    """The tower and its mergers; a picture, a clip with windows that edges cut, and a strip."""
    tower = AutoModel.from_config(config, attn_implementation="eager").visual
    shape = read_shape(config)
    for tiles, rows, columns in ((1, 4, 8), (3, 6, 10), (1, 2, 14)):
        pixels = torch.zeros(tiles * rows * columns, shape.vision.patch_values)
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            tower(pixels, grid_thw=torch.tensor([[tiles, rows, columns]]))
        vision, bits = shape.vision.at((rows, columns)), PRECISIONS["fp16"]
        listed = vision_operations(vision, tiles, bits, False, vision.layers)
        squares = tiles * rows * columns // 4
        listed += projector_operations(vision, shape.language, squares, bits)
        assert products_of(listed) == counted.get_total_flops()


TEXT = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4}
DEFAULT = {
    name: type(config)(text_config=TEXT | {"num_hidden_layers": 1}) for name, config in QWEN.items()
}


@pytest.mark.parametrize("configs", [QWEN, DEFAULT], ids=["small", "default"])
@pytest.mark.parametrize("name", QWEN)
def test_weights_of_a_qwen_are_those_of_the_stock_model(configs, name):
    config = configs[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    numbers = {name: weight.numel() for name, weight in model.named_parameters()}
    tower = sum(number for name, number in numbers.items() if ".visual." in name)
    shape = read_shape(config)
    assert vision_weights(shape.vision, shape.language.width) == tower
    loose = ("_norm.weight", "_proj.bias")  # of the language model's queries, keys and values
    others = sum(n for name, n in numbers.items() if "self_attn" in name and name.endswith(loose))
    assert weight_bytes(config) == 2 * (sum(numbers.values()) - others)
    assert others < 2e-4 * sum(numbers.values()) or configs is QWEN


def test_windows_cost_less_than_the_whole_picture():
    config = QWEN["Qwen2.5-VL"]
    vision = read_shape(config).vision.at((12, 12))
    listed = vision_operations(vision, 1, PRECISIONS["fp16"], True, 3)
    attended = [(each.operations, each.repeats) for each in listed if each.name == "attention"]
    pairs = 4 * 24 + 2 * 5  # operations for each pair of patches: 12 values of two heads, softmax
    assert attended == [(pairs * 144**2, 1), (pairs * 9 * 16**2, 2)]
    one_more = vision_operations(vision, 1, PRECISIONS["fp16"], True, 1)
    assert [each.repeats for each in one_more if each.name == "attention"] == [1]


@each_qwen
def test_a_picture_of_a_qwen_costs_its_patches(config):
    shown = shown_by(config, (64, 96), pixels=(64, 10**6))
    assert (shown.tiles, shown.tokens, shown.grid) == (1, 96, (16, 24))
    how = {"text_tokens": 24, "pictures": shown.tiles, "grid": shown.grid}
    rows = [estimate_costs(config, 24 + kept, **how).set_index("stage") for kept in (96, 12)]
    every, few = (each["operations"] for each in rows)
    assert (
        few["vision_tower"] == every["vision_tower"] and 8 * few["projector"] == every["projector"]
    )
    with pytest.raises(ValueError, match=r"takes pictures of any size: pass the patches of yours"):
        estimate_costs(config, 120, text_tokens=24)
    with pytest.raises(ValueError, match=r"grid=\(3, 4\): rows and columns .* multiples of 2"):
        estimate_costs(config, 120, text_tokens=24, grid=(3, 4))
    with pytest.raises(ValueError, match=r"this tower reads 576 patches of any picture"):
        estimate_costs("7b", 120, text_tokens=24, grid=(24, 24))
    with pytest.raises(ValueError, match="a ModelShape says no edge of patches"):
        shown_by(read_shape(config), (64, 96))
