"""What rivals ask of the encoder is the encoder's own: values, heads, smaller pictures."""

import dataclasses
import functools

import pytest
import torch
from test_scores import encoded, pictures, tower

from prumerge import Encoded, Settings, encode, resolve
from prumerge.rivals.hiprune import MIDDLE, middle_scores
from prumerge.rivals.tome import attend, merge_in_blocks, merges_per_block
from prumerge.scores import class_attention
from prumerge.tower import open_tower


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
    for name in ("tome", "visionzip", "divprune", "ats", "scope", "holov", "dpp"):
        assert max(resolve(name, budget=4)(found).kept) <= 4


def test_the_authors_block_is_the_one_that_makes_the_features():
    method = resolve("fastervlm", budget=4)
    with torch.no_grad():
        found = encode(tower(), pictures(), method.settings)
        own = tower(attention="eager")(pictures(), output_attentions=True).attentions[-2]
    torch.testing.assert_close(found.scores, own[:, :, 0, 1:].mean(dim=1))
    assert not torch.allclose(found.scores, encoded(tower()).scores)


def test_feature_methods_run_without_a_class_token():
    names = ("random", "uniform", "down_sampled", "small_picture", "tome", "visionzip", "dpp")
    names += ("scope", "holov", "hiprune", "tome_in_encoder")
    for name in (*names, "top_k", "evit", "vispruner", "divprune"):
        method = resolve(name, budget=4, score="received")
        with torch.no_grad():
            assert method(encode(tower("siglip"), pictures(), method.settings)).kept == [4, 4, 4]


# ToMe in the encoder


def one_round(rows, pairs):
    """Merge pairs of tokens, given as (hidden, key, patches): what is left of even, then odd."""
    even, odd = rows[0::2], [list(row) for row in rows[1::2]]
    edges = []
    for place, (_, key, _) in enumerate(even[1:], start=1):  # the class token stays
        alike = [float(torch.cosine_similarity(key, other, dim=0)) for _, other, _ in odd]
        edges.append((max(alike), place, alike.index(max(alike))))
    chosen = sorted(edges, key=lambda edge: -edge[0])[:pairs]
    for _, place, into in chosen:
        for part in (0, 1):
            sums = [row[part] * len(row[2]) for row in (even[place], odd[into])]
            odd[into][part] = sum(sums) / (len(even[place][2]) + len(odd[into][2]))
        odd[into][2] = odd[into][2] + even[place][2]
    gone = {place for _, place, _ in chosen}
    return [row for place, row in enumerate(even) if place not in gone] + [tuple(r) for r in odd]


