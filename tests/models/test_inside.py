"""Masks inside the language model give what really dropping the tokens gives, at any batch."""

import copy
import dataclasses
import functools

import pytest
import torch
from toy import EOS, IMAGE, PATCHES, batch, pictures, prompt, tiny_llava

from prumerge import attach
from prumerge.methods import INSIDE
from prumerge.models.inside import inside
from prumerge.models.ratings import attention_of, raters
from prumerge.models.recycling import density_peaks, split
from prumerge.models.stages import DROPPINGS

PROMPTS = [prompt(3, 5, seed=1), prompt(2, 9, seed=2), prompt(6, 3, seed=3)]
PIXELS = pictures(3, dtype=torch.float64)
LAYERS = 3
NEW = 4
methods = pytest.mark.parametrize("method", INSIDE)


def llava(attention="sdpa"):
    return tiny_llava(attention=attention, dtype=torch.float64)


@functools.cache
def eager_twin():
    """The language model of the same weights whose layers tell their attention."""
    return llava("eager").model.language_model


def causal(length):
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    lowest = torch.finfo(torch.float64).min
    return torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~seen, lowest)


def by_layers(model, ids, words, pixels, method, reads):
    """Logits of the last of ``ids``, the first ``words`` of them the prompt: tokens really go.

    Layers run one by one on a sequence that gets shorter, with the position ids of the whole one;
    attention comes from a twin of the eager backend.
    """
    language, twin = model.model.language_model, eager_twin()
    rule, ids = DROPPINGS[method], torch.tensor(ids)
    hidden = model.get_input_embeddings()(ids)
    visual = ids == IMAGE
    hidden[visual] = model.model.get_image_features(pixels[None]).pooler_output[0]
    place = torch.arange(len(ids))
    asked = place[visual].max() + 1 + torch.arange(words - int(place[visual].max()) - 1)
    if rule.rated_by == "last":
        asked = asked[-1:]
    else:
        shares = (hidden[visual] @ hidden[asked].T).softmax(dim=1).mean(dim=0)
        asked = asked[shares > shares.mean()]

    def attention(layer, rotary):
        normed = layer.input_layernorm(hidden[None])
        return layer.self_attn(normed, rotary, causal(len(hidden)))[1][0].mean(dim=0)

    for index, layer in enumerate(language.layers):
        rotary = language.rotary_emb(hidden[None], place[None])
        if index and reads[index] < reads[index - 1]:
            if rule.layer == "behind":
                seen = attention(twin.layers[index], rotary)
            rows = [row for row, number in enumerate(place.tolist()) if number in asked.tolist()]
            columns = visual.nonzero()[:, 0].tolist()
            rating = seen[rows].mean(dim=0)
            best = sorted(columns, key=lambda column: -rating[column])
            keep, pool, clusters = reads[index], 0, 0
            if rule.recycles:
                keep, pool, clusters = split(len(best), reads[index])
            stay, again = set(best[:keep]), best[keep : keep + pool]
            if clusters:
                points = hidden[again].clone()
                centres, owner = density_peaks(points[None], clusters)
                for number, centre in enumerate(centres[0].tolist()):
                    hidden[again[centre]] = points[owner[0] == number].mean(dim=0)
                    stay.add(again[centre])
            left = [n for n in range(len(hidden)) if not visual[n] or n in stay]
            hidden, place, visual = hidden[left], place[left], visual[left]
            rotary = language.rotary_emb(hidden[None], place[None])
        assert int(visual.sum()) == reads[index]
        seen = attention(twin.layers[index], rotary)
        how = {"position_embeddings": rotary, "attention_mask": causal(len(hidden))}
        hidden = layer(hidden[None], **how)[0]
    return model.lm_head(language.norm(hidden))[-1]


@torch.no_grad()
def answered_by_hand(model, ids, pixels, method, reads):
    answer, logits = [], []
    for _ in range(NEW):
        logits.append(by_layers(model, ids + answer, len(ids), pixels, method, reads))
        answer.append(int(logits[-1].argmax()))
    return answer, torch.stack(logits)


def generated(model, which, **options):
    inputs = batch(*[PROMPTS[index] for index in which])
    inputs["pixel_values"] = PIXELS[list(which)].to(model.dtype)
    how = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
    output = model.generate(**inputs, output_logits=True, **how, **options)
    new = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return new, torch.stack(output.logits, dim=1)


@pytest.mark.parametrize("budget", [7, 9, 13])
@methods
def test_masked_tokens_are_as_good_as_gone(method, budget):
    """Unequal prompts in a batch, a cache behind them, against layers run by hand without either.

    The budget of 7 recycles from few tokens, 13 drops few.
    """
    model = llava()
    with inside(model, method, budget=budget) as at_work:
        assert sum(at_work.reads) <= LAYERS * budget < sum(at_work.reads) + LAYERS
        assert at_work.reads[-1] < PATCHES
        tokens, logits = generated(model, (0, 1, 2))
    for ids, pixels, answer, own in zip(PROMPTS, PIXELS, tokens, logits, strict=True):
        wanted, by_hand = answered_by_hand(model, ids, pixels, method, at_work.reads)
        assert answer == wanted
        torch.testing.assert_close(own.double(), by_hand, rtol=0, atol=1e-5)


