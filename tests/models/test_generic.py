"""Models of no known family: tokens are dropped, and the rest is the stock model."""

import functools

import pytest
import torch
import transformers
from families import built, clip_config, noise, text_config
from toy import BOS, IMAGE, PAD, SIZE, VOCABULARY

import prumerge

SLOTS = {"paligemma": (16,), "gemma3": (4,), "mistral3": (2, 2), "idefics3": (4, 4, 4)}
SLOTS["smolvlm"] = SLOTS["idefics3"]  # runs of a picture, words between
NEW = 4


def gemma(kind, **options):
    shape = text_config().to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size", "initializer_range", "pad_token_id")
    return kind(head_dim=12, **{name: shape[name] for name in names}, **options)


def siglip(**options):
    shape = clip_config().to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    named = {name: shape[name] for name in (*names, "image_size", "patch_size")}
    return transformers.SiglipVisionConfig(**named, vision_use_head=False, **options)


@functools.cache
def model_of(name):
    common = {"image_token_id": IMAGE, "pad_token_id": PAD}
    if name == "paligemma":
        config = transformers.PaliGemmaConfig(
            vision_config=siglip(projection_dim=48),
            text_config=gemma(transformers.GemmaConfig),
            projection_dim=48,
            **common,
        )
        return built(transformers.PaliGemmaForConditionalGeneration, config)
    if name == "gemma3":
        config = transformers.Gemma3Config(
            vision_config=siglip(),
            text_config=gemma(transformers.Gemma3TextConfig),
            mm_tokens_per_image=4,
            **common,
        )
        return built(transformers.Gemma3ForConditionalGeneration, config)
    if name == "mistral3":
        vision = transformers.PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=SIZE // 4,
        )
        config = transformers.Mistral3Config(
            vision_config=vision, text_config=text_config(), spatial_merge_size=2, **common
        )
        return built(transformers.Mistral3ForConditionalGeneration, config)
    kinds = {
        "idefics3": (transformers.Idefics3Config, transformers.Idefics3ForConditionalGeneration),
        "smolvlm": (transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration),
    }
    kind, stock = kinds[name]
    vision = {"model_type": f"{name}_vision"} if name == "idefics3" else {}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "image_size": SIZE, "patch_size": SIZE // 4}
    config = kind(vision_config=vision | shape, text_config=text_config(), scale_factor=2, **common)
    return built(stock, config)


def inputs_of(name, *rows):
    """Each prompt shows one picture behind three words and before as many as its number."""
    ids = []
    for row in rows:
        generator = torch.Generator().manual_seed(row)
        words = torch.randint(5, VOCABULARY, (12,), generator=generator).tolist()
        own = [BOS, *words[:3]]
        for run in SLOTS[name]:
            own += [IMAGE] * run + [words[3]]
        ids.append(own + words[4 : 6 + row])
    longest = max(map(len, ids))
    input_ids = torch.tensor([[PAD] * (longest - len(own)) + own for own in ids])
    pixels = torch.stack([noise(3, SIZE, SIZE, seed=row) for row in rows])
    given = {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}
    if name in ("idefics3", "smolvlm"):
        tiles = [noise(3, 3, SIZE, SIZE, seed=row) for row in rows]
        return given | {"pixel_values": torch.stack(tiles)}
    if name == "mistral3":
        given["image_sizes"] = torch.tensor([[SIZE, SIZE]] * len(rows))
    if name in ("paligemma", "gemma3"):
        given["token_type_ids"] = (input_ids == IMAGE).long()
    return given | {"pixel_values": pixels}


def generate(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)


@pytest.mark.parametrize("name", SLOTS)
def test_keeping_all_is_the_stock_model(name):
    model, inputs = model_of(name), inputs_of(name, 0, 3)
    with torch.no_grad():
        expected = model(**inputs).logits
        answers = [generate(model, inputs, num_beams=beams) for beams in (1, 2)]
        with prumerge.attach(model, "all", generic=True) as reducer:
            assert torch.equal(model(**inputs).logits, expected)
            ours = [generate(model, inputs, num_beams=beams) for beams in (1, 2)]
    assert all(map(torch.equal, ours, answers))
    assert sum(reducer.kept) == 2 * sum(SLOTS[name])


@pytest.mark.parametrize("method", ["divprune", "top_k"])
@pytest.mark.parametrize("name", SLOTS)
def test_a_batch_is_each_prompt_alone(name, method):
    model, together = model_of(name), inputs_of(name, 0, 3)
    with torch.no_grad(), prumerge.attach(model, method, generic=True, budget=0.5) as reducer:
        logits, answers = model(**together).logits, generate(model, together)
        real = reducer.prompts.attention_mask.bool()
        for row, number in enumerate((0, 3)):
            own = model(**inputs_of(name, number)).logits[0]
            torch.testing.assert_close(logits[row, real[row]], own, atol=1e-4, rtol=1e-4)
            alone = generate(model, inputs_of(name, number))
            assert torch.equal(alone[0, -NEW:], answers[row, -NEW:])
    assert logits.shape[1] == together["input_ids"].shape[1] - sum(SLOTS[name]) // 2


def test_it_is_offered_by_name_and_merges_nothing():
    model = model_of("gemma3")
    with pytest.raises(ValueError, match=r"got Gemma3For\w+: pass generic=True"):
        prumerge.attach(model)
    with pytest.raises(ValueError, match="generic=True drops tokens and merges none"):
        prumerge.attach(model, "prumerge", generic=True)


def test_a_model_that_looks_token_ids_up_in_its_layers_is_refused():
    sizes = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
    text = gemma(transformers.Gemma4TextConfig, layer_types=["full_attention"] * 2, **sizes)
    config = transformers.Gemma4Config(text_config=text, image_token_id=IMAGE)
    model = transformers.Gemma4ForConditionalGeneration(config)
    with pytest.raises(ValueError, match=r"got Gemma4For\w+, whose layers look up token ids"):
        prumerge.attach(model, "divprune", budget=4, generic=True)
