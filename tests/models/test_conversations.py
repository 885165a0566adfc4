"""A second turn goes on from the first one's KV cache, with a picture or without."""

import copy

import pytest
import torch
from test_generate import SHOWN, attached, inputs_of
from toy import IMAGE, PATCHES, batch, pictures, prompt, tiny_llava
from transformers import DynamicCache, StaticCache

import prumerge

NEW = 4
RAW = {"return_dict_in_generate": True, "output_logits": True}
TURNS = {"text": prompt(4, seed=3)[1:], "picture": prompt(2, 3, seed=3)[1:]}


def ask(model, inputs, **options):
    options = {"max_new_tokens": NEW, "do_sample": False} | RAW | options
    return model.generate(**inputs, **options)


def next_turn(inputs, sequences, turn):
    """The conversation so far with one more turn in each row; its pictures stand apart."""
    new = torch.tensor(TURNS[turn]).expand(len(sequences), -1)
    mask = inputs["attention_mask"]
    longer = {"input_ids": torch.cat([sequences, new], dim=1)}
    ones = torch.ones(len(mask), longer["input_ids"].shape[1] - mask.shape[1], dtype=torch.long)
    longer["attention_mask"] = torch.cat([mask, ones], dim=1)
    shown = {"pixel_values": pictures(6).flip(0)[: len(mask)]} if turn == "picture" else {}
    return longer, shown


def from_scratch(inputs, longer, shown, rows):
    """The same conversation as one call: all pictures, row by row."""
    earlier = inputs["pixel_values"].split([len(SHOWN[row]) for row in rows])
    later = shown["pixel_values"].split(1) if shown else [earlier[0][:0]] * len(rows)
    together = [part for pair in zip(earlier, later, strict=True) for part in pair]
    return longer | {"pixel_values": torch.cat(together)}


def two_turns(model, turn, rows, **options):
    """Return both answers of a conversation, and the second one from scratch."""
    inputs = inputs_of(*rows)
    first = ask(model, inputs, **options)
    longer, shown = next_turn(inputs, first.sequences, turn)
    second = ask(model, longer | shown, past_key_values=first.past_key_values)
    return first, second, ask(model, from_scratch(inputs, longer, shown, rows))


@pytest.mark.parametrize("rows", [(0,), (0, 1)])
@pytest.mark.parametrize("turn", TURNS)
def test_keeping_all_tokens_goes_on_as_the_stock_model_does(turn, rows):
    model = tiny_llava()
    _, stock, _ = two_turns(model, turn, rows)
    with prumerge.attach(model, "all", order="raster"):
        _, ours, _ = two_turns(model, turn, rows)
    assert torch.equal(ours.sequences, stock.sequences)
    assert torch.equal(torch.stack(ours.logits), torch.stack(stock.logits))


@pytest.mark.parametrize("positions", ["compact", "original", "stretched"])
@pytest.mark.parametrize("turn", TURNS)
def test_going_on_is_the_whole_conversation_at_once(turn, positions):
    model, rows = tiny_llava(), (0, 1)
    with attached(model, positions=positions) as reducer:
        first, second, whole = two_turns(model, turn, rows)
        assert len(set(reducer.kept)) > 1
    assert second.past_key_values.get_seq_length() < second.sequences.shape[1] - PATCHES
    assert torch.equal(second.sequences, whole.sequences)
    logits = [torch.stack(answer.logits) for answer in (second, whole)]
    torch.testing.assert_close(*logits, atol=2e-4, rtol=1e-4)
    assert torch.equal(first.sequences, second.sequences[:, : first.sequences.shape[1]])


def test_a_third_turn_and_a_copy_of_the_cache():
    model, inputs = tiny_llava(), inputs_of(4)
    with attached(model):
        _, second, _ = two_turns(model, "picture", (4,))
        longer, _ = next_turn(inputs, second.sequences, "text")
        cache = copy.deepcopy(second.past_key_values)
        third = ask(model, longer, past_key_values=second.past_key_values)
        assert torch.equal(ask(model, longer, past_key_values=cache).sequences, third.sequences)
        shown = torch.cat([inputs["pixel_values"], pictures(6).flip(0)[:1]])
        whole = ask(model, longer | {"pixel_values": shown})
    assert torch.equal(third.sequences, whole.sequences)


@pytest.mark.parametrize("turn", TURNS)
def test_the_new_turn_alone_with_a_mask_of_the_whole(turn):
    model, inputs = tiny_llava(), inputs_of(0, 1)
    new = len(TURNS[turn]) + 1  # the last token of an answer has not been read yet
    with attached(model):
        first, second, _ = two_turns(model, turn, (0, 1))
        longer, shown = next_turn(inputs, first.sequences, turn)
        cache = ask(model, inputs).past_key_values
        alone = longer | shown | {"input_ids": longer["input_ids"][:, -new:]}
        answer = ask(model, alone, past_key_values=cache)
        assert torch.equal(answer.sequences, second.sequences[:, -new - NEW :])
        again, _ = next_turn(longer, second.sequences, "text")  # the cache knows the conversation
        assert (
            ask(model, again, past_key_values=cache).sequences.shape[1]
            > again["input_ids"].shape[1]
        )


