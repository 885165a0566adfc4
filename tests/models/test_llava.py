"""Attaching to a stock model, detaching without a trace, and refusing what cannot work."""

import copy
import inspect

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toy import IMAGE, PATCHES, SIZE, batch, pictures, prompt, tiny_llava
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

import prumerge
from prumerge.models.attachment import attachment_of
from prumerge.reduction import reduce_to

NEW = 8


def two_prompts():
    """Three pictures in two prompts of different lengths, the second with two adjacent ones."""
    return batch(prompt(3, 5), prompt(2, 0, 9)) | {"pixel_values": pictures(3)}


def generate(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)


def upper_half(encoded, settings):
    """A user's own method: keep what scores above the picture's mean."""
    reason = (encoded.scores > encoded.scores.mean(dim=1, keepdim=True)).to(torch.int8)
    return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)


def everything_about(model):
    """All a detached model must have back: attributes, hooks, weights."""
    hooks = [
        (name, list(module._forward_hooks), list(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    return dict(vars(model)), hooks, weights


def assert_untouched(model, before):
    attributes, hooks, weights = before
    now = everything_about(model)
    assert now[0].keys() == attributes.keys()
    assert all(now[0][name] is value for name, value in attributes.items())
    assert now[1] == hooks
    assert now[2].keys() == weights.keys()
    assert all(torch.equal(now[2][name], weight) for name, weight in weights.items())


def test_detach_restores_the_model_exactly():
    model, inputs = tiny_llava(), two_prompts()
    expected = generate(model, inputs)
    before = everything_about(model)
    class_before = dict(vars(LlavaForConditionalGeneration))
    reducer = prumerge.attach(model, "prumerge")
    assert not torch.equal(generate(model, inputs), expected)
    model(**inputs)
    reducer.detach()
    assert_untouched(model, before)
    assert dict(vars(LlavaForConditionalGeneration)) == class_before
    assert torch.equal(generate(model, inputs), expected)
    reducer.detach()  # once more does nothing
    assert_untouched(model, before)


def test_leaving_the_block_detaches_even_on_an_error():
    model = tiny_llava()
    before = everything_about(model)
    with pytest.raises(ZeroDivisionError), prumerge.attach(model) as reducer:
        assert reducer.attached
        raise ZeroDivisionError
    assert not reducer.attached
    assert_untouched(model, before)


def test_an_error_inside_generate_leaves_nothing_behind():
    model, inputs = tiny_llava(), two_prompts()
    before = everything_about(model)
    with prumerge.attach(model), pytest.raises(ValueError, match="not used by the model"):
        model.generate(**inputs, no_such_option=1)
    assert_untouched(model, before)


def test_attaching_again_replaces():
    model, inputs = tiny_llava(), two_prompts()
    before = everything_about(model)
    with prumerge.attach(model, "uniform", budget=3):
        alone = generate(model, inputs)
    first = prumerge.attach(model, "prumerge")
    second = prumerge.attach(model, "uniform", budget=3)
    assert not first.attached
    assert attachment_of(model) is second
    assert torch.equal(generate(model, inputs), alone)
    assert (first.kept, second.kept) == ([], [3, 3, 3])
    first.detach()
    assert second.attached and attachment_of(model) is second
    second.detach()
    assert_untouched(model, before)


def test_a_wrapper_put_on_top_survives_detaching():
    model, inputs = tiny_llava(), two_prompts()
    expected = model(**inputs).logits
    reducer = prumerge.attach(model, "prumerge")
    inner = model.forward
    model.forward = outer = lambda *args, **kwargs: inner(*args, **kwargs)
    reducer.detach()
    assert model.forward is outer
    assert torch.equal(model(**inputs).logits, expected)


def test_signatures_show_through():
    model = tiny_llava()
    before = [inspect.signature(getattr(model, name)) for name in ("forward", "generate")]
    with prumerge.attach(model):
        after = [inspect.signature(getattr(model, name)) for name in ("forward", "generate")]
    assert after == before


def test_a_copy_of_an_attached_model_stands_on_its_own():
    model, inputs = tiny_llava(), two_prompts()
    reducer = prumerge.attach(model, "prumerge")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert attachment_of(twin) is not reducer and attachment_of(twin).model is twin
    assert not twin(**inputs).logits.any() and model(**inputs).logits.any()
    attachment_of(twin).detach()
    assert reducer.attached and attachment_of(twin) is None
    reducer.detach()
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, model(**inputs).logits)


def test_save_and_load_while_attached(tmp_path):
    model, inputs = tiny_llava(), two_prompts()
    expected = model(**inputs).logits
    with prumerge.attach(model):
        model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).logits, expected)


