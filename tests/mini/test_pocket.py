"""A model behind a frozen tower: pictures it learns from, their features, training, and loading."""

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_tower import GRID, PLAINER, SIZE, draw_few_digits, small_tower

from prumerge.experiments.rows import provenance
from prumerge.mini import features as features_module
from prumerge.mini import grounds
from prumerge.mini.batches import Recipe, make_batch
from prumerge.mini.export import export, training_record
from prumerge.mini.features import VALUES, Features, Pictures, compute_features
from prumerge.mini.model import IDS, WORDS
from prumerge.mini.photographs import Photograph
from prumerge.mini.pocket import TELL, Behind, schedule
from prumerge.mini.questions import FAMILIES, ask_many, held_out
from prumerge.mini.scenes import draw_scene
from prumerge.mini.styles import PICTURED, style_of
from prumerge.mini.training import PRACTISE, Stage, train
from prumerge.models import frozen, load
from prumerge.models.asking import answer
from prumerge.models.frozen import fitted

PICTURES = Pictures(26, PLAINER, GRID)


@pytest.fixture(scope="module")
def tower():
    draw_few_digits()
    return small_tower()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 8)


def compute(tower, folder, pictures=PICTURES, report=lambda row: None) -> Features:
    shown = fitted(tower.tower, GRID * 14)
    return compute_features(
        folder, pictures, shown, tower.processor, SIZE.feature_layer, tower.origin, report
    )


@pytest.fixture(scope="module")
def known(tower, tmp_path_factory) -> Features:
    return compute(tower, tmp_path_factory.mktemp("features"))


class PulledPlug(Exception):
    pass


def pictured(seed: int = 0, **options):
    return draw_scene(np.random.default_rng(seed), held_out=True, style=PICTURED, **options)


def test_a_scene_on_a_photograph_is_drawn_alike_from_its_seed_and_told_without_drawing():
    one, again, told = pictured(3), pictured(3), pictured(3, painted=False)
    assert np.array_equal(one.pixels, again.pixels)
    assert not np.array_equal(one.pixels, pictured(4).pixels)
    assert told.pixels is None
    assert (told.things, told.sign) == (one.things, one.sign)
    assert np.array_equal(told.owner, one.owner)


def test_things_have_their_colour_wherever_they_lie():
    seen = 0
    for seed in range(8):
        scene = pictured(seed, objects=8)
        assert scene.pixels.shape == (336, 336, 3)
        for thing in scene.things:
            if thing.kind in ("circle", "square", "cross"):  # not hollow in the middle
                row, column = (int(14 * middle) for middle in thing.centre)
                middle = scene.pixels[row - 4 : row + 4, column - 4 : column + 4]
                colour = np.array(PICTURED.colours[thing.colour])
                assert np.abs(middle.mean(axis=(0, 1)) - colour).max() < 30, (seed, thing)
                seen += 1
    assert seen > 6


@pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image has those of training")
def test_grounds_of_training_and_test_are_other_photographs():
    trained, held = (grounds.photographs(flag) for flag in (False, True))
    assert (len(trained), len(held)) == (13, 3)
    held_bytes = {picture.tobytes() for picture in held}
    assert not any(picture.tobytes() in held_bytes for picture in trained)


def test_a_missing_photograph_is_named(monkeypatch):
    gone = Photograph("tree", "no_such_package", "tree.png", "CC0")
    monkeypatch.setattr(grounds, "PHOTOGRAPHS", (*grounds.PHOTOGRAPHS, gone))
    grounds.photographs.cache_clear()
    with pytest.raises(ValueError, match=r"lack .*tree: pip install"):
        grounds.photographs(False)
    grounds.photographs.cache_clear()


def test_answers_about_scenes_with_more_colours_are_right():
    colours = Counter()
    for item in held_out(3, style=PICTURED):
        things, words = item.scene.things, item.question.text.split()
        said, family = item.question.answer, item.question.family
        if family == "existence":
            name = " ".join(words[3:5])
            assert said == ("yes" if any(t.name == name for t in things) else "no")
        elif family == "colour":
            assert [t.colour for t in things if t.kind == words[4]] == [said]
            colours[said] += 1
        elif family == "count":
            assert int(said) == sum(words[2] in (t.colour, t.kind) for t in things)
        elif family == "read":
            assert said.split() == list(item.scene.sign.number)
    asked = {word for seed in range(30) for q in ask_many(pictured(seed, painted=False), 9,
             np.random.default_rng(seed)) for word in q.text.split()}  # fmt: skip
    assert set(PICTURED.colours) <= asked | set(colours)
    assert asked <= set(IDS)


