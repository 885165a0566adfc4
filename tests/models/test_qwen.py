"""Qwen2-VL to Qwen3-VL: windows, M-RoPE, deepstack, against the stock model's own parts."""

import copy
import threading

import numpy as np
import pytest
import torch
from families import GRIDS, IMAGE, QWEN_PATCH, TRIED, VIDEO, WORDS, toy
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import prumerge
from prumerge.encoder import Encoded
from prumerge.models.families import family_of
from prumerge.models.positions import stretch
from prumerge.settings import Settings

pytestmark = TRIED
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
MIXED = 2  # the row with two pictures and a video between them
DROPPING = {"order": "raster", "neighbours": 0, "extra_token": False, "budget": 0.4}


def grids(inputs):
    return {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}


def words(*ids):
    return torch.tensor([ids]) + WORDS


def full_places(made, inputs):
    names = ("input_ids", "mm_token_type_ids", "attention_mask")
    given = {name: inputs[name] for name in names}
    return made.model.model.get_rope_index(**given, **grids(inputs))[0]


def encoded_by_stock(made, inputs):
    """What the stock model makes of pictures and videos, by kind."""
    core, found = made.model.model, {}
    found["image"] = core.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    found["video"] = core.get_video_features(pixels, grid)
    return found


@pytest.mark.parametrize("positions", ["original", "stretched"])
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_vl_moe"])
def test_dropping_is_the_stock_model_on_what_is_left(family, positions):
    """Rows, those of deepstack too, and position ids are picked by hand here."""
    made = toy(family)
    inputs = made.inputs(MIXED)
    settings = DROPPING | {"positions": positions}
    with torch.no_grad(), prumerge.attach(made.model, "prumerge+", **settings) as reducer:
        ours = made.model(**inputs).logits
    ids, stock = inputs["input_ids"], encoded_by_stock(made, inputs)
    stays, standing = (ids != IMAGE) & (ids != VIDEO), torch.arange(ids.shape[1])
    for kind, token in made.tokens.items():
        reduction, output = reducer.reductions[kind], stock[kind]
        sizes = [len(rows) for rows in output.pooler_output]
        kept = [places + sum(sizes[:i]) for i, places in enumerate(reduction.positions)]
        columns = (ids[0] == token).nonzero()[:, 0]
        for i, own in enumerate(reduction.positions):
            mine = columns[sum(sizes[:i]) : sum(sizes[: i + 1])]
            stays[0, mine[own]] = True
            runs = made.frames(4) if made.frames and kind == "video" else 1
            for part in mine.view(runs, -1):
                here = part[stays[0, part]]
                if positions == "stretched":
                    standing[here] = part[stretch(len(here), len(part))]
        rows = torch.cat(kept)
        output.pooler_output = [torch.cat(output.pooler_output)[rows]]
        if family.startswith("qwen3_vl"):
            deep = [torch.cat(own)[rows] for own in output.deepstack_features]
            output.deepstack_features = [[own] for own in deep]
    places = full_places(made, inputs)[:, :, standing[stays[0]]]
    with torch.no_grad():
        expected = made.model(
            input_ids=ids[stays][None], position_ids=places, mm_encoder_outputs=stock
        ).logits
    assert ours.shape[1] < ids.shape[1]
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


