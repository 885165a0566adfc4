"""The encoder is read as far as needed, and the scores are its own attention."""

import copy
import functools
from typing import get_args

import accelerate
import peft
import pytest
import torch
from jaxtyping import TypeCheckError
from samples import DEVICES
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from prumerge import PRESETS, Settings, encode, resolve
from prumerge.encoder import hidden_states, needed_layers
from prumerge.reduction import select
from prumerge.scores import class_attention, read_states, received_attention

BLOCKS = 4
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}


def tower(kind="clip", attention="sdpa", **changes):
    """A tiny encoder of random weights: 16 patches, 4 blocks, 4 heads."""
    config_class, model_class = {
        "clip": (CLIPVisionConfig, CLIPVisionModel),
        "siglip": (SiglipVisionConfig, SiglipVisionModel),
    }[kind]
    config = config_class(**{**SHAPE, **changes})
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():  # uneven attention, so that a wrong formula shows
        for block in model.encoder.layers:
            block.self_attn.q_proj.weight.mul_(2)
            block.self_attn.k_proj.weight.mul_(2)
    return model


def pictures(count=3, side=28):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def encoded(model, pixel_values=None, feature_layer=-2, **settings):
    """Encode without gradients; settings by name."""
    pixel_values = pictures() if pixel_values is None else pixel_values
    return encode(model, pixel_values, Settings(**settings), feature_layer)


@torch.no_grad()
def attention_of(model, block):
    """The encoder's own attention of one block, [images, heads, queries, keys]."""
    return model(pictures(), output_attentions=True).attentions[block]


@pytest.mark.parametrize("feature_layer", [-5, -4, -3, -2, 0, 1, 3])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_features_are_the_hidden_states_bit_for_bit(kind, feature_layer):
    model = tower(kind)
    found = encoded(model, feature_layer=feature_layer, score="received")
    hidden = model(pictures(), output_hidden_states=True).hidden_states[feature_layer]
    first = int(kind == "clip")
    assert torch.equal(found.features, hidden[:, first:])
    assert found.grid == (4, 4)
    if kind == "clip":
        assert torch.equal(found.class_feature, hidden[:, 0])
    else:
        assert found.class_feature is None


@pytest.mark.parametrize("feature_layer", [-1, BLOCKS])
@torch.no_grad()
def test_the_output_of_the_last_block_works_with_layers_named(feature_layer):
    model = tower()
    found = encoded(model, feature_layer=feature_layer, score_layer=-1, key_layer=-1)
    hidden = model(pictures(), output_hidden_states=True).hidden_states[feature_layer]
    assert torch.equal(found.features, hidden[:, 1:])
    assert torch.equal(found.scores, encoded(model).scores)


@pytest.mark.parametrize("name", ["score_layer", "key_layer"])
def test_the_output_of_the_last_block_asks_for_layers(name):
    other = {"score_layer": "key_layer", "key_layer": "score_layer"}[name]
    with pytest.raises(ValueError, match=f"no block reads feature layer -1: set {name}"):
        encoded(tower(), feature_layer=-1, **{other: -1})


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("offset", [0, BLOCKS])
def test_the_head_mean_is_the_encoders_own_class_attention(block, offset):
    found = encoded(tower(), score="head_mean", score_layer=block - offset)
    own = attention_of(tower(attention="eager"), block)[:, :, 0, 1:].mean(dim=1)
    torch.testing.assert_close(found.scores, own)


@torch.no_grad()
def test_the_full_width_score_is_one_softmax_over_concatenated_heads():
    model = tower()
    hidden = model(pictures(), output_hidden_states=True).hidden_states[-2]
    attention = model.encoder.layers[-1].self_attn
    normed = model.encoder.layers[-1].layer_norm1(hidden)
    logits = attention.q_proj(normed[:, :1]) @ attention.k_proj(normed).transpose(1, 2) / 32**0.5
    with_class = logits.softmax(dim=-1)[:, 0, 1:]
    patches_only = logits[..., 1:].softmax(dim=-1)[:, 0]
    torch.testing.assert_close(encoded(model).scores, with_class)
    torch.testing.assert_close(encoded(model, softmax_class=False).scores, patches_only)
    torch.testing.assert_close(encoded(model).keys, attention.k_proj(normed)[:, 1:])


