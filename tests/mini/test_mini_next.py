"""A LLaVA-NeXT made of the mini-LLaVA: pictures in tiles, batches, training, and loading."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from prumerge.experiments import mini_next as command
from prumerge.mini import mini_next
from prumerge.mini.batches import NEWLINE, NOTHING
from prumerge.mini.export import export
from prumerge.mini.families import place
from prumerge.mini.features import compute_features
from prumerge.mini.mini_next import (
    MiniNext,
    TiledPictures,
    draw_batch,
    draw_slots,
    encode_tiles,
    schedule,
    slots_of,
    things_in_slots,
)
from prumerge.mini.model import IDS, PAD, Pretraining, Size
from prumerge.mini.questions import held_out
from prumerge.mini.scenes import draw_scene
from prumerge.mini.styles import LARGE, style_of
from prumerge.models import frozen, load
from prumerge.models.asking import answer

SIZE = Size(24, vision_width=16, vision_blocks=2, text_width=16, language_width=16,
            language_blocks=1, heads=2)  # fmt: skip
FRAMES = sorted(set(LARGE.frames))


@pytest.fixture(scope="module")
def mini():
    torch.manual_seed(0)
    return Pretraining(SIZE).llava.eval()


@pytest.fixture(scope="module")
def known(mini, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("features"), MiniNext(mini)
    return compute_features(
        folder, TiledPictures(26, LARGE), mini.model.vision_tower,
        model.processor().image_processor, -2, "a tower of random weights", lambda row: None,
        partial(encode_tiles, model=model.llava.model),
    )  # fmt: skip


def large(frame, seed: int = 0, **options):
    return draw_scene(np.random.default_rng(seed), frame, style=LARGE, **options)


@pytest.mark.parametrize("frame", FRAMES)
def test_slots_are_those_of_the_stock_model(frame, mini):
    model, slots = MiniNext(mini), slots_of(frame, 24)
    processor, shown = model.processor(), Image.fromarray(large(frame).pixels)
    inputs = processor(images=[shown], text="user : <image> what", return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == len(slots)
    tiles = inputs["pixel_values"].shape[1]
    rows = torch.arange(tiles * 576.0, dtype=torch.float64).view(tiles, 576, 1)
    stock, _ = model.llava.model.pack_image_features(
        [rows], inputs["image_sizes"], "default", rows.new_full((1,), -1)
    )
    shown_rows = stock[0][:, 0].long().numpy()
    assert np.array_equal(shown_rows < 0, slots == NEWLINE)
    assert np.array_equal(shown_rows[:576], slots[:576])
    crops = shown_rows[576:].reshape(frame[0], -1)[:, :-1]
    assert len(set(crops.ravel())) == frame[0] * frame[1]  # each patch once, none of the padding


def test_places_in_a_wide_picture_are_told_by_its_own_middle():
    scene = large((24, 72), objects=12, sign=False)
    assert scene.pixels.shape == (192, 576, 3) and scene.owner.shape == (24, 72)
    for thing in scene.things:
        told, (row, column) = place(scene, thing), thing.centre
        if told is not None:
            assert told == f"{'top' if row < 12 else 'bottom'}-{'left' if column < 36 else 'right'}"
    assert {thing.column > 24 for thing in scene.things} == {True, False}


def test_things_are_marked_in_the_base_and_in_the_crops():
    scene = large((48, 24), objects=3, sign=False)
    things = things_in_slots(scene, 24)
    assert np.array_equal(things[576:], scene.owner.ravel() > 0)
    base = things[:576].reshape(24, 24)
    assert np.array_equal(base, scene.owner[1::2] > 0)


def test_newlines_end_the_rows_that_show_a_patch_and_no_others():
    scene, slots = large((36, 48)), slots_of((36, 48), 24)
    for seed in range(6):
        shown = draw_slots(scene, 40, True, 24, np.random.default_rng(seed))
        assert (slots[shown] >= 0).sum() == 40 and (np.diff(shown) > 0).all()
        rows = {(at - 576) // 49 for at in shown if at >= 576}
        ends = {576 + 49 * row + 48 for row in rows}
        assert {at for at in shown.tolist() if slots[at] == NEWLINE} == ends
        bare = draw_slots(scene, 40, False, 24, np.random.default_rng(seed))
        assert np.array_equal(bare, shown[slots[shown] >= 0])
    every = draw_slots(scene, 10_000, True, 24, np.random.default_rng(0))
    assert np.array_equal(every, np.arange(len(slots)))


def test_a_whole_picture_is_shown_as_by_the_stock_model(mini, known):
    model = MiniNext(mini)
    with torch.no_grad():
        model.llava.model.image_newline.normal_()
    recipe = replace(schedule()[0].recipe, pictures=4, tokens=(2880,), text_tokens=48, practice=1)
    batch = draw_batch(recipe, 0, known=known)
    (at,) = [n for n in range(26) if np.allclose(known.values[n][0], batch.features[0, 0])]
    shown = Image.fromarray(known.pictures.scene(at, painted=True).pixels)
    prepared = model.processor().image_processor([shown], return_tensors="pt")
    model.llava.model.vision_tower = mini.model.vision_tower
    with torch.no_grad():
        stock = model.llava.model.get_image_features(**prepared, vision_feature_layer=-2)
        seen = model.shown(batch, batch.features)
    newlines = int((batch.kept[0] == NEWLINE).sum())
    whole = (
        stock.pooler_output[0] if newlines else stock.pooler_output[0][slots_of((48, 48), 24) >= 0]
    )
    torch.testing.assert_close(seen[0], whole, rtol=0, atol=5e-3)


def test_what_fills_up_a_short_picture_is_seen_by_nothing(known):
    recipe = replace(schedule()[0].recipe, pictures=6, tokens=(900,), text_tokens=48)
    batch = next(
        found
        for found in (draw_batch(recipe, seed, known=known) for seed in range(20))
        if (found.kept == NOTHING).any()
    )
    row, column = (batch.kept == NOTHING).nonzero()[0].tolist()
    column += 3  # what stands in front of the picture
    unused = batch.input_ids[row] == IDS[PAD]
    unused[3 : 3 + batch.kept.shape[1]] = batch.kept[row] == NOTHING
    seeing = batch.attention_mask[row, 0, :, column]
    assert unused.sum() < len(unused) - 40 and not seeing[~unused].any()


def test_it_learns_goes_on_where_it_stands_and_loads_as_a_stock_model(mini, tmp_path, monkeypatch):
    quick = {name: 20 for name in mini_next.STEPS}
    monkeypatch.setattr(mini_next, "STEPS", quick)
    monkeypatch.setattr(frozen, "load", lambda name: (mini, None))
    options = {"pictures": 24, "scale": 0.04, "mini": mini}
    first = command.make(tmp_path / "run", **options)
    again = command.make(tmp_path / "run", **options)
    assert first == again and [row["stage"] for row in first] == list(quick)
    model = MiniNext(mini)
    record = {"pictures": 1, "hours": 0.1, "seed": 0, "device": "CPU", "torch": "2", "kept": 24}
    export(model, tmp_path / "made", first, record)
    card = (tmp_path / "made" / "README.md").read_text()
    assert "up to 2,880 visual tokens and 48 newlines" in card
    assert not any("vision_tower" in name for name in model.state_dict())

    llava, processor = load(tmp_path / "made")
    assert type(llava).__name__ == "LlavaNextForConditionalGeneration" and style_of(llava) is LARGE
    for name, parameter in mini.named_parameters():
        assert torch.equal(llava.get_parameter(name), parameter), name
    items = held_out(1, style=LARGE)[:2]
    said = answer(llava, processor, [i.picture for i in items], [i.question.text for i in items], 2)
    assert len(said) == 2


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--scale", "0"], "got 0.0"), (["--pictures", "5"], "got 5")]
)
def test_what_cannot_be_used_is_told_in_a_sentence(arguments, named, tmp_path, capsys):
    assert command.main(["--folder", str(tmp_path), *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("mini_next: ") and named in told and not list(tmp_path.iterdir())