def test_a_mixture_of_experts_answers_as_its_stock_model():
    made = toy("qwen3_vl_moe")
    inputs = made.inputs()
    options = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    stock = made.model.generate(**inputs, **options)
    with prumerge.attach(made.model, "all", order="raster"):
        assert torch.equal(made.model.generate(**inputs, **options), stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_attention_within_a_picture_or_frame(family):
    """All patches of a call in one matrix, which is masked between pictures and frames."""
    made, settings = toy(family), Settings(score="received")
    inputs, visual = made.inputs(1, MIXED), made.model.model.visual
    layer = 2 if family == "qwen2_5_vl" else 3
    seen = []
    hook = visual.blocks[layer].register_forward_pre_hook(
        lambda _, args, options: seen.append((args[0], options)), with_kwargs=True
    )
    pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    with torch.no_grad():
        stock = visual(pixels, grid_thw=grid)
        hook.remove()
        packed = family_of(made.model).pack(made.model, inputs, settings)["video"]
        block, (hidden, options) = visual.blocks[layer], seen[0]
        mixed = block.attn.qkv(block.norm1(hidden)).view(len(hidden), 3, 4, 8)
        cos, sin = (angles[:, None] for angles in options["position_embeddings"])
        queries, keys = (
            own * cos + torch.cat([-own[..., 4:], own[..., :4]], dim=-1) * sin
            for own in (mixed[:, 0], mixed[:, 1])
        )
        frame = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0])
        frame = torch.arange(len(frame)).repeat_interleave(frame)
        logits = torch.einsum("qhd,khd->hqk", queries, keys) / 8**0.5
        logits = logits.masked_fill(frame[:, None] != frame, -torch.inf)
        received = logits.softmax(dim=-1).mean(dim=0).sum(dim=0)
        received /= torch.bincount(frame)[frame]
        merged = visual.merger(hidden)  # to find the order of squares
    squares = received.view(-1, 4).sum(1)
    numbers = torch.arange(len(squares))
    if family == "qwen2_5_vl":
        rows = visual.merger(stock.last_hidden_state)
        numbers = torch.cdist(stock.pooler_output, rows).argmin(dim=1)
    assert len(merged) == len(squares)
    ours = torch.cat([part.scores.flatten() for part in packed.parts])
    torch.testing.assert_close(ours, squares[numbers].float())
    ours = torch.cat([part.keys.flatten(0, 1) for part in packed.parts])
    mean = keys.reshape(-1, 4, 32).mean(1)[numbers]
    torch.testing.assert_close(ours, mean, atol=1e-6, rtol=1e-5)
    frames = torch.cat([part.scores.sum(1) for part in packed.parts])
    torch.testing.assert_close(frames, torch.ones(len(frames)))


