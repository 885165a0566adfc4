"""Slots, canvases and budgets: by hand, against the stock processors, and what they cost."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from families import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaNextConfig,
    LlavaNextProcessor,
)
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

import prumerge
from prumerge.encoder import Encoded
from prumerge.models.budgets import budgets_of, joint, shares
from prumerge.models.canvases import markers_sent, reduce_packed
from prumerge.models.families.llava_next import maps_of, tiles_of, visuals_of
from prumerge.models.slots import Packed, visual_of
from prumerge.settings import Settings

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


class Core(torch.nn.Module):
    """The stock model's packing at its usual geometry, without weights."""

    config = LlavaNextConfig(image_grid_pinpoints=PINPOINTS)
    pack_image_features = LlavaNextModel.pack_image_features


def next_visuals(*sizes):
    shapes = [list(size) for size in sizes]
    return visuals_of(Core(), shapes, tiles_of(Core(), shapes), (24, 24))


def packed(visuals, tiles, width=32, seed=0, side=24):
    """What an encoder might say about as many tiles."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, tiles, side * side, width, generator=generator)
    scores = torch.rand(tiles, side * side, generator=generator).pow(8)
    encoded = Encoded(draw[0], draw[1], scores / scores.sum(1, keepdim=True), (side, side))
    return Packed((encoded,), visuals, lambda features: features)


def frames(count, side=24, markers=True):
    rows = torch.arange(count * side * side).view(count, -1)
    opened = torch.cat([-1 - torch.arange(count)[:, None], rows], dim=1)
    source = (opened if markers else rows).flatten()
    return (visual_of(source, [(side, side)] * count, opens=markers),)


PIXELS = st.tuples(st.integers(30, 3000), st.integers(30, 3000))


@settings(deadline=None, max_examples=50)
@given(st.lists(PIXELS, min_size=20, max_size=20))
def test_slots_are_as_many_as_the_processor_counts(sizes):
    """A thousand sizes in all; the canvases of the first of each twenty."""
    stock = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=PINPOINTS),
        patch_size=14,
        num_additional_image_tokens=0,
    )
    stock._get_unpadded_features = lambda *args: LlavaNextProcessor._get_unpadded_features(
        stock, *args
    )
    maps = maps_of(Core(), list(map(list, sizes)), tiles_of(Core(), list(map(list, sizes))), 576)
    for source, size in zip(maps, sizes, strict=True):
        assert len(source) == LlavaNextProcessor._get_number_of_features(stock, *size, 336, 336)
    (visual,) = next_visuals(sizes[0])
    assert torch.equal(visual.source, maps[0])
    slots = torch.cat([canvas.slots for canvas in visual.canvases])
    assert torch.equal(slots.sort().values, (visual.source >= 0).nonzero()[:, 0])
    assert all(own.grid[0] * own.grid[1] == len(own.rows) for own in visual.canvases)
    boxes = [own.box for own in visual.canvases[1:]]
    area = sum((low - top) * (right - left) for top, low, left, right in boxes)
    tiled = len(visual.canvases) > 1  # a strip is less than a row of patches high, and not shown
    assert visual.canvases[0].grid == (24, 24) and area == pytest.approx(int(tiled))


def test_five_tiles_are_2928_slots_of_which_48_are_newlines():
    (visual,) = next_visuals((672, 672))
    assert len(visual.source) == 2928 and int((visual.source < 0).sum()) == 48
    assert visual.sizes == [576] * 5
    assert [own.box for own in visual.canvases[1:3]] == [(0, 0.5, 0, 0.5), (0, 0.5, 0.5, 1)]


@pytest.mark.parametrize(
    ("budget", "sizes", "weights", "expected"),
    [
        (640, [576] * 5, [1.0] * 5, [128] * 5),
        (11, [16] * 3, [1.0] * 3, [4, 4, 3]),
        (9, [16, 16, 16], [98.0, 1.0, 1.0], [7, 1, 1]),
        (20, [8, 16, 16], [98.0, 1.0, 1.0], [8, 6, 6]),
        (6, [4, 4], [1.0, 0.0], [4, 2]),
        (48, [16] * 3, [1.0, 2.0, 3.0], [16] * 3),
    ],
)
def test_shares_meet_the_budget_within_one_token_and_the_size(budget, sizes, weights, expected):
    assert shares(budget, sizes, weights) == expected


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 9)), min_size=1, max_size=9), st.data())
def test_shares_always_add_up(tiles, data):
    sizes, weights = zip(*tiles, strict=True)
    budget = data.draw(st.integers(len(sizes), sum(sizes)))
    given = shares(budget, sizes, weights)
    assert sum(given) == budget
    assert all(1 <= own <= size for own, size in zip(given, sizes, strict=True))


def test_joint_counts_the_best_of_all():
    assert joint(3, [torch.tensor([0.1, 0.9]), torch.tensor([0.5, 0.8, 0.0])]) == [1, 2]


def test_tiles_get_as_the_whole_picture_attends_to_their_part():
    (visual,) = next_visuals((672, 672))
    look = torch.zeros(24, 24)
    look[:12, 12:], look[12:, 12:] = 3.0, 1.0  # the upper right tile, and the lower right one
    scores = [look.flatten() / look.sum(), *torch.rand(4, 576)]
    chosen = Settings(budget=500, share="base")
    assert budgets_of(visual, scores, chosen) == [100, 1, 299, 1, 99]
    halved = budgets_of(visual, scores, chosen.with_changes(base_share=0.5))
    assert halved == [250, 1, 186, 1, 62]
    nothing = budgets_of(visual, scores, Settings(budget=400, base_share=0.0))
    assert nothing == [0, 100, 100, 100, 100]


@pytest.mark.parametrize(
    ("visuals", "changes", "message"),
    [
        (next_visuals((672, 672)), {"budget": 4}, "4 tokens for 5 tiles .* budget=5 or more"),
        (frames(8), {"budget": 7}, "7 tokens for 8 tiles or frames"),
        (frames(8), {"budget": 64, "share": "base"}, "share='base' needs the whole picture"),
        (
            next_visuals((672, 672)),
            {"budget": 50, "markers": "all"},
            "markers='all' sends newlines.*order='attention' has none",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(visuals, changes, message):
    tiles = len(visuals[0].canvases)
    with pytest.raises(ValueError, match=message):
        reduce_packed(packed(visuals, tiles), prumerge.resolve("prumerge", **changes))


def test_a_joint_budget_may_leave_a_frame_out():
    made = packed(frames(8), 8)
    made.parts[0].scores[3:] *= 1e-6
    found = reduce_packed(made, prumerge.resolve("top_k", budget=6, share="joint"))
    assert found.kept == [6] and found.kept_by_tile[0][3:] == [0] * 5
    assert found.markers[0].tolist() == [577 * t for t in range(3) if found.kept_by_tile[0][t]]


def test_newlines_stay_with_their_rows():
    """A whole picture of 2 x 2 patches, and one tile of 2 x 2 with a newline behind each row."""
    visual = visual_of(torch.tensor([0, 1, 2, 3, 4, 5, -1, 6, 7, -1]), [(2, 2)] * 2, stitched=True)

    def sent(places, **changes):
        chosen = Settings(order="raster").with_changes(**changes)
        return markers_sent(visual, torch.tensor(places), chosen).tolist()

    assert sent([0, 3]) == [] and sent([0, 5]) == [6] and sent([7]) == [9]
    assert sent([4, 8]) == [6, 9] and sent([8], markers="all") == [6, 9]
    assert sent([4, 8], markers="none") == [] and sent([4, 8], order="attention") == []


def test_class_tokens_stay_with_their_frames():
    (visual,) = frames(3, side=2)
    assert markers_sent(visual, torch.tensor([1, 14]), Settings()).tolist() == [0, 10]


@pytest.mark.parametrize("method", ["prumerge+", "visionzip"])
@pytest.mark.parametrize(
    "changes", [{}, {"share": "joint"}, {"share": "base"}, {"merging": "across"}]
)
def test_padding_is_neither_chosen_nor_merged(method, changes):
    """Patches that no slot shows hold NaN, which would spread to every token they are merged in."""
    if changes.get("merging") and method != "prumerge+":
        changes = {"share": "size"}
    visuals = next_visuals((300, 700), (700, 250))
    tiles = sum(len(visual.canvases) for visual in visuals)
    made = packed(visuals, tiles)
    shown = torch.cat([visual.source for visual in visuals])
    hidden = torch.ones(tiles * 576, dtype=torch.bool)
    hidden[shown[shown >= 0]] = False
    assert int(hidden.sum()) > 300
    part = dataclasses.replace(made.parts[0], class_feature=torch.randn(tiles, 32))
    for values in (part.features, part.keys, part.scores):
        values.flatten(0, 1)[hidden] = torch.nan
    made = dataclasses.replace(made, parts=(part,))
    for budget in (None, 120):
        found = reduce_packed(made, prumerge.resolve(method, budget=budget, **changes))
        assert all(bool(torch.isfinite(tokens).all()) for tokens in found.tokens)


def test_merging_across_reaches_other_frames():
    made = packed(frames(2, markers=False), 2)
    features = torch.zeros(2, 576, 32)
    features[1] = 1
    part = dataclasses.replace(made.parts[0], features=features)
    made = dataclasses.replace(made, parts=(part,))
    settings = {"budget": 8, "own_term": "attention", "normalise_weights": True}
    own = reduce_packed(made, prumerge.resolve("prumerge", extra_token=False, **settings))
    assert own.tokens[0].round(decimals=4).unique().tolist() == [0, 1]
    found = reduce_packed(made, prumerge.resolve("prumerge", merging="across", **settings))
    assert found.kept == [8] and 0.3 < float(found.tokens[0].mean()) < 0.7
    with pytest.raises(ValueError, match="'tome' merges by itself"):
        reduce_packed(made, prumerge.resolve("tome", budget=8, neighbours=2, merging="across"))


class Largest(TorchDispatchMode):
    """The most numbers that any one array holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