def test_leaving_the_class_token_out_scales_full_width_scores_alike():
    """D3: the selection stays, merge weights change."""
    model = tower()
    ratio = encoded(model).scores / encoded(model, softmax_class=False).scores
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (ratio < 1).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_received_attention_is_the_mean_of_the_encoders_own(kind):
    own = attention_of(tower(kind, attention="eager"), BLOCKS - 1)
    first = int(kind == "clip")
    expected = own[:, :, first:, first:].mean(dim=(1, 2))
    torch.testing.assert_close(encoded(tower(kind), score="received").scores, expected)


def test_scores_without_a_class_token_sum_to_one():
    total = encoded(tower("siglip"), score="received").scores.sum(dim=1)
    torch.testing.assert_close(total, torch.ones(3))


@pytest.mark.parametrize("score", ["full_width", "head_mean"])
def test_an_encoder_without_class_token_is_told_what_works(score):
    with pytest.raises(ValueError, match=r"has none: use score='received'"):
        encoded(tower("siglip"), score=score)


def test_keys_come_from_the_layer_named():
    model = tower()
    found = encoded(model, key_layer=1)
    assert torch.equal(found.keys, encoded(model, score_layer=1).keys) is False
    assert torch.equal(found.keys, encoded(model, score_layer=1, key_layer=1).keys)
    assert torch.equal(found.scores, encoded(model).scores)


@pytest.mark.parametrize(
    ("feature_layer", "settings", "expected"),
    [
        (-2, {}, [0, 1, 2]),
        (-3, {}, [0, 1]),
        (0, {}, []),
        (-2, {"score_layer": 0, "key_layer": 1}, [0, 1, 2]),
        (-4, {"score_layer": -1}, [0, 1, 2]),
        (-1, {"score_layer": -1, "key_layer": -1}, [0, 1, 2, 3]),
    ],
)
def test_no_block_runs_that_is_not_needed(feature_layer, settings, expected):
    """D1: for features of layer -2 the last block of the encoder never runs."""
    model, ran = tower(), []
    for index, block in enumerate(model.encoder.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    encoded(model, feature_layer=feature_layer, **settings)
    assert ran == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pictures_go_to_the_encoders_type_and_device(dtype, device):
    model = tower().to(device, dtype)
    found = encoded(model, pictures())
    assert found.features.dtype == dtype
    assert found.keys.dtype == torch.float32
    assert found.scores.dtype == torch.float32 and found.scores.device.type == device
    close = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 0.2}[dtype]
    torch.testing.assert_close(found.scores.cpu(), encoded(tower()).scores, rtol=close, atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score", get_args(Settings.__annotations__["score"]))
def test_half_precision_keeps_what_float32_scores_of_its_states_keep(score, dtype, device):
    settings = Settings(score=score, score_layer=-2, key_layer=-1)
    half = tower().to(device, dtype)
    precise, layers = copy.deepcopy(half).float(), needed_layers(settings, -2, BLOCKS)
    with torch.no_grad():
        states = hidden_states(half, pictures(40), set(layers))
        found = read_states(half, states, layers, settings, (4, 4))
        states = {layer: state.float() for layer, state in states.items()}
        wanted = read_states(precise, states, layers, settings, (4, 4))
    assert torch.equal(select(found.scores, settings), select(wanted.scores, settings))
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.keys, wanted.keys, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_does_not_round_the_scores(device):
    model = tower().to(device)
    states = hidden_states(model, pictures(), {3})
    read = functools.partial(read_states, model, states, (3, 3, 3), Settings(), (4, 4))
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = read()
    assert torch.equal(inside.scores, read().scores) and torch.equal(inside.keys, read().keys)


@torch.no_grad()
def test_half_precision_scores_heed_hooks_and_adapters_of_the_maps():
    """Offloaded weights come by hook; an adapter's own share must not be lost."""
    model = tower().bfloat16()
    expected = encoded(model)
    adapted = peft.get_peft_model(
        copy.deepcopy(model),
        peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    )
    merged = copy.deepcopy(adapted).merge_and_unload()
    close = {"rtol": 0.05, "atol": 0.005}  # the merged weights are rounded
    found = encode(adapted.base_model.model, pictures(), Settings())
    torch.testing.assert_close(found.scores, encoded(merged).scores, **close)
    assert not torch.allclose(found.scores, expected.scores, **close)
    accelerate.cpu_offload(model.encoder, execution_device="cpu")
    assert torch.equal(encoded(model).scores, expected.scores)


def test_a_picture_alone_equals_the_same_in_a_batch():
    together, alone = encoded(tower()), encoded(tower(), pictures()[1:2])
    torch.testing.assert_close(together.features[1:2], alone.features)
    torch.testing.assert_close(together.scores[1:2], alone.scores)


def test_an_encoder_inside_a_wrapper_is_found():
    wrapper = nn.Module()
    wrapper.vision_model = tower()
    assert torch.equal(encoded(wrapper).scores, encoded(tower()).scores)


def test_other_modules_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Linear is not built like.*no embeddings.*pass CLIP"):
        encode(nn.Linear(2, 2), pictures())


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"feature_layer must be in \[-5, 4\], got -6"):
        encoded(tower(), feature_layer=-6)
    with pytest.raises(ValueError, match=r"score_layer must be in \[-4, 3\], got 4"):
        encoded(tower(), score_layer=4)
    with pytest.raises(ValueError, match=r"key_layer must be in \[-4, 3\], got -5"):
        encoded(tower(), key_layer=-5)