def test_slots_are_the_processors_for_many_sizes():
    made, rng = toy("qwen2_5_vl"), np.random.default_rng(0)
    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64}
    processor = Qwen2VLImageProcessorPil(patch_size=QWEN_PATCH, size=size)
    sizes = rng.integers(9, 120, size=(300, 2)).tolist()
    pictures = [Image.fromarray(rng.integers(0, 255, (*own, 3), dtype=np.uint8)) for own in sizes]
    given = dict(processor(pictures, return_tensors="pt"))
    given["pixel_values"] = given["pixel_values"].double()
    with torch.no_grad():
        packed = family_of(made.model).pack(made.model, given, Settings(score="received"))["image"]
        rows = torch.cat([part.features.flatten(0, 1) for part in packed.parts])
        shown = [packed.project(rows[visual.source]) for visual in packed.visuals]
        stock = made.model.model.get_image_features(**given).pooler_output
    counts = [processor.get_number_of_image_patches(*own) // 4 for own in sizes]
    assert [len(visual.source) for visual in packed.visuals] == counts
    for ours, expected in zip(shown, stock, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_by_hand_goes_on_from_its_own_call(family):
    """Other calls, of this thread or another, leave nothing behind; a video here is long."""
    made = toy(family)
    inputs = made.inputs(0)
    if family == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([30.0])
    new = words(7, 8)
    with torch.no_grad():
        cache = made.model(**inputs, use_cache=True).past_key_values
        expected = made.model(input_ids=new, past_key_values=cache).logits
        made.model(**made.inputs(MIXED))  # of the stock model, whose deltas are of its last call
        before = made.model.model.rope_deltas.clone()
        with prumerge.attach(made.model, "all", order="raster"):
            cache = made.model(**inputs, use_cache=True).past_key_values
            generate = made.model.generate
            generate(**made.inputs(1), max_new_tokens=2)
            other = threading.Thread(target=generate, kwargs=made.inputs(MIXED))
            other.start()
            other.join()
            ours = made.model(input_ids=new[:, :1], past_key_values=cache).logits
            more = made.model(input_ids=new[:, 1:], past_key_values=cache).logits
    assert torch.equal(made.model.model.rope_deltas, before)
    torch.testing.assert_close(torch.cat([ours, more], dim=1), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_by_hand_are_generation(family):
    """With padding too: the prompts differ in length."""
    made = toy(family)
    inputs = made.inputs(0, MIXED)
    with torch.no_grad(), prumerge.attach(made.model, "prumerge", budget=0.4) as reducer:
        expected = made.model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, -4:]
        outputs = made.model(**inputs, use_cache=True)
        mask, said = reducer.prompts.attention_mask, []
        assert not bool(mask.all())
        for _ in range(4):
            said.append(outputs.logits[:, -1:].argmax(dim=-1))
            mask = torch.cat([mask, torch.ones_like(said[-1])], dim=1)
            outputs = made.model(
                input_ids=said[-1], past_key_values=outputs.past_key_values, attention_mask=mask
            )
    assert torch.equal(torch.cat(said, dim=1), expected)


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_one_call_on_all_of_it(family, first):
    """The first turn shows a long video, more, or nothing; the second a picture, the third none."""
    made = toy(family)
    turns = [made.inputs(first), made.inputs(MIXED), {"input_ids": words(9, 3, 4)}]
    seconds = {"second_per_grid_ts": torch.tensor([30.0])} if first == 0 else {}
    turns[0] |= seconds
    options = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    whole, said, cache = {}, torch.zeros(1, 0, dtype=torch.long), None
    with prumerge.attach(made.model, "prumerge", budget=0.5, order="raster"):
        for turn in turns:
            said = torch.cat([said, turn["input_ids"]], dim=1)
            own = {name: value for name, value in turn.items() if "grid" in name or "pixel" in name}
            for name, value in own.items():
                whole[name] = torch.cat([whole[name], value]) if name in whole else value
            if "second_per_grid_ts" in whole and "video_grid_thw" in turns[1] and turn is turns[1]:
                own["second_per_grid_ts"] = torch.ones(1)
                whole["second_per_grid_ts"] = torch.cat(
                    [seconds["second_per_grid_ts"], torch.ones(1)]
                )
            asked = {"input_ids": said, "attention_mask": torch.ones_like(said)}
            asked["mm_token_type_ids"] = (said == IMAGE) + 2 * (said == VIDEO)
            ours = made.model.generate(**asked, **own, **options, past_key_values=cache)
            once = made.model.generate(**asked, **whole, **options)
            assert torch.equal(ours.sequences, once.sequences)
            said, cache = ours.sequences, ours.past_key_values


@pytest.mark.parametrize("family", FAMILIES)
def test_static_caches_and_lookups_change_no_answer(family):
    made = toy(family)
    inputs = made.inputs(1)
    with prumerge.attach(made.model, "prumerge", budget=0.4):
        expected = made.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        for options in ({"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2}):
            found = made.model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_encoded_once_serve_many_calls(family):
    made = toy(family)
    inputs = made.inputs(1) | {name: None for name in ("pixel_values_videos", "video_grid_thw")}
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, WORDS)
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    with torch.no_grad(), prumerge.attach(made.model, "prumerge", budget=0.4) as reducer:
        encoded = reducer.encode(inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"])
        assert isinstance(encoded, Encoded)
        expected = made.model(**inputs).logits
        assert torch.equal(made.model(**inputs | {"pixel_values": encoded}).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_position_ids_of_three_rows_are_picked(family):
    made = toy(family)
    inputs = made.inputs(1)
    places = full_places(made, inputs)
    with torch.no_grad(), prumerge.attach(made.model, "prumerge", budget=0.4):
        expected = made.model(**inputs).logits
        assert torch.equal(made.model(**inputs, position_ids=places).logits, expected)
        moved = made.model(**inputs, position_ids=places.flip(1) + places).logits
        assert not torch.allclose(moved, expected)
        with pytest.raises(ValueError, match="a fourth row packs documents"):
            made.model(**inputs, position_ids=torch.cat([places[:1], places]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"positions": "compact"}, "positions='compact' counts tokens 0, 1, 2"),
        ({"score": "head_mean"}, "score='head_mean' needs a class token and Qwen"),
        ({"score_layer": 4}, r"score_layer must be in \[-4, 3\]"),
    ],
)
def test_settings_that_do_not_fit_are_told(family, settings, told):
    with pytest.raises(ValueError, match=told):
        prumerge.attach(toy(family).model, **settings)


def test_a_block_of_windows_scores_nothing():
    with pytest.raises(ValueError, match=r"score_layer=-1: this block attends within windows"):
        prumerge.attach(toy("qwen2_5_vl").model, score_layer=-1)
    with prumerge.attach(toy("qwen3_vl").model, score_layer=-2) as reducer:
        assert reducer.settings.score_layer == -2


@pytest.mark.parametrize("family", FAMILIES)
def test_grids_that_do_not_fit_are_told(family):
    made = toy(family)
    inputs = made.inputs(1)
    wrong = copy.deepcopy(inputs["image_grid_thw"])
    wrong[0, 1] += 2
    odd = torch.tensor([[1, 1, len(inputs["pixel_values"])]])
    rows = GRIDS[2]
    with prumerge.attach(made.model):
        with pytest.raises(ValueError, match="image_grid_thw is missing: pass all"):
            made.model(**inputs | {"image_grid_thw": None})
        for grid in (wrong, odd, wrong[:, :2]):
            with pytest.raises(ValueError, match=f"and {rows[0] * rows[1]} patches in pixel_val"):
                made.model(**inputs | {"image_grid_thw": grid})
