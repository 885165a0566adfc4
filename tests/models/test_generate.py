"""``model.generate`` while attached: the same call, fewer visual tokens, the right answer."""

import pytest
import torch
from toy import PATCHES, batch, by_hand, pictures, prompt, tiny_llava
from transformers import GenerationConfig

import prumerge

NEW = 8
METHODS = {
    "prumerge": {},
    "prumerge+": {"spatial_factor": 1},
    "paper": {"order": "attention"},
    "random": {"budget": 5},
}
PROMPTS = [prompt(3, 5), prompt(2, 0, 9), prompt(7), prompt(1, 3, 2), prompt(6, 2)]
SHOWN = [[0], [1, 2], [], [3, 4], [5]]  # pictures of each prompt


def inputs_of(*rows, side="left"):
    chosen = [picture for row in rows for picture in SHOWN[row]]
    drawn = {"pixel_values": pictures(6)[chosen]} if chosen else {}
    return batch(*(PROMPTS[row] for row in rows), side=side) | drawn


def generate(model, inputs, **options):
    options = {"max_new_tokens": NEW, "do_sample": False} | options
    return model.generate(**inputs, **options)


def reduction_of(model, reducer, row):
    return reducer.method(reducer.encode(pictures(6)[SHOWN[row]])) if SHOWN[row] else None


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_answers_as_each_prompt_does_by_hand(method, positions):
    model = tiny_llava()
    reducer = prumerge.attach(model, method, positions=positions, **METHODS[method])
    inputs = inputs_of(0, 1, 2, 3)
    output = generate(model, inputs, return_dict_in_generate=True, output_logits=True)
    if method != "random":
        assert len(set(reducer.kept)) > 1
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    logits = torch.stack(output.logits, dim=1)
    for row in range(4):
        if method == "random":  # draws anew for each picture of a call
            continue
        reduction = reduction_of(model, reducer, row)
        answer, scores = by_hand(model, reduction, PROMPTS[row], positions, NEW)
        torch.testing.assert_close(logits[row], scores, atol=2e-4, rtol=1e-4)
        assert output.sequences[row, length:].tolist() == answer
        alone = inputs_of(row)
        assert generate(model, alone)[0, alone["input_ids"].shape[1] :].tolist() == answer


def attached(model, **overrides):
    """PruMerge+ with few enough spatial tokens that the pictures keep different numbers."""
    return prumerge.attach(model, "prumerge+", **({"spatial_factor": 1} | overrides))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, (0, 1, 2, 3)),
        ({"use_cache": False}, (0, 1, 2, 3)),
        # transformers 5.17 shows the wrong pictures to the beams of a prompt with several.
        ({"num_beams": 3}, (0, 2, 4)),
    ],
)
def test_keeping_all_tokens_is_the_stock_model(options, rows, attention):
    model, inputs = tiny_llava(attention=attention), inputs_of(*rows)
    options |= {"return_dict_in_generate": True, "output_logits": True}
    stock = generate(model, inputs, **options)
    with prumerge.attach(model, "all", order="raster"):
        ours = generate(model, inputs, **options)
    assert torch.equal(ours.sequences, stock.sequences)
    assert torch.equal(torch.stack(ours.logits), torch.stack(stock.logits))


def test_eager_and_sdpa_agree():
    model, inputs = tiny_llava(), inputs_of(0, 1, 2, 3)
    with attached(model) as reducer:
        expected = generate(model, inputs)
        kept = reducer.kept
        model.set_attn_implementation("eager")
        assert torch.equal(generate(model, inputs), expected)
    assert reducer.kept == kept and len(set(kept)) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {"prefill_chunk_size": 4, "cache_implementation": "static"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_other_ways_to_decode_give_the_same_tokens(positions, rows, options):
    model, inputs = tiny_llava(), inputs_of(*rows)
    with attached(model, positions=positions):
        assert torch.equal(generate(model, inputs, **options), generate(model, inputs))


def test_assisted_decoding_of_one_prompt():
    model, inputs = tiny_llava(), inputs_of(0)
    with attached(model):
        expected = generate(model, inputs)
        assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=2), expected)


def test_the_cache_is_really_off_when_switched_off():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    lengths = []
    with attached(model) as reducer:
        model.model.language_model.register_forward_pre_hook(
            lambda _, __, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
            with_kwargs=True,
        )
        generate(model, inputs, use_cache=False, max_new_tokens=3)
        short = reducer.prompts.input_ids.shape[1]
        assert lengths == [short, short + 1, short + 2]
        lengths.clear()
        generate(model, inputs, max_new_tokens=3)
        assert lengths == [short, 1, 1]
        cache = generate(model, inputs, return_dict_in_generate=True).past_key_values
    assert cache.get_seq_length() == short + NEW - 1 < inputs["input_ids"].shape[1]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_beams_of_a_batch_are_the_beams_of_each_prompt(positions, options):
    model = tiny_llava()
    several = options.get("num_return_sequences", 1)
    with attached(model, positions=positions):
        together = generate(model, inputs_of(0, 1, 3), **options)
        greedy = generate(model, inputs_of(0, 1, 3))
        uncached = generate(model, inputs_of(0, 1, 3), use_cache=False, **options)
        assert torch.equal(together, uncached)
        for place, row in enumerate((0, 1, 3)):
            alone = generate(model, inputs_of(row), **options)
            answers = together[place * several : (place + 1) * several, -NEW:]
            assert torch.equal(answers, alone[:, -NEW:])
    assert not torch.equal(together[::several, -NEW:], greedy[:, -NEW:])