def merge_by_loops(model, pixel_values, merges, most):
    """The published rule for one picture: tokens and the places in each."""
    sequence = model.pre_layrnorm(model.embeddings(pixel_values))[0]
    inside = [[place] for place in range(len(sequence))]
    for block, left in zip(model.encoder.layers, merges, strict=False):
        normed, attention = block.layer_norm1(sequence), block.self_attn
        sizes = torch.tensor([float(len(group)) for group in inside])
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        heads, mean = [], 0
        for query, key, value in zip(*(p(normed).chunk(4, -1) for p in projections), strict=True):
            logits = query @ key.T / key.shape[1] ** 0.5 + sizes.log()
            heads.append(logits.softmax(dim=-1) @ value)
            mean = mean + key / 4
        sequence = sequence + attention.out_proj(torch.cat(heads, dim=-1))
        rows = list(zip(sequence, mean, inside, strict=True))
        while left:
            pairs = min(left, most, (len(rows) - 1) // 2)
            rows, left = one_round(rows, pairs), left - pairs
        sequence, inside = torch.stack([row[0] for row in rows]), [row[2] for row in rows]
        sequence = sequence + block.mlp(block.layer_norm2(sequence))
    return sequence, inside


@torch.no_grad()
@pytest.mark.parametrize("most", [None, 2])
@pytest.mark.parametrize("count", [14, 9, 5, 2, 1])
def test_tome_in_the_encoder_is_the_published_rule(count, most):
    model = tower()
    run = functools.partial(merge_in_blocks, count, most)
    features, owner = encoded(model).rerun(run, torch.tensor([2, 0]))
    for row, picture in enumerate((2, 0)):
        tokens, inside = merge_by_loops(
            model,
            pictures()[picture : picture + 1],
            merges_per_block(16 - count, 3),
            16 if most is None else most,
        )
        assert inside[0] == [0]  # the class token stays alone, and in front
        assert len(inside) == count + 1
        for token, group in zip(tokens[1:], inside[1:], strict=True):
            patches = [place - 1 for place in group]
            torch.testing.assert_close(features[row, patches], token.expand(len(group), -1))
            assert owner[row, patches].tolist() == [patches[0]] * len(group)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_nothing_merged_in_the_encoder_is_the_stock_encoder(kind):
    found = encoded(tower(kind), score="received")
    features, owner = found.rerun(functools.partial(merge_in_blocks, 16, None), torch.arange(3))
    torch.testing.assert_close(features, found.features)
    assert torch.equal(owner, torch.arange(16).expand(3, -1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_token_of_two_equal_patches_weighs_as_both_did(name):
    """Proportional attention: merging equal tokens changes nothing for the others."""
    model = tower(name)
    block, hidden = model.encoder.layers[0], torch.randn(1, 5, 32)
    twice = torch.cat([hidden, hidden[:, -1:]], dim=1)
    both, _ = attend(open_tower(model), block, twice, torch.ones(1, 6))
    once, _ = attend(open_tower(model), block, hidden, torch.tensor([[1.0, 1.0, 1.0, 1.0, 2.0]]))
    torch.testing.assert_close(once, both[:, :5])


def test_merges_are_spread_evenly():
    assert sum(merges_per_block(576 - 64, 23)) == 512
    assert set(merges_per_block(576 - 64, 23)) == {22, 23}
    assert merges_per_block(0, 23) == [0] * 23
    assert merges_per_block(2, 3) == [1, 1, 0]


def test_features_before_the_first_block_cannot_be_merged_on_the_way():
    found = encoded(tower(), feature_layer=0)
    with pytest.raises(ValueError, match=r"feature layer 0 has none: use tome"):
        resolve("tome_in_encoder", budget=4)(found)


def test_tome_in_the_encoder_needs_the_pictures():
    found = dataclasses.replace(encoded(tower()), rerun=None)
    for name in ("tome_in_encoder", "enlarged_picture"):
        with pytest.raises(ValueError, match=rf"{name} encodes the pictures again.*make it with"):
            resolve(name, budget=4)(found)


# The picture made smaller and enlarged


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_enlarged_pictures_are_what_the_encoder_makes_of_them(kind):
    model = tower(kind)
    sent = resolve("enlarged_picture", budget=7)(encoded(model, score="received"))
    resize = torch.nn.functional.interpolate
    small = resize(pictures(), size=(14, 21), mode="bilinear", antialias=True)
    large = resize(small, size=(28, 28), mode="bilinear")
    hidden = model(large, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(torch.stack(sent.tokens), hidden[:, int(kind == "clip") :])
    assert all(places.tolist() == list(range(16)) for places in sent.positions)


def test_a_picture_that_needs_no_more_pixels_is_not_harmed_by_enlarging():
    """Of one colour, it stays what it is."""
    plain = torch.ones(2, 3, 28, 28) * torch.tensor([0.3, -0.7])[:, None, None, None]
    found = encoded(tower(), plain)
    sent = resolve("enlarged_picture", budget=4)(found)
    torch.testing.assert_close(torch.stack(sent.tokens), found.features)


# What the encoder says, cut and repeated


@torch.no_grad()
def test_picked_pictures_are_the_same_when_they_are_encoded_again():
    found = encoded(tower())
    found = dataclasses.replace(found, relevance=torch.rand(3, 16))
    picked = found.at(torch.tensor([2, 0, 2]))
    for name in ("features", "keys", "scores", "class_feature", "relevance"):
        assert torch.equal(getattr(picked, name), getattr(found, name)[[2, 0, 2]])
    again = picked.rerun(lambda tower, pixels, layer: pixels, torch.tensor([1, 2]))
    assert torch.equal(again, pictures()[[0, 2]])
    small = picked.at_grid((2, 2), torch.tensor([1]))
    assert torch.equal(small, found.at_grid((2, 2), torch.tensor([0])))
    bare = Encoded(found.features, found.keys, found.scores, found.grid)
    assert bare.at(torch.tensor([1])).rerun is None


def test_the_middle_block_is_the_ninth_of_24():
    with torch.no_grad():
        found = encoded(tower(), score="received")
        score = functools.partial(middle_scores, Settings(score="received"), (4, 4))
        own = tower(attention="eager")(pictures(), output_attentions=True).attentions[1]
    middle = found.rerun(score, torch.arange(3))  # the second of 4 here
    torch.testing.assert_close(middle, own[:, :, 1:, 1:].mean(dim=(1, 2)))
    assert [max(1, round(MIDDLE * blocks)) for blocks in (24, 6, 4, 1)] == [9, 2, 2, 1]


def test_class_attention_alone_knows_no_values():
    query, keys = torch.zeros(1, 4), torch.randn(1, 3, 4)
    torch.testing.assert_close(class_attention(query, keys, 2), torch.full((1, 3), 1 / 3))
