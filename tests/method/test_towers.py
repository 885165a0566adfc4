"""Towers of every build: features, scores, keys and values are those of the stock model's own.

Tiny random models of transformers; their own eager attention is the oracle.
"""

import functools
import inspect
from copy import deepcopy

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import interpolate

from prumerge import Settings, encode, resolve
from prumerge.encoder import check_pictures, hidden_states, needed_layers
from prumerge.experiments.attention import head_attention
from prumerge.rivals.tome import merge_in_blocks
from prumerge.scores import read_states
from prumerge.tower import open_tower

BLOCKS, PATCH_PX, SIDE_PX = 3, 7, 28
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "patch_size": PATCH_PX,
}
SQUARE = SHAPE | {"image_size": SIDE_PX}
NAMES = {  # what stands before Config and Model, what the config is given, tokens in front
    "clip": ("CLIPVision", SQUARE, 1),
    "siglip": ("SiglipVision", SQUARE, 0),
    "siglip2": ("Siglip2Vision", SHAPE | {"num_patches": 16}, 0),
    "dinov2": ("Dinov2", SQUARE | {"layerscale_value": 0.7}, 1),
    "dinov2, swiglu": ("Dinov2", SQUARE | {"use_swiglu_ffn": True}, 1),
    "dinov2, registers": ("Dinov2WithRegisters", SQUARE | {"num_register_tokens": 3}, 4),
    "dinov3": ("DINOv3ViT", SQUARE | {"num_register_tokens": 4, "layerscale_value": 0.8}, 5),
    "dinov3, no registers": ("DINOv3ViT", SQUARE | {"num_register_tokens": 0}, 1),
    "vit": ("ViT", SQUARE, 1),
    "deit": ("DeiT", SQUARE, 2),
    "intern": ("InternVLVision", SQUARE | {"layer_scale_init_value": 0.6}, 1),
    "intern, norms": (
        "InternVLVision",
        SQUARE | {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": True},
        1,
    ),
}
WITH_CLASS = [name for name in NAMES if not name.startswith("siglip")]
ANY_SIZE = [name for name in NAMES if name.startswith(("siglip2", "dino", "intern"))]


@functools.cache
def stock(name, attention="eager", **changes):
    """A tiny model of transformers, every weight of it random, so that each part shows."""
    begin, shape, _ = NAMES[name]
    config = getattr(transformers, f"{begin}Config")(**shape, **changes)
    config._attn_implementation = attention
    model = getattr(transformers, f"{begin}Model")(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            own = torch.randn(weight.shape, generator=generator) * (
                0.25 if weight.ndim > 1 else 0.5
            )
            weight.copy_(own + (weight.ndim == 1))
    return model


def pictures(height=SIDE_PX, width=SIDE_PX, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def own_outputs(model, pixel_values):
    """Run the stock model; its hidden states and attention."""
    inputs = {"pixel_values": pixel_values}
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        rows, columns = (side // PATCH_PX for side in pixel_values.shape[-2:])
        patches = nn.functional.unfold(pixel_values, PATCH_PX, stride=PATCH_PX)
        patches = patches.unflatten(1, (3, -1)).permute(0, 3, 2, 1).flatten(2)
        inputs = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long),
            "spatial_shapes": torch.tensor([[rows, columns]] * len(patches)),
        }
    if (
        pixel_values.shape[-1] != SIDE_PX
        and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    ):
        inputs["interpolate_pos_encoding"] = True
    return model(**inputs, output_hidden_states=True, output_attentions=True)


def maps_seen(model, block):
    """Record what the queries, keys and values of a block's eager attention are."""
    attention = next(
        module
        for module in open_tower(model).blocks[block].modules()
        if hasattr(module, "k_proj") and hasattr(module, "v_proj")
    )
    source = inspect.getmodule(type(attention))
    own, seen = source.eager_attention_forward, []

    def told(module, query, key, value, *args, **kwargs):
        if module is attention:
            seen.extend(part.transpose(1, 2).flatten(2) for part in (query, key, value))
        return own(module, query, key, value, *args, **kwargs)

    return source, told, seen


@torch.no_grad()
@pytest.mark.parametrize("feature_layer", [0, 1, -2])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_patches_of_the_hidden_state(name, feature_layer):
    model, first = stock(name), NAMES[name][-1]
    found = encode(model, pictures(), Settings(score="received"), feature_layer)
    hidden = own_outputs(model, pictures()).hidden_states[feature_layer]
    assert hidden.shape[1] == first + 16 and open_tower(model).first == first
    torch.testing.assert_close(found.features, hidden[:, first:], rtol=1e-5, atol=1e-5)
    assert found.grid == (4, 4)
    if name in WITH_CLASS:
        torch.testing.assert_close(found.class_feature, hidden[:, 0], rtol=1e-5, atol=1e-5)
    else:
        assert found.class_feature is None


@torch.no_grad()
@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", WITH_CLASS)
def test_class_attention_is_the_towers_own(name, attention, block):
    first, own = NAMES[name][-1], own_outputs(stock(name), pictures()).attentions[block]
    found = encode(
        stock(name, attention), pictures(), Settings(score="head_mean", score_layer=block)
    )
    expected = own[:, :, 0, first:].mean(dim=1)
    assert expected.std() > 1e-3  # an even spread would hide a wrong formula
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)
    heads = head_attention(stock(name, attention), pictures())[block]
    torch.testing.assert_close(heads, own[:, :, 0, first:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_received_attention_is_the_towers_own(name):
    first, own = NAMES[name][-1], own_outputs(stock(name), pictures()).attentions[-1]
    found = encode(stock(name), pictures(), Settings(score="received"))
    expected = own[:, :, first:, first:].mean(dim=(1, 2))
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_keys_and_values_are_those_that_attention_sees(name, monkeypatch):
    model, first = stock(name), NAMES[name][-1]
    score = "value_weighted" if name in WITH_CLASS else "received"
    found = encode(model, pictures(), Settings(score=score))
    source, told, seen = maps_seen(model, -1)
    monkeypatch.setattr(source, "eager_attention_forward", told)
    attention = own_outputs(model, pictures()).attentions[-1]
    _, keys, values = seen
    torch.testing.assert_close(found.keys, keys[:, first:], rtol=1e-5, atol=1e-5)
    assert found.heads == 4
    if name in WITH_CLASS:
        expected = attention[:, :, 0, first:].mean(dim=1) * values[:, first:].norm(dim=-1)
        expected = expected / expected.sum(dim=1, keepdim=True)
        torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ANY_SIZE)
def test_pictures_of_another_size_are_taken_where_positions_fit_themselves(name):
    model, first, wide = stock(name), NAMES[name][-1], pictures(21, 42)
    found, own = encode(model, wide, Settings(score="received")), own_outputs(model, wide)
    assert found.grid == (3, 6)
    torch.testing.assert_close(
        found.features, own.hidden_states[-2][:, first:], rtol=1e-5, atol=1e-5
    )
    expected = own.attentions[-1][:, :, first:, first:].mean(dim=(1, 2))
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_size_that_is_not_taken_are_refused(name):
    taken = r"n \* 7, n \* 7" if name in ANY_SIZE else "28, 28"
    for wrong in (pictures(30, 28), pictures(28, 3), pictures()[:, :1], pictures()[0]):
        with pytest.raises(ValueError, match=rf"must be \[pictures, 3, {taken}\] for this encoder"):
            check_pictures(stock(name), wrong)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_smaller_pictures_are_what_the_tower_makes_of_them(name):
    model, first = stock(name), NAMES[name][-1]
    small = interpolate(pictures(), size=(14, 21), mode="bilinear", antialias=True)
    own = own_outputs(model, small).hidden_states[-2][[1, 0], first:]
    found = encode(model, pictures(), Settings(score="received")).at_grid(
        (2, 3), torch.tensor([1, 0])
    )
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_nothing_merged_in_the_blocks_is_the_stock_tower(name):
    found = encode(stock(name, "sdpa"), pictures(), Settings(score="received"))
    run = functools.partial(merge_in_blocks, 16, None)
    if NAMES[name][-1] > 1 or name.startswith("dinov3"):
        with pytest.raises(
            ValueError, match=r"no method works inside the blocks of .*such as tome"
        ):
            found.rerun(run, torch.arange(2))
        return
    features, _ = found.rerun(run, torch.arange(2))
    torch.testing.assert_close(features, found.features, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["dinov2", "dinov2, registers", "dinov3", "siglip2", "intern, norms"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_float32_scores_of_its_states(name, dtype):
    half = deepcopy(stock(name)).to(dtype)
    settings = Settings(score="received" if name == "siglip2" else "head_mean")
    layers = needed_layers(settings, -2, BLOCKS)
    states = hidden_states(half, pictures(), set(layers))
    found = read_states(half, states, layers, settings, (4, 4))
    states = {layer: state.float() for layer, state in states.items()}
    wanted = read_states(deepcopy(half).float(), states, layers, settings, (4, 4))
    assert found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.keys, wanted.keys, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("begin", "end", "inside"),
    [
        ("ViT", "ForImageClassification", "vit"),
        ("Dinov2", "ForImageClassification", "dinov2"),
        ("CLIPVision", "ModelWithProjection", "vision_model"),
    ],
)
def test_a_tower_is_found_inside_a_model_of_any_task(begin, end, inside):
    config = getattr(transformers, f"{begin}Config")(**SQUARE)
    model = getattr(transformers, f"{begin}{end}")(config)
    assert open_tower(model).module is getattr(model, inside)


def refusal(tower):
    with pytest.raises(
        ValueError, match="not built like a vision tower that is known here"
    ) as told:
        open_tower(tower)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_tower_that_attends_in_another_way_is_refused_by_what_it_has():
    for way in ("use_relative_position_bias", "use_shared_relative_position_bias"):
        beit = transformers.BeitModel(transformers.BeitConfig(**SQUARE, **{way: True}))
        assert "position_bias" in refusal(beit)
    scaled = transformers.ViTModel(transformers.ViTConfig(**SQUARE))
    scaled.layers[1].attention.scaling = 1.0
    assert "scales logits by 1, not 1 / sqrt(8)" in refusal(scaled)
    swin = transformers.SwinModel(
        transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1], num_heads=[2])
    )
    assert refusal(swin)
    text = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    assert "no embeddings of patches" in refusal(transformers.CLIPTextModel(text))
    assert "no embeddings of patches" in refusal(nn.Linear(2, 2))


def test_a_tower_without_class_token_names_the_score_that_works():
    for name in ("siglip", "siglip2"):
        with pytest.raises(ValueError, match=r"needs a class token.*use score='received'"):
            encode(stock(name), pictures(), Settings(score="head_mean"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["dinov2", "dinov3", "intern"])
def test_methods_run_on_other_towers(name):
    for method in ("prumerge", "prumerge+", "visionzip", "small_picture", "hiprune"):
        own = resolve(method, budget=5)
        assert max(own(encode(stock(name), pictures(), own.settings)).kept) <= 5