def test_the_attachment_tells_what_was_sent():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model, "prumerge", whisker=1.0) as reducer:
        assert reducer.kept == [] and reducer.reduction is None
        model.train()(**inputs)
        assert reducer.settings.whisker == 1.0
        assert reducer.kept == [len(tokens) for tokens in reducer.reduction.tokens]
        assert not any(tokens.requires_grad for tokens in reducer.reduction.tokens)
        assert int(reducer.prompts.visual.sum()) == sum(reducer.kept)
        assert "attached" in repr(reducer) and str(reducer.kept) in repr(reducer)


def test_a_method_of_ones_own():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model, upper_half, neighbours=0, extra_token=False) as reducer:
        output = generate(model, inputs)
        scores = reducer.encode(inputs["pixel_values"]).scores
    assert reducer.kept == (scores > scores.mean(dim=1, keepdim=True)).sum(dim=1).tolist()
    assert torch.equal(output[:, :-NEW], inputs["input_ids"])


def test_encoded_pictures_are_not_encoded_again():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model) as reducer:
        expected = generate(model, inputs)
        encoded = reducer.encode(inputs["pixel_values"])
        model.model.vision_tower.embeddings.register_forward_hook(lambda *_: pytest.fail("encoded"))
        assert torch.equal(generate(model, inputs | {"pixel_values": encoded}), expected)


def test_encoded_pictures_of_integers_are_refused():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model) as reducer:
        encoded = reducer.encode(inputs["pixel_values"])
        object.__setattr__(encoded, "features", encoded.features.int())
        with pytest.raises(ValueError, match=r"features must be floating point, got torch\.int32"):
            generate(model, inputs | {"pixel_values": encoded})


def count_blocks(model):
    ran = []
    for index, block in enumerate(model.model.vision_tower.encoder.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    return ran


def test_the_last_block_of_the_encoder_is_not_run():
    model, inputs = tiny_llava(), two_prompts()
    ran = count_blocks(model)
    generate(model, inputs)
    assert ran == [0, 1, 2, 3]  # the stock model runs it, though it uses features from before it
    ran.clear()
    with prumerge.attach(model):
        generate(model, inputs)
        assert ran == [0, 1, 2]
        ran.clear()
        model(**inputs)
        assert ran == [0, 1, 2]


@pytest.mark.parametrize("name", sorted(prumerge.PRESETS))
def test_encoding_and_reducing_take_fewer_operations_than_encoding_alone(name):
    """Counted, not timed: 576 patches of width 64, in one block fewer than the stock encoder."""
    shape = {"hidden_size": 64, "intermediate_size": 256, "image_size": 168, "patch_size": 7}
    tower = CLIPVisionModel(CLIPVisionConfig(num_attention_heads=4, num_hidden_layers=4, **shape))
    shown = torch.randn(2, 3, 168, 168, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as stock:
        tower(shown, output_hidden_states=True)
    method = prumerge.resolve(name, budget=64)
    with torch.no_grad(), FlopCounterMode(display=False) as ours:
        assert method(prumerge.encode(tower, shown, method.settings)).kept == [64, 64]
    assert ours.get_total_flops() < stock.get_total_flops()


def test_text_passes_through_untouched():
    model = tiny_llava()
    text = batch(prompt(4), prompt(9))
    expected, logits = generate(model, text), model(**text).logits
    with prumerge.attach(model) as reducer:
        assert torch.equal(generate(model, text), expected)
        assert torch.equal(model(**text).logits, logits)
        assert torch.equal(model(text["input_ids"], None, text["attention_mask"]).logits, logits)
    assert reducer.kept == []


def edited(**changes):
    return lambda inputs: inputs | changes


def as_lists(name):
    return lambda inputs: inputs | {name: inputs[name].tolist()}


def as_arrays(name):
    return lambda inputs: inputs | {name: inputs[name].numpy()}


def swap_a_placeholder(inputs):
    """One placeholder too few in prompt 0 and one too many in prompt 1: the totals agree."""
    ids = inputs["input_ids"].clone()
    ids[0, int((ids[0] == IMAGE).nonzero()[0])] = 9
    ids[1, -1] = IMAGE
    return inputs | {"input_ids": ids}


def drop_a_picture(inputs):
    return inputs | {"pixel_values": inputs["pixel_values"][:2]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap_a_placeholder, "prompt 0 has a run of 15 image placeholders"),
        (drop_a_picture, r"2 pictures were handed in.* show 3 \(per prompt: \[1, 2\]"),
        (
            edited(pixel_values=torch.zeros(3, 3, SIZE, SIZE + 7)),
            r"must be \[pictures, 3, 28, 28\]",
        ),
        (edited(pixel_values=torch.zeros(1, 3, 3, SIZE, SIZE)), r"must be \[pictures, 3, 28, 28\]"),
        (edited(input_ids=None, inputs_embeds=torch.zeros(2, 3, 48)), "pictures need input_ids"),
        (edited(attention_mask=torch.ones(2, 1, 4, 4)), "must have the shape of input_ids"),
        (edited(image_sizes=torch.tensor([[28, 28]])), "image_sizes is not supported"),
        (edited(vision_feature_layer=[-2, -1]), r"must be one layer such as -2, got \[-2, -1\]"),
        (edited(vision_feature_select_strategy="full"), "must be 'default' .* got 'full'"),
        (edited(logits_to_keep=torch.tensor([0])), "logits_to_keep must be a number"),
        (as_lists("pixel_values"), "pixel_values must be a tensor, got list: call the processor"),
        (as_arrays("pixel_values"), "pixel_values must be a tensor, got ndarray"),
        (as_lists("input_ids"), "input_ids must be a tensor, got list"),
        (as_arrays("attention_mask"), "attention_mask must be a tensor, got ndarray"),
        (
            edited(pixel_values=torch.zeros(3, 3, SIZE, SIZE, dtype=torch.uint8)),
            r"pixel_values must be floating point, got torch\.uint8: pictures go through",
        ),
    ],
)
@pytest.mark.parametrize("call", ["generate", "forward"])
def test_bad_input_is_refused_with_a_remedy(call, edit, message):
    model = tiny_llava()
    with prumerge.attach(model), pytest.raises(ValueError, match=message):
        getattr(model, call)(**edit(two_prompts()))


