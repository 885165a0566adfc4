"""What rivals ask of the encoder is the encoder's own: values, heads, smaller pictures."""

import pytest
import torch
from test_scores import encoded, pictures, tower

from prumerge import encode, resolve
from prumerge.scores import class_attention


@torch.no_grad()
@pytest.mark.parametrize("block", [-1, -2])
def test_value_weighted_scores_are_attention_times_length_of_values(block):
    found = encoded(tower(), score="value_weighted", score_layer=block)
    model, seen = tower(attention="eager"), []
    model.encoder.layers[block].self_attn.v_proj.register_forward_hook(
        lambda *call: seen.append(call[-1])
    )
    attention = model(pictures(), output_attentions=True).attentions[block]
    expected = attention[:, :, 0, 1:].sum(dim=1) * seen[0][:, 1:].norm(dim=-1)
    expected = expected / expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found.scores, expected)


def test_value_weighted_scores_need_a_class_token():
    with pytest.raises(ValueError, match="score='value_weighted' needs a class token"):
        encoded(tower("siglip"), score="value_weighted")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_heads_are_counted_and_averaged(kind):
    found = encoded(tower(kind), score="received")
    assert found.heads == 4
    expected = sum(found.keys[..., 8 * head : 8 * head + 8] for head in range(4)) / 4
    torch.testing.assert_close(found.head_mean_keys, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_smaller_pictures_are_what_the_encoder_makes_of_them(kind):
    model = tower(kind)
    found = encoded(model, score="received")
    whole = found.at_grid((4, 4), torch.arange(3))
    torch.testing.assert_close(whole, found.features)
    small = torch.nn.functional.interpolate(
        pictures(), size=(14, 21), mode="bilinear", antialias=True
    )
    hidden = model(small, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    own = found.at_grid((2, 3), torch.tensor([2, 0]))
    torch.testing.assert_close(own, hidden[-2][[2, 0], -6:])


def test_only_the_blocks_before_the_features_run_for_smaller_pictures():
    model, ran = tower(), []
    found = encoded(model)
    for index, block in enumerate(model.encoder.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        assert resolve("small_picture", budget=4)(found).kept == [4, 4, 4]
    assert ran == [0, 1, 2]


def test_nothing_is_encoded_twice_for_methods_that_do_not_ask():
    model = tower()
    found = encoded(model)
    model.embeddings.register_forward_hook(lambda *_: pytest.fail("encoded again"))
    for name in ("tome", "visionzip", "divprune", "ats"):
        assert max(resolve(name, budget=4)(found).kept) <= 4


def test_the_authors_block_is_the_one_that_makes_the_features():
    method = resolve("fastervlm", budget=4)
    with torch.no_grad():
        found = encode(tower(), pictures(), method.settings)
        own = tower(attention="eager")(pictures(), output_attentions=True).attentions[-2]
    torch.testing.assert_close(found.scores, own[:, :, 0, 1:].mean(dim=1))
    assert not torch.allclose(found.scores, encoded(tower()).scores)


def test_feature_methods_run_without_a_class_token():
    names = ("random", "uniform", "down_sampled", "small_picture", "tome", "visionzip")
    for name in (*names, "top_k", "evit", "vispruner", "divprune"):
        method = resolve(name, budget=4, score="received")
        with torch.no_grad():
            assert method(encode(tower("siglip"), pictures(), method.settings)).kept == [4, 4, 4]


def test_class_attention_alone_knows_no_values():
    query, keys = torch.zeros(1, 4), torch.randn(1, 3, 4)
    torch.testing.assert_close(class_attention(query, keys, 2), torch.full((1, 3), 1 / 3))