def test_sampling_follows_the_seed():
    model, inputs = tiny_llava(), inputs_of(0, 4)
    options = {"do_sample": True, "num_return_sequences": 3, "temperature": 3.0}

    def sample(seed):
        torch.manual_seed(seed)
        return generate(model, inputs, **options)

    with attached(model):
        first, again, other = sample(1), sample(1), sample(2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[:, :-NEW], inputs["input_ids"].repeat_interleave(3, dim=0))
    with prumerge.attach(model, "all", order="raster"):
        ours = sample(1)
    assert torch.equal(ours, sample(1))  # the stock model draws the same


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_right_padding_gives_the_tokens_of_left_padding(positions):
    model = tiny_llava()
    left, right = inputs_of(0, 1, 2, 3), inputs_of(0, 1, 2, 3, side="right")
    with attached(model, positions=positions):
        expected, output = generate(model, left), generate(model, right)
    assert torch.equal(output[:, -NEW:], expected[:, -NEW:])
    assert torch.equal(output[:, :-NEW], right["input_ids"])
    with prumerge.attach(model, "all", order="raster", positions=positions):
        output = generate(model, right)
    assert torch.equal(output[:, -NEW:], generate(model, left)[:, -NEW:])


def test_a_missing_mask_is_inferred_as_the_stock_model_does():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    bare = {name: inputs[name] for name in ("input_ids", "pixel_values")}
    with attached(model):
        expected = generate(model, inputs)
        assert torch.equal(generate(model, bare), expected)
        ids = bare["input_ids"]
        positional = model.generate(
            ids, GenerationConfig(max_new_tokens=NEW), pixel_values=inputs["pixel_values"]
        )
        assert torch.equal(positional, expected)


def test_total_lengths_count_the_full_prompt():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    length = inputs["input_ids"].shape[1]
    with attached(model):
        expected = generate(model, inputs)
        options = {"max_new_tokens": None, "max_length": length + NEW}
        assert torch.equal(generate(model, inputs, **options), expected)
        config = GenerationConfig(max_length=length + NEW)
        assert torch.equal(model.generate(**inputs, generation_config=config), expected)
        assert config.max_length == length + NEW
        model.generation_config.max_length = length + NEW
        assert torch.equal(model.generate(**inputs), expected)
        model.generation_config.max_length = None
        first = int(expected[0, length])
        stops = generate(model, inputs, eos_token_id=first)[0, length:].tolist()
        assert stops == [first] + [0] * (NEW - 1)  # padded while the other prompt goes on
        longer = generate(model, inputs, eos_token_id=first, min_length=length + 3)
        assert first not in longer[:, length : length + 2]


PROMPT_READERS = {
    "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": (2, 3.0),
    "forced_eos_token_id": 9,
    "begin_suppress_tokens": list(range(4, 40)),
    "min_new_tokens": 5,
    "sequence_bias": {(7,): 20.0},
    "guidance_scale": 1.5,
}


@pytest.mark.parametrize("reader", PROMPT_READERS)
def test_options_that_look_at_the_prompt_do_as_in_the_stock_model(reader):
    model, inputs = tiny_llava(), inputs_of(0, 1)
    option = {reader: PROMPT_READERS[reader]}
    with prumerge.attach(model, "all", order="raster"):
        ours = generate(model, inputs, **option)
    assert torch.equal(ours, generate(model, inputs, **option))
    with attached(model):  # the penalties see the same prompt when tokens are dropped
        fewer = generate(model, inputs, **option)
    assert torch.equal(fewer[:, :-NEW], inputs["input_ids"])


class Keyword:
    """LLaVA's way to stop: remember the prompt's length, and look at what follows."""

    def __init__(self, keyword, input_ids):
        self.keyword, self.start = keyword, input_ids.shape[1]

    def __call__(self, input_ids, scores, **_):
        answers = input_ids[:, self.start :]
        return torch.tensor([self.keyword in row for row in answers.tolist()])


