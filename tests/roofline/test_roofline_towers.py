"""The cost model's vision towers against the stock models: weights, and operations as counted."""

import pytest
import torch
from roofline_samples import DINOV2, small_clip, small_llama
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from prumerge.roofline import PRECISIONS, estimate_costs, read_shape, weight_bytes
from prumerge.roofline.operations import vision_operations

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
    """Matrix products alone, which is what torch counts; in two pictures."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
        pictures = torch.empty(2, 3, config.image_size, config.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(pictures)
    shape = read_shape(behind(config)).vision
    listed = vision_operations(shape, 2, PRECISIONS["fp16"], False, shape.layers)
    products = sum(each.operations * each.repeats for each in listed if each.weight_bytes)
    inside = ("query_key", "weighted_values")
    products += sum(each.operations * each.repeats for each in listed if each.name in inside)
    assert products == counted.get_total_flops()


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
