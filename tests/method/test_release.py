"""From pixels to tokens as the released code does it: hooks, full attention, plain loops.

The last block is run with hooks on its query and key projections, the whole attention matrix is
built, and the picture's tokens follow from the slow reference. The presets named after the release
read the same from the block's input alone.
"""

import pytest
import reference
import torch
from toy import PATCHES, batch, pictures, prompt, tiny_llava

import prumerge


@torch.no_grad()
def released_inputs(tower, pixel_values):
    """Features, keys and class attention of one picture, by hooks on the last block (D1 to D3)."""
    seen = {}
    attention = tower.encoder.layers[-1].self_attn
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output[0]})
        )
        for name in ("q_proj", "k_proj")
    ]
    features = tower(pixel_values, output_hidden_states=True).hidden_states[-2][0]
    for hook in hooks:
        hook.remove()
    queries, keys = seen["q_proj"], seen["k_proj"]
    weights = (queries @ keys.T * queries.shape[-1] ** -0.5).softmax(dim=-1)
    return features[1:].tolist(), keys[1:].tolist(), weights[0, 1:].tolist()


@pytest.mark.parametrize("name", ["release", "release+", "release+fixed"])
@pytest.mark.parametrize("picture", range(4))
def test_the_presets_give_the_released_tokens_in_their_order(name, picture):
    model = tiny_llava()
    shown = pictures(4)[picture : picture + 1]
    rule = {
        "release": reference.release,
        "release+": reference.release_plus,
        "release+fixed": reference.release_fixed,
    }[name]
    order, tokens = rule(*released_inputs(model.model.vision_tower, shown))
    with prumerge.attach(model, name) as reducer, torch.no_grad():
        reduction = reducer.method(reducer.encode(shown))
    assert reduction.positions[0].tolist()[: len(order)] == order
    torch.testing.assert_close(reduction.tokens[0], torch.tensor(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("picture", range(4))
def test_an_adapter_trained_on_the_released_tokens_sees_them_again(picture):
    """Duplicates included: with 16 patches, 2 by score and 2 of every eighth from the fourth."""
    model = tiny_llava()
    shown = pictures(4)[picture : picture + 1]
    order, tokens = reference.release_fixed_twice(
        *released_inputs(model.model.vision_tower, shown), ratio=1 / 4
    )
    inputs = batch(prompt(3, 5)) | {"pixel_values": shown}
    changes = {"fixed_ratio": 1 / 4, "duplicates": True, "last_patch": False}
    with prumerge.attach(model, "release+fixed", **changes) as reducer:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    found = reducer.reduction
    assert found.positions[0].tolist() == [*order, PATCHES - 1]
    torch.testing.assert_close(found.tokens[0], torch.tensor(tokens), rtol=1e-5, atol=1e-5)


def test_the_pictures_above_tell_the_presets_apart():
    model = tiny_llava()
    kept = {}
    for name in ("release", "release+", "release+fixed"):
        with prumerge.attach(model, name) as reducer, torch.no_grad():
            kept[name] = reducer.method(reducer.encode(pictures(4))).kept
    assert all(1 < count < PATCHES for count in kept["release"])
    assert len({tuple(counts) for counts in kept.values()}) == 3
