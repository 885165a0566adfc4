"""Clips and what is asked about them: the truth is that of the pixels."""

from collections import Counter

import numpy as np
import pytest

from prumerge.mini.clip_questions import (
    CLIP_FAMILIES,
    CLIP_PRACTICE,
    ask_clip,
    held_out_clips,
)
from prumerge.mini.clips import FRAMES, GRID, STEPS, draw_clip, still
from prumerge.mini.model import IDS, MORE_WORDS, VIDEO_WORDS, WORDS

OPTIONS = [{"objects": n, "sign": bool(s)} for n in (1, 3, 5) for s in (0, 1)]


def clips(count: int, **options):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield draw_clip(rng, **OPTIONS[seed % len(OPTIONS)], **options), rng


def seen(clip, index: int) -> list[int]:
    """Frames in which a thing has a patch."""
    return np.flatnonzero((clip.owner == index + 1).any(axis=(1, 2))).tolist()


def middle(clip, index: int, frame: int) -> np.ndarray:
    return np.argwhere(clip.owner[frame] == index + 1).mean(axis=0)


def test_a_clip_is_drawn_alike_from_its_seed_and_told_without_drawing():
    one, again = (draw_clip(np.random.default_rng(3)) for _ in range(2))
    told = draw_clip(np.random.default_rng(3), painted=False)
    assert np.array_equal(one.pixels, again.pixels) and told.pixels is None
    assert one.pixels.shape == (FRAMES, GRID * 8, GRID * 8, 3)
    assert told.actors == one.actors and np.array_equal(told.owner, one.owner)


def test_pixels_change_where_a_thing_comes_and_nowhere_else():
    clip = draw_clip(np.random.default_rng(1), objects=4)
    changed = np.abs(np.diff(clip.pixels.astype(int), axis=0)).max(axis=-1)
    changed = changed.reshape(FRAMES - 1, GRID, 8, GRID, 8).max(axis=(2, 4)) > 60
    moved = clip.owner[1:] != clip.owner[:-1]
    ground = (clip.owner[1:] == 0) & ~moved
    assert moved.any() and not (changed & ground).any()
    assert (changed & moved).sum() > 0.5 * moved.sum()


def test_answers_are_what_the_frames_show():
    counted = Counter()
    for clip, rng in clips(120, painted=False):
        by_name = {actor.name: index for index, actor in enumerate(clip.actors)}
        by_colour = {actor.colour: index for index, actor in enumerate(clip.actors)}
        for family in CLIP_FAMILIES | CLIP_PRACTICE:
            asked = ask_clip(clip, family, rng)
            if asked is None:
                continue
            words, said = asked.text.split(), asked.answer
            assert all(word in IDS for word in [*words, *said.split()])
            counted[family, said] += 1
            if family == "motion":
                index = by_name[" ".join(words[4:6])]
                first, last = seen(clip, index)[0], seen(clip, index)[-1]
                step = np.sign(middle(clip, index, last) - middle(clip, index, first))
                assert tuple(step) == STEPS.get(said, (0, 0))
            elif family == "blinks":
                gaps = np.diff(seen(clip, by_name[" ".join(words[4:6])]))
                assert said == str((gaps > 1).sum())
            elif family == "arrivals":
                starts = [seen(clip, index)[0] for index in range(len(clip.actors))]
                assert said == str(sum(start > 0 for start in starts))
            elif family == "order":
                starts = {c: seen(clip, by_colour[c])[0] for c in (words[4], words[6])}
                choose = min if words[2] == "first" else max
                assert said == choose(starts, key=starts.get)
            elif family == "sign":
                assert said.split() == list(clip.sign.number)
                assert clip.sign_frames == tuple(seen(clip, len(clip.actors)))
    for family in CLIP_FAMILIES:
        answers = [n for (asked, _), n in counted.items() if asked == family]
        assert len(answers) > 2 and max(answers) < 0.6 * sum(answers), (family, counted)


def test_held_out_clips_have_every_family_and_digits_of_other_writers():
    items = held_out_clips(2)
    assert Counter(item.question.family for item in items) == dict.fromkeys(CLIP_FAMILIES, 2)
    rng = (np.random.default_rng(4) for _ in range(2))
    known, other = (draw_clip(next(rng), held_out=flag, sign=True) for flag in (False, True))
    assert known.owner.tolist() == other.owner.tolist()
    assert not np.array_equal(known.pixels, other.pixels)


def test_a_still_clip_shows_one_frame_all_the_time():
    clip = still(draw_clip(np.random.default_rng(2), objects=5), 3)
    assert (clip.pixels == clip.pixels[3]).all() and (clip.owner == clip.owner[3]).all()


@pytest.mark.parametrize("words, start", [(WORDS, 0), (MORE_WORDS, 83), (VIDEO_WORDS, 86)])
def test_ids_of_words_stay_where_the_trained_models_have_them(words, start):
    assert [IDS[word] for word in words] == list(range(start, start + len(words)))
