"""Every family: the stock model where all is kept, and each prompt alone where less is."""

import io
import threading

import peft
import pytest
import torch
import transformers
from families import BUILDERS, TRIED, toy
from torch.nn.functional import cross_entropy

import prumerge
from prumerge.models.inputs import IGNORED_LABEL

pytestmark = TRIED
FAMILIES = sorted(set(BUILDERS) - {"qwen3_vl_moe"})  # behind its encoder nothing is its own
NEW = 5
# What these show is not the tower's own tiles: parts of them, pooled patches, several layers.
PARTS = [family for family in FAMILIES if family not in ("llava", "video_llava")]
LESS = [
    {"budget": 0.4},
    {"budget": 0.3, "share": "joint", "order": "raster"},
    {"budget": 0.5, "order": "raster", "merging": "across"},
    {"order": "raster", "markers": "all", "positions": "original"},
    {"whisker": 0.5, "positions": "stretched", "markers": "none"},
]


def generate(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)


def labels_of(inputs):
    """Words alone, as usual."""
    return inputs["input_ids"].masked_fill(inputs["input_ids"] < 5, IGNORED_LABEL)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_is_the_stock_model(family, side):
    made = toy(family)
    inputs = made.inputs(side=side)
    labels = labels_of(inputs)
    with torch.no_grad():
        stock = made.model(**inputs, labels=labels)
        with prumerge.attach(made.model, "all", order="raster"):
            ours = made.model(**inputs, labels=labels)
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.loss, stock.loss)


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_generates_as_the_stock_model(family, beams):
    made = toy(family)
    inputs = made.inputs()
    expected = generate(made.model, inputs, num_beams=beams)
    with prumerge.attach(made.model, "all", order="raster"):
        assert torch.equal(generate(made.model, inputs, num_beams=beams), expected)


@pytest.mark.parametrize(
    "settings", LESS, ids=lambda settings: "-".join(map(str, settings.values()))
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_each_prompt_alone(family, settings):
    made = toy(family)
    together = made.inputs()
    with torch.no_grad(), prumerge.attach(made.model, "prumerge+", **settings) as reducer:
        logits, kept = (
            made.model(**together).logits,
            {k: v.kept for k, v in reducer.reductions.items()},
        )
        answers = generate(made.model, together)
        real = reducer.prompts.attention_mask.bool()
        counted = {kind: 0 for kind in kept}
        for row, parts in enumerate(made.rows):
            alone = made.inputs(row)
            own = made.model(**alone).logits[0]
            torch.testing.assert_close(logits[row, real[row]], own, atol=1e-4, rtol=1e-4)
            assert torch.equal(generate(made.model, alone)[0, -NEW:], answers[row, -NEW:])
            for kind in {part[0] for part in parts if isinstance(part, tuple)}:
                here = reducer.reductions[kind].kept
                start = counted[kind]
                counted[kind] += len(here)
                assert kept[kind][start : counted[kind]] == here
    assert logits.shape[1] < together["input_ids"].shape[1] or "budget" not in settings


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"prefill_chunk_size": 7}, {"num_beams": 2}]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_cache_and_chunks_change_no_answer(family, options):
    made = toy(family)
    inputs = made.inputs()
    beams = {"num_beams": options.get("num_beams", 1)}
    more = options if "num_beams" not in options else {"num_beams": 2, "use_cache": False}
    with prumerge.attach(made.model, "prumerge", order="raster", budget=0.4):
        expected = generate(made.model, inputs, **beams)
        assert torch.equal(generate(made.model, inputs, **more), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_and_gradients(family):
    made = toy(family)
    inputs = made.inputs(side="right")
    with prumerge.attach(made.model, "prumerge", order="raster") as reducer:
        made.model.zero_grad()
        ours = made.model(**inputs, labels=labels_of(inputs))
        ours.loss.backward()
        picked = reducer.prompts.pick(labels_of(inputs), IGNORED_LABEL)
    logits, targets = ours.logits[:, :-1].flatten(0, 1), picked[:, 1:].flatten()
    loss = cross_entropy(logits.float(), targets, ignore_index=IGNORED_LABEL)
    torch.testing.assert_close(ours.loss.float(), loss)
    reached = ("embeddings.patch", "patch_embed", "newline")
    named = made.model.named_parameters()
    grown = [p for name, p in named if any(own in name for own in reached)]
    assert grown and all(float(p.grad.abs().sum()) > 0 for p in grown)
    made.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_threads_share_a_model(family):
    made = toy(family)
    inputs = [made.inputs(0), made.inputs(1)]
    with prumerge.attach(made.model, "prumerge", budget=0.4) as reducer:
        expected = [generate(made.model, own) for own in inputs]
        found = {}

        def ask(number):
            for _ in range(2):
                found[number] = (generate(made.model, inputs[number]), reducer.kept)

        threads = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in (0, 1):
        output, kept = found[number]
        assert torch.equal(output, expected[number])
        assert len(kept) == sum(isinstance(part, tuple) for part in made.rows[number])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_peft_is_reduced_too(family):
    made = toy.__wrapped__(family)
    inputs = made.inputs()
    with prumerge.attach(made.model, "prumerge", budget=0.4):
        expected = generate(made.model, inputs)
    tuned = peft.get_peft_model(made.model, peft.LoraConfig(target_modules=["q_proj"]))
    with prumerge.attach(tuned, "prumerge", budget=0.4) as reducer:
        assert torch.equal(generate(tuned, inputs), expected)
        assert reducer.kept


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_attached(family):
    """A fresh one: the stock encoder, once run, holds hooks that cannot be saved."""
    inputs, model, file = toy(family).inputs(0), toy.__wrapped__(family).model, io.BytesIO()
    with prumerge.attach(model, "prumerge", budget=0.4):
        expected = generate(model, inputs)
        torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(generate(again, inputs), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_works_tile_by_tile(family):
    made = toy(family)
    inputs = made.inputs(0, 1)
    for name in prumerge.names():
        method = prumerge.resolve(name)
        if method.reads_question:
            continue
        with torch.no_grad(), prumerge.attach(made.model, name, budget=0.5) as reducer:
            if method.encodes_again and family in PARTS:
                with pytest.raises(ValueError, match=f"{name} encodes the pictures again"):
                    made.model(**inputs)
                continue
            made.model(**inputs)
        assert [sum(tiles) for tiles in reducer.kept_by_tile] == reducer.kept, name
        assert all(kept >= 1 for tiles in reducer.kept_by_tile for kept in tiles), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_count_names_prompt_and_picture(family):
    made = toy(family)
    inputs = made.inputs(0, 1)
    kind = next(part[0] for part in made.rows[0] if isinstance(part, tuple))
    token = made.tokens[kind]
    ids = inputs["input_ids"].clone()
    ids[0, int((ids[0] == token).nonzero()[0])] = 9
    ids[1, -1] = token  # the totals agree
    wanted = rf"prompt 0 has a run of \d+ {kind} placeholders beginning with its (picture|video) 0"
    with prumerge.attach(made.model), pytest.raises(ValueError, match=wanted):
        made.model(**inputs | {"input_ids": ids})


def test_an_older_transformers_is_refused_in_one_sentence(monkeypatch):
    model = toy("internvl").model
    monkeypatch.setattr(transformers, "__version__", "5.22.2")
    with pytest.raises(ValueError, match=r"with transformers 5\.23 or newer, and here is 5\.22"):
        prumerge.attach(model)
    prumerge.attach(toy("llava").model).detach()