def test_several_feature_layers_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        encode(tower(), pictures(), Settings(), [-2, -5])
    unchecked = getattr(needed_layers, "__wrapped__", needed_layers)
    with pytest.raises((ValueError, TypeCheckError)):
        unchecked(Settings(), [-2, -5], BLOCKS)


def test_one_head_is_the_full_width():
    generator = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(shape, generator=generator) for shape in [(2, 8), (2, 5, 8)])
    expected = torch.einsum("iw,ikw->ik", query, keys).div(8**0.5).softmax(dim=-1)
    torch.testing.assert_close(class_attention(query, keys), expected)


def test_the_full_width_logit_is_the_sum_of_head_logits_over_their_roots():
    """D2: with 16 heads, 4 times the mean logit of a head."""
    generator = torch.Generator().manual_seed(0)
    query, keys = (torch.randn(shape, generator=generator) for shape in [(1, 64), (1, 5, 64)])
    split = torch.einsum("ihd,ikhd->ihk", query.unflatten(1, (16, 4)), keys.unflatten(2, (16, 4)))
    expected = (4 * (split / 4**0.5).mean(dim=1)).softmax(dim=-1)
    torch.testing.assert_close(class_attention(query, keys), expected)


def test_received_attention_needs_one_matrix_per_head_at_a_time():
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 9, 8, generator=generator) for _ in range(2))
    per_head = torch.einsum(
        "iqhd,ikhd->ihqk", queries.unflatten(2, (4, 2)), keys.unflatten(2, (4, 2))
    )
    expected = per_head.div(2**0.5).softmax(dim=-1).mean(dim=(1, 2))
    torch.testing.assert_close(received_attention(queries, keys, 4), expected)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_from_pictures_to_tokens(name):
    method = resolve(name, budget=5)
    with torch.no_grad():
        assert method(encode(tower(), pictures(), method.settings)).kept == [5, 5, 5]


def test_the_encoder_runs_without_gradients_or_with():
    found = encode(tower(), pictures())
    assert found.features.requires_grad and found.scores.requires_grad
    assert not encoded(tower()).features.requires_grad