@methods
def test_a_prompt_is_answered_as_if_it_came_alone(method):
    model = llava()
    with inside(model, method, budget=9):
        together, logits = generated(model, (0, 1, 2))
        for index in range(3):
            alone, own = generated(model, (index,))
            assert alone[0] == together[index]
            torch.testing.assert_close(own[0], logits[index], rtol=0, atol=1e-5)


@methods
def test_dropping_nothing_is_the_stock_model(method):
    model = llava()
    tokens, logits = generated(model, (0, 1, 2))
    with inside(model, method, budget=PATCHES) as at_work:
        assert at_work.reads == (PATCHES,) * LAYERS
        same, others = generated(model, (0, 1, 2))
    assert same == tokens and torch.equal(others, logits)


@methods
def test_dropping_changes_the_answer_and_ends_with_the_block(method):
    model = llava()
    _, before = generated(model, (0, 1, 2))
    with pytest.raises(KeyError), inside(model, method, budget=7):
        assert not torch.allclose(generated(model, (0, 1, 2))[1], before)
        raise KeyError
    assert torch.equal(generated(model, (0, 1, 2))[1], before)
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert not any(layer._forward_pre_hooks for layer in model.model.language_model.layers)


@pytest.mark.parametrize("side", ["left", "right"])
@methods
@torch.no_grad()
def test_forward_gives_the_same_on_either_side_of_the_padding(method, side):
    model = llava()
    inputs = batch(*PROMPTS, side=side) | {"pixel_values": PIXELS}
    places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with inside(model, method, budget=9) as at_work:
        logits = model(**inputs, position_ids=places).logits
    ends = inputs["attention_mask"].cumsum(dim=1).argmax(dim=1)
    for row, (ids, pixels) in enumerate(zip(PROMPTS, PIXELS, strict=True)):
        wanted = by_layers(model, ids, len(ids), pixels, method, at_work.reads)
        torch.testing.assert_close(logits[row, ends[row]], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"num_beams": 2}])
@methods
def test_other_caches_and_beams_know_what_was_dropped(method, options):
    model = llava()
    with inside(model, method, budget=9):
        rows = [generated(model, (index,), **options)[0][0] for index in range(3)]
        assert generated(model, (0, 1, 2), **options)[0] == rows
        if "num_beams" not in options:
            assert generated(model, (0, 1, 2))[0] == rows


@methods
def test_eager_and_sdpa_agree(method):
    found = []
    for attention in ("eager", "sdpa"):  # float32: eager float64 has no numbers in padding
        model = tiny_llava(attention=attention)
        with inside(model, method, budget=9):
            found.append(generated(model, (0, 1, 2)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-3)


def test_steps_by_hand_go_on_from_a_cache_and_from_its_copy():
    model = llava()
    inputs = batch(PROMPTS[0]) | {"pixel_values": PIXELS[:1]}
    with inside(model, "fastv", budget=9), torch.no_grad():
        wanted = generated(model, (0,))[0][0]
        outputs = model(**inputs)
        for cache in (copy.deepcopy(outputs.past_key_values), outputs.past_key_values):
            token = outputs.logits[:, -1:].argmax(dim=-1)
            for new in wanted[1:]:
                step = model(input_ids=token, past_key_values=cache)
                token = step.logits[:, -1:].argmax(dim=-1)
                assert int(token) == new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_of_the_stock_eager_backend(dtype):
    inputs = batch(*PROMPTS) | {"pixel_values": PIXELS.to(dtype)}
    eager = tiny_llava(attention="eager", dtype=dtype)
    model = tiny_llava(dtype=dtype)
    found = {}

    def keep(layer, args, kwargs):
        how = kwargs["attention_mask"], kwargs["position_embeddings"]
        found[layer.self_attn.layer_idx] = attention_of(layer, args[0], *how)

    for layer in model.model.language_model.layers:
        layer.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
        wanted = eager(**inputs, output_attentions=True).attentions
    real = inputs["attention_mask"].bool()
    for index in range(LAYERS):
        mean = wanted[index].mean(dim=1)
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found[index][real], mean[real], rtol=0, atol=limit)
        assert model.model.language_model.layers[index].self_attn.config._attn_implementation == (
            "sdpa"
        )