def test_the_stock_check_lets_swapped_counts_pass():
    model = tiny_llava()
    model(**swap_a_placeholder(two_prompts()))  # why ours looks at each picture


def test_what_cannot_be_attached_is_refused_by_name():
    with pytest.raises(ValueError, match="got Linear: load one with"):
        prumerge.attach(torch.nn.Linear(2, 2))
    model = tiny_llava()
    reducer = prumerge.attach(model)
    with pytest.raises(ValueError, match="prumerg"):
        prumerge.attach(model, "prumerg")
    with pytest.raises(ValueError, match="wisker"):
        prumerge.attach(model, "prumerge", wisker=2.0)
    assert reducer.attached  # a refused method replaces nothing
    reducer.detach()
    with pytest.raises(ValueError, match="vision_feature_select_strategy"):
        prumerge.attach(tiny_llava(vision_feature_select_strategy="full"))


def test_an_encoder_without_class_token():
    model = tiny_llava(
        encoder=SiglipVisionConfig, vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    inputs = two_prompts()
    expected = generate(model, inputs)
    with pytest.raises(ValueError, match="score='received'"):
        prumerge.attach(model)
    layers = {"score": "received", "score_layer": -1, "key_layer": -1}
    with prumerge.attach(model, "all", order="raster", **layers):
        assert torch.equal(generate(model, inputs), expected)
    with prumerge.attach(model, "prumerge", **layers) as reducer:
        generate(model, inputs)
    assert max(reducer.kept) < PATCHES
    model.config.vision_feature_select_strategy = "default"
    with pytest.raises(ValueError, match="must be 'full' for an encoder without class token"):
        prumerge.attach(model)


def test_every_registered_method_attaches():
    model, inputs = tiny_llava(), two_prompts()
    for name in prumerge.names():
        if prumerge.resolve(name).reads_question:  # tests/mini/test_relevance.py
            continue
        with prumerge.attach(model, name) as reducer:
            output = generate(model, inputs)
        assert torch.equal(output[:, :-NEW], inputs["input_ids"])
        assert all(1 <= kept <= PATCHES for kept in reducer.kept), name