def test_pictures_of_a_kind_are_found_by_number():
    for number in PICTURES.like((2, 3), True):
        scene = PICTURES.scene(int(number))
        assert 2 <= 1 + number % 6 <= 3 and scene.sign is not None
        assert len(scene.things) <= 3
    with pytest.raises(ValueError, match="none of 5 pictures"):
        replace(PICTURES, count=5).like((1, 6), True)


def test_features_on_disk_are_the_towers(tower, known):
    assert known.values.shape == (26, GRID * GRID, 32)
    shown = [Image.fromarray(PICTURES.scene(n, painted=True).pixels) for n in (25, 3)]
    pixels = tower.processor(shown, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        stock = tower.tower(pixels, output_hidden_states=True).hidden_states[SIZE.feature_layer]
    read = known.read(np.array([25, 3]))
    torch.testing.assert_close(read, stock[:, 1:], rtol=1e-3, atol=1e-4)


def test_a_killed_feature_run_ends_like_an_undisturbed_one(tower, known, tmp_path):
    def pull_plug(row: dict) -> None:
        if row["pictures"] == 16:
            raise PulledPlug

    with pytest.raises(PulledPlug):
        compute(tower, tmp_path, report=pull_plug)
    with open(tmp_path / VALUES, "ab") as file:
        file.write(b"half of a picture")
    rows = []
    again = compute(tower, tmp_path, report=rows.append)
    assert [row["pictures"] for row in rows] == [24, 26]  # what was there is not made again
    assert np.array_equal(again.values, known.values)
    assert compute(tower, tmp_path, report=pull_plug).values.shape == known.values.shape


@pytest.mark.parametrize(
    ("other", "named"),
    [({"seed": 1}, "seed 0, not 1"), ({"tower": "another"}, "tower 'a tower of random weights'")],
)
def test_features_of_other_pictures_or_another_tower_are_refused(other, named, tower, tmp_path):
    pictures = replace(PICTURES, count=2)
    compute(tower, tmp_path, pictures)
    seen = tower._replace(origin=other.pop("tower", tower.origin))
    with pytest.raises(ValueError, match=named):
        compute(seen, tmp_path, replace(pictures, **other))


def test_a_full_disk_and_a_second_run_are_told(tower, tmp_path, monkeypatch):
    few = replace(PICTURES, count=2)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(ValueError, match=r"its disk has 0\.0"):
            compute(tower, tmp_path / "full", few)

    def second(row: dict) -> None:
        with pytest.raises(ValueError, match="another run writes"):
            compute(tower, tmp_path / "twice", few)

    compute(tower, tmp_path / "twice", few, report=second)


RECIPE = Recipe(4, GRID, None, 96, 1, (1, 3), practice=2)
STAGES = [
    Stage("name", 4, replace(RECIPE, text_tokens=8), TELL, 3e-3, 1e-3, warmup=1),
    Stage("talk", 5, replace(RECIPE, tokens=(20, 144)), (*PRACTISE, *TELL), 3e-3, 1e-3, warmup=1),
]


def behind(tower, seed: int = 0) -> Behind:
    torch.manual_seed(seed)
    prepared = tower.processor
    return Behind(tower.tower.config, SIZE, prepared.image_mean, prepared.image_std)


def test_batches_bring_the_features_of_the_pictures_they_ask_about(known):
    batch = make_batch(RECIPE, 0, 1, known=known)
    assert batch.pixel_values is None
    for row in range(4):
        found = np.flatnonzero((known.values.astype(np.float32) == batch.features[row].numpy())
                               .all(axis=(1, 2)))  # fmt: skip
        scene = PICTURES.scene(int(found[0]))
        assert len(scene.things) <= 3
        assert ((batch.kinds[row].numpy() > 0) == (scene.owner.ravel() > 0)).all()


def test_the_projector_begins_with_standard_features(tower):
    model, features = behind(tower), torch.randn(3, 144, 32) * 40 + 7
    first = model.llava.model.multi_modal_projector.linear_1
    standard = (features - features.mean(dim=(0, 1))) / features.flatten(0, 1).std(dim=0)
    wanted = first(standard)
    model.standardise(features)
    torch.testing.assert_close(first(features), wanted, rtol=1e-3, atol=1e-3)


def test_a_projector_and_language_model_learn_behind_a_frozen_tower(tower, known, tmp_path):
    model, rows = behind(tower), []
    naming = replace(STAGES[0], steps=60, peak_rate=1e-2)
    talking = replace(STAGES[1], steps=40, peak_rate=1e-2)
    train(model, [naming, talking], tmp_path, report_every=1, report=rows.append, known=known)
    for stage, part in (("name", "naming"), ("talk", "answer")):
        values = [row[part] for row in rows if row["stage"] == stage]
        assert np.mean(values[-8:]) < 0.85 * np.mean(values[:8]), (part, values)


def test_an_interrupted_training_behind_a_tower_ends_like_an_undisturbed_one(
    tower, known, tmp_path
):
    whole, resumed = behind(tower), behind(tower, seed=1)
    quiet = {"report": lambda row: None, "known": known}
    train(whole, STAGES, tmp_path / "whole", **quiet)

    def pull_plug(row: dict) -> None:
        if (row["stage"], row["step"]) == ("talk", 3):
            raise PulledPlug

    often = {"save_every": 2, "report_every": 1, "known": known}
    with pytest.raises(PulledPlug):
        train(behind(tower), STAGES, tmp_path / "cut", report=pull_plug, **often)
    train(resumed, STAGES, tmp_path / "cut", report=lambda row: None, **often)
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


def test_an_export_without_its_tower_loads_as_a_whole_stock_model(
    tower, known, tmp_path, monkeypatch
):
    model = behind(tower)
    curve = train(
        model, STAGES, tmp_path / "run", report_every=1, report=lambda row: None, known=known
    )
    origin = provenance() | {"tower": tower.origin, "kept": 26}
    export(model, tmp_path / "made", curve, training_record(STAGES, curve, 0, origin))
    card = (tmp_path / "made" / "README.md").read_text()
    assert "26 pictures, 36 looks" in card and tower.origin in card

    asked = {}
    monkeypatch.setattr(
        frozen, "load_tower", lambda name, **options: asked.update({name: options}) or tower
    )
    llava, processor = load(tmp_path / "made")
    assert asked == {"dinov2-small": {"origin": "package"}}
    assert type(llava).__name__ == "LlavaForConditionalGeneration"
    assert style_of(llava) is PICTURED
    for name, parameter in model.llava.named_parameters():
        assert torch.equal(llava.get_parameter(name), parameter), name
    shown = Image.fromarray(PICTURES.scene(5, painted=True).pixels)
    pixels = processor.image_processor(shown, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = llava.model.get_image_features(pixels).pooler_output[0]
        trained_on = model.told(known.read(np.array([5])))[0]
    torch.testing.assert_close(seen, trained_on, rtol=0, atol=2e-3)
    question = ["what colour is the circle ?"]
    assert len(answer(llava, processor, [shown], question, max_new_tokens=2)) == 1


def test_the_schedule_ends_with_incomplete_pictures_and_every_family():
    for grid in (12, 24):
        last = schedule(grid, 0.001)[-1].recipe
        assert set(FAMILIES) <= set(last.families)
        assert min(last.tokens) < grid * grid / 8 and max(last.tokens) == grid * grid
    with pytest.raises(ValueError, match=r"got 0\.0"):
        schedule(scale=0.0)


def test_a_language_model_goes_on_from_another_and_says_the_same_at_first():
    torch.manual_seed(0)
    other = Behind(small_tower().tower.config, SIZE).llava
    other.resize_token_embeddings(len(WORDS))  # it does not know this style's further colours
    deeper = Behind(small_tower().tower.config, replace(SIZE, language_blocks=3))
    deeper.speak_like(other)
    ids = torch.arange(5, 40)[None]
    said, wanted = (llava(input_ids=ids).logits for llava in (deeper.llava, other))
    assert torch.equal(said[..., : len(WORDS)], wanted)
    orange = deeper.llava.model.language_model.embed_tokens.weight[IDS["orange"]]
    red = deeper.llava.model.language_model.embed_tokens.weight[IDS["red"]]
    assert torch.cosine_similarity(orange, red, dim=0) > 0.1
    wider = Behind(small_tower().tower.config, replace(SIZE, language_width=64))
    with pytest.raises(ValueError, match="32 wide cannot begin one that is 64 wide"):
        wider.speak_like(other)


def test_a_stage_may_train_the_projector_alone(known, tmp_path):
    torch.manual_seed(0)
    model = Behind(small_tower().tower.config, SIZE)
    before = {name: value.clone() for name, value in model.llava.state_dict().items()}
    recipe = Recipe(4, GRID, None, 64, 1, (1, 3))
    stage = Stage("align", 2, recipe, ("answer",), 1e-2, 1e-3, 0.0, 1, projector_only=True)
    train(model, [stage], tmp_path, report=lambda row: None, known=known)
    after = model.llava.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}
