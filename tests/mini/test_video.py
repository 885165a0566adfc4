"""A Video-LLaVA made of the mini-LLaVA: its tower, its batches, its training, and loading it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from prumerge.experiments import video
from prumerge.mini.batches import Recipe
from prumerge.mini.clip_questions import CLIP_FAMILIES, held_out_clips
from prumerge.mini.clips import FRAMES, GRID
from prumerge.mini.features import Clips, Features
from prumerge.mini.video import STEPS, Filmed, make_clip_batch, schedule
from prumerge.models import load
from prumerge.models.frozen import middle_of
from prumerge.models.videos import load_video, video_prompt

SLOTS = 1 + GRID**2


@pytest.fixture(scope="module")
def mini():
    return load("mini")[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trial of three steps, exported, and what the stages cost in time left out."""
    folder = tmp_path_factory.mktemp("video")
    few = {name: 1 for name in STEPS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prumerge.mini.video.STEPS", few)
        patch.setattr(video, "schedule", lambda *given: schedule(*given)[:1])
        video.make(folder / "run", clips=10, scale=0.01, export_to=folder / "made")
    return folder


def test_the_tower_sees_the_middle_of_its_frame_as_before(mini):
    tower = mini.model.vision_tower
    small = middle_of(tower, GRID * 8)
    frame = torch.rand(1, 3, 192, 192)
    start = (24 - GRID) // 2
    whole = tower.embeddings(frame)[:, 1:].unflatten(1, (24, 24))
    part = small.embeddings(frame[..., start * 8 :, start * 8 :][..., : GRID * 8, : GRID * 8])
    expected = whole[:, start:, start:][:, :GRID, :GRID].flatten(1, 2)
    assert torch.equal(part[:, 1:], expected)
    assert torch.equal(part[:, 0], tower.embeddings(frame)[:, 0])
    assert tower.config.image_size == 192


def test_it_begins_as_the_mini_llava(mini):
    model = Filmed(mini)
    known, words = mini.state_dict(), mini.config.text_config.vocab_size
    for name, weight in model.llava.state_dict().items():
        start = weight[:words] if weight.shape != known[name].shape else weight
        assert torch.equal(start, known[name]), name


def test_a_batch_shows_all_class_tokens_and_as_many_patches_as_drawn():
    values = np.zeros((20, FRAMES * SLOTS, 4), np.float16)
    values += np.arange(FRAMES * SLOTS, dtype=np.float16)[:, None]
    known = Features(Clips(20), values)
    recipe = Recipe(3, GRID, None, 160, 1, (1, 5), tuple(CLIP_FAMILIES), (64,))
    one, again = (make_clip_batch(recipe, 0, 5, known=known) for _ in range(2))
    assert torch.equal(one.input_ids, again.input_ids) and torch.equal(one.kept, again.kept)
    assert one.kept.shape == (3, 64 + FRAMES)
    assert (one.kept.diff(dim=1) > 0).all()
    classes = (one.kept % SLOTS == 0).sum(dim=1)
    assert classes.tolist() == [FRAMES] * 3
    assert one.features.shape == (3, FRAMES * SLOTS, 4)


def test_a_stage_learns_from_its_own_clips_alone():
    first, *_, last = schedule(1.0, clips=40)
    assert (first.recipe.among, last.recipe.among) == ((0, 9), (10, 39))
    values = np.zeros((40, FRAMES * SLOTS, 1), np.float16)
    values += np.arange(40, dtype=np.float16)[:, None, None]
    known = Features(Clips(40), values)
    for stage, own in ((first, range(10)), (last, range(10, 40))):
        batch = make_clip_batch(stage.recipe, 0, 1, known=known)
        assert set(batch.features[:, 0, 0].tolist()) <= set(own)


def test_a_trial_loads_into_the_stock_class_and_answers(made):
    record = json.loads((made / "made" / "training.json").read_text())
    assert record["kept"] == 10 and record["tower"].startswith("mini ")
    assert "2,048" not in (made / "made" / "README.md").read_text()
    assert sum(f.stat().st_size for f in (made / "made").iterdir()) < 10e6
    model, processor = load_video(made / "made")
    assert type(model).__name__ == "VideoLlavaForConditionalGeneration"
    clip = held_out_clips(1)[0]
    frames = [Image.fromarray(frame) for frame in clip.clip.pixels]
    inputs = processor(video_prompt(processor, clip.question.text), [frames])
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == FRAMES * SLOTS
    with torch.no_grad():
        features = model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output
        output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert features.shape == (FRAMES, SLOTS, 128)
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_what_cannot_be_used_is_told_in_a_sentence(tmp_path, capsys):
    assert video.main(["--folder", str(tmp_path), "--clips", "5"]) == 1
    assert video.main(["--folder", str(tmp_path), "--scale", "0"]) == 1
    assert "got 5" in (told := capsys.readouterr().err) and "got 0.0" in told
    assert not list(tmp_path.iterdir())


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    from prumerge.models import loading

    monkeypatch.setitem(loading.EMBEDDED, "mini-video", tmp_path)
    with pytest.raises(ValueError, match=r"mini-video is not in .*experiments\.video"):
        load_video()
    with pytest.raises(ValueError, match="model_type 'llava'"):
        load_video("mini")