def test_a_cache_handed_in_from_the_first_turn_on():
    model, inputs = tiny_llava(), inputs_of(4)
    cache = DynamicCache(config=model.config.text_config)
    static = StaticCache(config=model.config.text_config, max_cache_len=128)
    with attached(model):
        first, second, _ = two_turns(model, "text", (4,))
        longer, _ = next_turn(inputs, first.sequences, "text")
        for given in (cache, static):
            plain = {"past_key_values": given, "return_dict_in_generate": False}
            plain["output_logits"] = False
            assert torch.equal(ask(model, inputs, **plain), first.sequences)
            assert torch.equal(ask(model, longer, **plain), second.sequences)


def test_several_answers_go_on_side_by_side():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 2, "temperature": 3.0}
    options["suppress_tokens"] = [IMAGE]
    with attached(model):
        first = ask(model, inputs, **options)
        each = {name: rows.repeat_interleave(2, dim=0) for name, rows in inputs.items()}
        longer, _ = next_turn(each, first.sequences, "text")
        second = ask(model, longer, past_key_values=first.past_key_values)
        shown = pictures(6)[[0, 0, 1, 2, 1, 2]]
        whole = ask(model, longer | {"pixel_values": shown})
    assert torch.equal(second.sequences, whole.sequences)


def test_a_picture_behind_a_cache_of_words_alone():
    model, words = tiny_llava(), inputs_of(2)
    with attached(model) as reducer:
        first = ask(model, words)
        longer, shown = next_turn(words, first.sequences, "picture")
        second = ask(model, longer | shown, past_key_values=first.past_key_values)
        assert second.past_key_values.get_seq_length() < second.sequences.shape[1] - 1
        whole = ask(model, longer | shown)
        assert len(reducer.kept) == 1 and reducer.kept[0] < PATCHES
    assert torch.equal(second.sequences, whole.sequences)


def test_generate_goes_on_from_a_forward_pass():
    model, inputs = tiny_llava(), inputs_of(4)
    with attached(model):
        cache = model(**inputs, use_cache=True).past_key_values
        longer, _ = next_turn(inputs, inputs["input_ids"], "text")
        second = ask(model, longer, past_key_values=cache)
        whole = ask(model, longer | {"pixel_values": inputs["pixel_values"]})
    assert torch.equal(second.sequences, whole.sequences)


def cropped(cache, longer):
    cache.crop(-1)
    return longer


def another_conversation(_, longer):
    ids = longer["input_ids"].clone()
    ids[0, 1] += 1
    return longer | {"input_ids": ids}


def no_new_turn(cache, longer):
    return {name: rows[:, : 1 - len(TURNS["text"]) - 2] for name, rows in longer.items()}


def a_row_more(_, longer):
    return {name: torch.cat([rows, rows]) for name, rows in longer.items()}


def a_mask_too_short(_, longer):
    return longer | {"input_ids": longer["input_ids"][:, -2:]}


def a_picture_without_pixels(_, longer):
    ids = longer["input_ids"].clone()
    ids[0, -1] = IMAGE
    return longer | {"input_ids": ids}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cropped, r"holds \d+ tokens, but generate left \d+ in it: one that was cropped"),
        (another_conversation, "another conversation: .* in row 0 at column 1"),
        (no_new_turn, r"has read \[1, \d+\] tokens, input_ids are \[1, \d+\]"),
        (a_row_more, r"has read \[1, \d+\] tokens, input_ids are \[2, \d+\]"),
        (a_mask_too_short, r"attention_mask covers \d+ tokens, but past_key_values has read"),
        (a_picture_without_pixels, "run of 1 image placeholders"),
    ],
)
def test_a_cache_that_does_not_line_up_is_refused(change, message):
    model, inputs = tiny_llava(), inputs_of(4)
    with attached(model):
        first = ask(model, inputs)
        longer, _ = next_turn(inputs, first.sequences, "text")
        cache = first.past_key_values
        with pytest.raises(ValueError, match=message):
            ask(model, change(cache, longer), past_key_values=cache)


def test_caches_without_a_record_are_refused():
    model, inputs = tiny_llava(), inputs_of(4)
    stock = ask(model, inputs)
    with attached(model):
        beams = ask(model, inputs, num_beams=2)
        by_hand = model(**inputs_of(0, 1), use_cache=True)
        for answer, asked in ((stock, inputs), (beams, inputs), (by_hand, inputs_of(0, 1))):
            longer, shown = next_turn(asked, asked["input_ids"], "picture")
            for turn in (longer, longer | shown):
                with pytest.raises(ValueError, match="no record of how the pictures"):
                    ask(model, turn, past_key_values=answer.past_key_values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_cache": False}, "use_cache=False with past_key_values"),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size cannot go on"),
    ],
)
def test_ways_to_decode_that_cannot_go_on(options, message):
    model, inputs = tiny_llava(), inputs_of(4)
    with attached(model):
        first = ask(model, inputs)
        longer, _ = next_turn(inputs, first.sequences, "text")
        with pytest.raises(ValueError, match=message):
            ask(model, longer, past_key_values=first.past_key_values, **options)


def test_forward_does_not_go_on_with_pictures_or_full_masks():
    model, inputs = tiny_llava(), inputs_of(4)
    with attached(model):
        cache = ask(model, inputs).past_key_values
        with pytest.raises(ValueError, match=r"already holds .* let generate go on"):
            model(**inputs, past_key_values=cache)
        new = batch(prompt(2))["input_ids"]
        full = torch.ones(1, inputs["input_ids"].shape[1] + NEW + 2, dtype=torch.long)
        with pytest.raises(ValueError, match=r"prompts\.attention_mask"):
            model(new, attention_mask=full, past_key_values=cache)