@pytest.mark.parametrize("merging", ["within", "across"])
@pytest.mark.parametrize("shown", ["tiles", "frames"])
def test_reduction_is_small_beside_the_encoder(shown, merging):
    """Counted, not timed: CLIP ViT-L/14 at 336 pixels, 640 of 2,880 tokens and 512 of 4,608."""
    visuals, tiles = (next_visuals((672, 672)), 5) if shown == "tiles" else (frames(8), 8)
    made = packed(visuals, tiles, width=1024)
    budget = 640 if shown == "tiles" else 512
    method = prumerge.resolve("prumerge+", budget=budget, merging=merging)
    with FlopCounterMode(display=False) as reducing, Largest() as largest:
        assert reduce_packed(made, method).kept == [budget]
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    with torch.device("meta"):
        tower = CLIPVisionModel(
            CLIPVisionConfig(num_attention_heads=16, image_size=336, patch_size=14, **shape)
        )
        with FlopCounterMode(display=False) as encoding:
            tower(torch.zeros(tiles, 3, 336, 336))
    assert reducing.get_total_flops() < 0.01 * encoding.get_total_flops()
    patches = tiles * 576
    assert largest.numbers <= max(budget, 1024) * patches < patches**2


@pytest.mark.parametrize(
    ("family", "edit", "message"),
    [
        ("llava_next", lambda given: given | {"image_sizes": None}, "image_sizes is missing"),
        (
            "llava_next",
            lambda given: given | {"pixel_values": given["pixel_values"][:, :2]},
            "ask for .* tiles and pixel_values hold 2",
        ),
        (
            "llava_next",
            lambda given: given | {"image_sizes": given["image_sizes"][:1]},
            "hold 3 pictures and image_sizes 1",
        ),
        (
            "video_llava",
            lambda given: given | {"pixel_values_videos": given["pixel_values_videos"][:, :0]},
            "with a frame at least",
        ),
        (
            "video_llava",
            lambda given: given | {"pixel_values_videos": list(given["pixel_values_videos"])},
            "must be a tensor, got list.*unequal numbers of frames",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(family, edit, message):
    made = toy(family)
    with prumerge.attach(made.model), pytest.raises(ValueError, match=message):
        made.model(**edit(made.inputs(0, 1)))


def test_an_encoded_picture_in_tiles_can_be_handed_in_again():
    made = toy("llava_next")
    given, model = made.inputs(0), made.model
    with torch.no_grad(), prumerge.attach(model, "prumerge", budget=0.3) as reducer:
        expected = model(**given).logits
        seen = reducer.encode(given["pixel_values"], image_sizes=given["image_sizes"])
        assert torch.equal(model(**given | {"pixel_values": seen}).logits, expected)
    assert reducer.kept == [round(0.3 * sum(seen.visuals[0].sizes))]
