"""Timing of pictures in tiles and of clips: stages of a real answer, rows, and the roofline."""

import pandas as pd
import pytest
import torch
from evaluated import save_tiny_of
from families import BUILDERS, TRIED

from prumerge.experiments import timing
from prumerge.experiments.timing.peaks import SIDE
from prumerge.experiments.timing.stages import answering_of
from prumerge.models.random_weights import CLIPS, TILED, build
from prumerge.roofline import read_shape, shown_by, weight_bytes

SHOWN = {"random-next-7b-cut": (5, 2880, 2928), "random-video-7b-cut": (8, 2048, 2056)}


@pytest.fixture(scope="module", params=SHOWN)
def subject(request):
    return timing.load_subject(request.param)


@pytest.mark.parametrize(("method", "budget"), [("full", None), ("prumerge+", 40), ("divprune", 9)])
def test_the_stages_one_after_another_give_the_answer_of_generate(subject, method, budget):
    answering = answering_of(subject, timing.Case(method, budget, batch=2, text_tokens=4))
    made = answering.encode(answering.preprocess())
    state = answering.prefill(answering.method(made) if answering.method else made)
    tiles, tokens, slots = SHOWN[f"random-{subject.name.replace('-random', '')}"]
    assert (subject.shown.tiles, subject.patches, subject.shown.slots) == (tiles, tokens, slots)
    assert state["mask"].shape == (2, 4 + (budget or slots))
    whole = answering.whole(3)
    assert torch.equal(whole[:, answering.input_ids.shape[1] :], answering.decode(state, 3))


TINY = sorted(set(BUILDERS) - {"llava", "video_llava"})


@TRIED
@pytest.mark.parametrize("family", TINY)
def test_every_family_is_timed_as_it_answers(family, tmp_path):
    """Stock and reduced: the stages one after another give the answer of generate."""
    subject = timing.load_subject(save_tiny_of(family, tmp_path))
    for method, budget in (("full", None), ("prumerge+", 8)):
        answering = answering_of(subject, timing.Case(method, budget, batch=2, text_tokens=4))
        pixels = answering.preprocess()
        made = answering.encode(pixels)
        state = answering.prefill(answering.method(made) if answering.method else made)
        assert state["mask"].shape == (2, 4 + (budget or subject.shown.slots))
        assert torch.equal(answering.whole(3)[:, -3:], answering.decode(state, 3))


@TRIED
@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl", "qwen3_vl_moe"])
def test_a_checkpoint_has_a_roofline(family, tmp_path, monkeypatch):
    monkeypatch.setitem(SIDE, "cpu", 64)
    subject = timing.load_subject(save_tiny_of(family, tmp_path))
    grid = timing.Grid(budgets=(subject.patches, 8), batches=(1,), new_tokens=(2,), text_tokens=4,
                       repeats=1, memory=False, warm_ups=0)  # fmt: skip
    beside = timing.beside_roofline(timing.time_grid(subject, grid))
    times = beside.set_index(["method", "stage"])["estimated_ms"]
    assert times["full", "encode"] > times["prumerge+", "encode"] > 0
    assert times["full", "prefill"] > times["prumerge+", "prefill"] > 0


def test_rows_count_what_the_language_model_reads(subject, monkeypatch):
    monkeypatch.setitem(SIDE, "cpu", 64)
    tokens, slots = subject.patches, subject.shown.slots
    grid = timing.Grid(budgets=(tokens, 40), batches=(1,), new_tokens=(1,), text_tokens=4,
                       repeats=1, memory=False, warm_ups=0)  # fmt: skip
    rows = timing.time_grid(subject, grid)
    assert set(rows["budget"]) == {tokens, 40} and set(rows["weights"]) == {"random"}
    assert set(rows["prompt_tokens"]) == {4 + slots, 44}
    beside = timing.beside_roofline(rows).set_index(["method", "stage"])["estimated_ms"]
    assert beside["full", "prefill"] > 10 * beside["prumerge+", "prefill"] > 0
    assert beside["full", "encode"] > beside["prumerge+", "encode"] > 0


def test_tiles_and_frames_cost_on_paper_what_they_are():
    row = {"weights": "random", "layers": 2, "vision_layers": 24, "dtype": "bfloat16"} | {
        "device": "NVIDIA H200", "attention": "sdpa", "method": "prumerge+", "budget": 64,
        "batch": 1, "text_tokens": 40, "pictures": 1, "new_tokens": None, "prompt_tokens": 104,
        "stage": "encode", "median_ms": 10.0,
    }  # fmt: skip
    names = ["7b-random", "next-7b-random", "video-7b-random"]
    both = timing.beside_roofline(pd.DataFrame([row | {"model": name} for name in names]))
    one, five, eight = both["estimated_ms"]
    assert 3 < five / one <= 5  # weights are read once
    assert 2 < eight / one <= 8 * 257 / 577


@pytest.mark.parametrize("name", [*TILED, *CLIPS])
def test_random_weights_have_the_published_shape(name):
    if name.endswith("-cut"):
        return
    model, processor = build(name, device="meta")
    config = model.config
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(
        weight_bytes(config) / 2, rel=1e-5
    )
    assert read_shape(config).language.layers == 32
    shown = shown_by(config, (672, 672)) if name in TILED else shown_by(config, frames=8)
    assert shown.tokens == (2880 if name in TILED else 2048)
    assert processor.image_processor.crop_size["height"] == config.vision_config.image_size


def test_the_command_knows_the_names():
    with pytest.raises(ValueError, match="did you mean 'random-next-7b'"):
        timing.load_subject("random-nxt-7b")