@pytest.mark.parametrize("method", ["all", "prumerge"])
def test_stopping_at_a_keyword_behind_the_prompt(method):
    model, inputs = tiny_llava(), inputs_of(0)
    length = inputs["input_ids"].shape[1]
    with prumerge.attach(model, method, order="raster") as reducer:
        answer = generate(model, inputs)[0, length:].tolist()
        assert answer[2] not in answer[:2]
        stop = {"stopping_criteria": [Keyword(answer[2], inputs["input_ids"])]}
        ours = generate(model, inputs, **stop)
    assert ours[0, length:].tolist() == answer[:3]
    if method == "all":
        assert torch.equal(ours, generate(model, inputs, **stop))
    assert reducer.kept


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "do_sample": True}])
def test_callables_see_full_prompts_and_are_obeyed(options):
    """Greedy and beams, and several returned sequences."""
    model, inputs = tiny_llava(), inputs_of(0, 4)
    length, seen = inputs["input_ids"].shape[1], []

    def prefix(row, ids):
        return [4 + (len(ids) - length) % 40, 5 + row]

    def look(ids, scores, **_):
        seen.append(ids)
        return torch.zeros(len(ids), dtype=torch.bool)

    def process(ids, scores):
        seen.append(ids)
        return scores.index_fill(1, ids[0, :1] + 7, 0.0)

    def run():
        torch.manual_seed(0)
        given = {"stopping_criteria": [look], "logits_processor": [process]}
        given |= {"prefix_allowed_tokens_fn": prefix, "num_return_sequences": 1}
        return generate(model, inputs, **(given | options))

    stock, count = run(), len(seen)
    with prumerge.attach(model, "all", order="raster"):
        assert torch.equal(run(), stock)
    assert len(seen) == 2 * count
    assert all(torch.equal(a, b) for a, b in zip(seen[:count], seen[count:], strict=True))
    with attached(model):
        fewer = run()
    prompts = {tuple(row) for row in inputs["input_ids"].tolist()}
    assert {tuple(row) for ids in seen for row in ids[:, :length].tolist()} == prompts
    assert torch.equal(fewer[:, :length], inputs["input_ids"])


def test_assisted_decoding_shows_no_states():
    model, inputs = tiny_llava(), inputs_of(0)
    options = {"prompt_lookup_num_tokens": 2, "return_dict_in_generate": True}
    with (
        attached(model),
        pytest.raises(ValueError, match="output_hidden_states with assisted decoding"),
    ):
        generate(model, inputs, output_hidden_states=True, **options)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}])
def test_original_positions_go_on_behind_the_full_prompt(options):
    """Also when the prompt ends with a picture whose last patches are dropped."""
    model = tiny_llava()
    inputs = batch(prompt(2, 0), prompt(5, 3)) | {"pixel_values": pictures(2)}
    seen = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["position_ids"][:, -1].tolist()), with_kwargs=True
    )
    with prumerge.attach(model, "paper", budget=2, positions="original") as reducer:
        generate(model, inputs, max_new_tokens=4, **options)
        assert int(reducer.reduction.positions[0][-1]) < PATCHES - 1
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    lengths = [length for length in lengths for _ in range(options.get("num_beams", 1))]
    assert seen[1:] == [[length + step for length in lengths] for step in range(3)]


def test_generation_builds_no_graph():
    model, inputs = tiny_llava(), inputs_of(0)
    grads = []
    model.model.multi_modal_projector.register_forward_hook(
        lambda *_: grads.append(torch.is_grad_enabled())
    )
    with attached(model):
        generate(model, inputs)
    assert grads == [False]


def test_compact_and_original_positions_differ():
    model, inputs = tiny_llava(), inputs_of(0)
    options = {"return_dict_in_generate": True, "output_logits": True}
    with attached(model):
        compact = generate(model, inputs, **options).logits[0]
    with attached(model, positions="original"):
        original = generate(model, inputs, **options).logits[0]
    assert (compact - original).abs().max() > 1e-2


def test_no_pictures_at_all_in_a_batch_that_had_some():
    model = tiny_llava()
    with attached(model):
        alone = generate(model, inputs_of(2))
        mixed = generate(model, inputs_of(0, 2))
    assert torch.equal(mixed[1, -NEW:], alone[0, -NEW:])


def test_bfloat16():
    model, inputs = tiny_llava(dtype=torch.bfloat16), inputs_of(0, 1, 2, 3)
    with prumerge.attach(model, "all", order="raster"):
        ours = generate(model, inputs)
    assert torch.equal(ours, generate(model, inputs))
    options = {"return_dict_in_generate": True, "output_logits": True}
    kept = []
    with attached(model) as reducer:
        together = generate(model, inputs, **options)
        expected = reducer.kept
        for row, shown in enumerate(SHOWN[:4]):
            alone = generate(model, inputs_of(row), **options)
            kept += reducer.kept if shown else []
            first = together.logits[0][row]
            torch.testing.assert_close(first, alone.logits[0][0], atol=0.3, rtol=0.1)
    assert kept == expected and len(set(kept)) > 1


def test_continuous_batching_is_for_words(monkeypatch):
    model, asked = tiny_llava(), []
    monkeypatch.setattr(
        type(model), "generate_batch", lambda self, inputs, **options: asked.append(inputs)
    )
    with attached(model):
        model.generate_batch([PROMPTS[2]], max_new_tokens=2)
        with pytest.raises(ValueError, match="generate_batch takes no pictures"):
            model.generate_batch(inputs=PROMPTS[:3])
    assert asked == [[PROMPTS[2]]]