def test_raters_are_the_words_that_visual_tokens_find_most_alike():
    picture = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    words = torch.tensor([[9.0, 9.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    hidden = torch.cat([words[:1], picture, words[1:]])[None]
    behind = torch.tensor([[False] * 4 + [True] * 3])
    # Shares of the three words: e^2, 1, 1 of two tokens, 1, e, 1 of one: the first is above a third
    found = raters(hidden, torch.tensor([[1, 2, 3]]), behind)
    assert found[0].nonzero()[:, 0].tolist() == [4]
    alike = hidden.clone()
    alike[:, 4:] = 1.0  # none is above the mean: all rate
    assert raters(alike, torch.tensor([[1, 2, 3]]), behind).equal(behind)


def refused(call, sentence, **changes):
    model = llava()
    inputs = batch(PROMPTS[0]) | {"pixel_values": PIXELS[:1]}
    with inside(model, "fastv", budget=9), pytest.raises(ValueError, match=sentence):
        call(model, inputs | changes)


def forward(model, inputs):
    return model(**inputs)


def answer(model, inputs):
    return model.generate(**inputs, max_new_tokens=3, do_sample=False)


def test_what_cannot_be_decided_is_refused():
    ids = torch.tensor([PROMPTS[0]])
    embeddings = torch.zeros(1, 4, 48, dtype=torch.float64)
    mask = torch.ones(1, ids.shape[1] + 1, dtype=torch.bool)
    two = batch(prompt(1, 2, 3)) | {"pixel_values": PIXELS[:2]}
    bare = batch(prompt(3, 0)) | {"pixel_values": PIXELS[:1]}
    refused(answer, "without a cache fastv would decide anew", use_cache=False)
    refused(answer, "prefill_chunk_size=24: fastv asks the end", prefill_chunk_size=24)
    refused(forward, "no embeddings, no labels", labels=ids)
    refused(forward, "no embeddings, no labels", input_ids=None, inputs_embeds=embeddings)
    refused(forward, "must have the shape of input_ids", attention_mask=mask)
    refused(forward, r"\[32\] image placeholders: show one picture", **two)
    refused(forward, "ends with its picture", **bare)
    refused(lambda model, _: model.model(input_ids=ids), "call the whole model")


def test_a_cache_from_elsewhere_is_refused():
    model, inputs = llava(), batch(PROMPTS[0]) | {"pixel_values": PIXELS[:1]}
    with torch.no_grad():
        stock = model(**inputs).past_key_values
        with inside(model, "fastv", budget=9):
            own = model(**inputs).past_key_values
            new = torch.tensor([[7]])
            with pytest.raises(ValueError, match="goes on from the cache of a call in this block"):
                model(input_ids=new, past_key_values=stock)
            with pytest.raises(ValueError, match="pass a new turn as one whole prompt"):
                model(input_ids=torch.tensor([[7, 8]]), past_key_values=own)
            model(input_ids=new, past_key_values=own)


def test_a_method_with_a_part_changed_is_another_method():
    model, inputs = llava(), batch(PROMPTS[0]) | {"pixel_values": PIXELS[:1]}

    def logits(method):
        with torch.no_grad(), inside(model, method, budget=9):
            return model(**inputs).logits[:, -1]

    published, own = logits("sparsevlm"), dataclasses.replace(DROPPINGS["sparsevlm"], name="own")
    assert logits(own).equal(published)
    for part in ({"rated_by": "last"}, {"recycles": False}):
        assert not logits(dataclasses.replace(own, **part)).allclose(published)


def test_text_alone_is_answered_as_by_the_stock_model():
    model, inputs = llava(), batch([EOS, 7, 8, 9], [8, 9])
    how = {"max_new_tokens": NEW, "do_sample": False}
    wanted = model.generate(**inputs, **how)
    with inside(model, "sparsevlm", budget=9):
        assert model.generate(**inputs, **how).equal(wanted)


def test_models_that_cannot_be_masked_are_refused():
    model = llava()
    with pytest.raises(ValueError, match="got LlavaModel: load one with"):
        inside(model.model, "fastv")
    with pytest.raises(ValueError, match="unknown method 'fastvv': did you mean 'fastv'"):
        inside(model, "fastvv")
    with pytest.raises(ValueError, match="budget must be"):
        inside(model, "fastv", budget=0)
    with inside(model, "fastv"), pytest.raises(ValueError, match="reduced already"):
        inside(model, "fastv")
    with attach(model, "all"), pytest.raises(ValueError, match="reduced already: detach"):
        inside(model, "fastv")
    inputs = batch(PROMPTS[0]) | {"pixel_values": PIXELS[:1]}
    with inside(model, "fastv"), attach(model, "all"):
        with pytest.raises(ValueError, match="reduced already: detach"):
            model(**inputs)
    model.model.language_model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_implementation='flex_attention' takes no masks"):
        inside(model, "fastv")


@methods
def test_attach_says_what_to_call_instead(method):
    with pytest.raises(ValueError, match=rf'models.inside.inside\(model, "{method}", budget='):
        attach(llava(), method)
