"""State belongs to the call: threads, generations inside generations, copies and saved models."""

import copy
import inspect
import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_generate import attached, inputs_of
from test_generate import generate as generate_eight
from toy import tiny_llava
from transformers import TextIteratorStreamer

import prumerge
from prumerge.models.attachment import attachment_of

OTHERS = {"text": (2,), "one picture": (4,), "several": (0, 1, 2, 3)}
NEW = 3


def generate(model, inputs, **options):
    return generate_eight(model, inputs, **({"max_new_tokens": NEW} | options))


def interrupted(other, where):
    """Options of a generation that calls ``other`` after each of its tokens."""

    def criterion(input_ids, scores, **_):
        other()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def processor(input_ids, scores):
        other()
        return scores

    return {where: [{"stopping_criteria": criterion, "logits_processor": processor}[where]]}


@pytest.mark.parametrize(("rows", "beams"), [((2,), 1), ((4,), 2), ((0, 1, 2, 3), 1)])
def test_another_thread_generates_between_the_tokens(rows, beams):
    model, inputs, others = tiny_llava(), inputs_of(0, 1), inputs_of(*rows)
    seen = []
    with attached(model), ThreadPoolExecutor(1) as thread:
        expected, other = generate(model, inputs), generate(model, others, num_beams=beams)

        def ask():
            seen.append(thread.submit(generate, model, others, num_beams=beams).result())

        between = interrupted(ask, "stopping_criteria")
        assert torch.equal(generate(model, inputs, **between), expected)
    assert len(seen) == NEW and all(torch.equal(each, other) for each in seen)


@pytest.mark.parametrize("where", ["stopping_criteria", "logits_processor"])
@pytest.mark.parametrize("rows", OTHERS.values(), ids=OTHERS)
def test_a_generation_inside_a_generation(rows, where):
    model, inputs, others = tiny_llava(), inputs_of(0, 1), inputs_of(*rows)
    seen = []
    with attached(model) as reducer:
        other = generate(model, others)
        expected, kept = generate(model, inputs), reducer.kept
        within = interrupted(lambda: seen.append(generate(model, others)), where)
        assert torch.equal(generate(model, inputs, **within), expected)
        assert (reducer.kept == kept) == (2 in rows and len(rows) == 1)  # the last call's
    assert len(seen) == NEW and all(torch.equal(each, other) for each in seen)


def test_each_thread_is_told_of_its_own_last_call():
    model, told = tiny_llava(), []
    with attached(model) as reducer, ThreadPoolExecutor(1) as thread:
        generate(model, inputs_of(0, 1))
        mine, prompts = reducer.kept, reducer.prompts
        thread.submit(lambda: told.append((reducer.kept, reducer.reduction, reducer.prompts)))
        thread.submit(lambda: (generate(model, inputs_of(4)), told.append(reducer.kept))).result()
        assert reducer.kept == mine and reducer.prompts is prompts
    assert told[0] == ([], None, None)
    assert len(told[1]) == 1 and len(mine) == 3


class Words:
    """A tokenizer that spells token ids out."""

    def decode(self, ids, **_):
        return "".join(f"{int(token)} " for token in ids)


def test_streams_of_two_threads():
    model, inputs, text = tiny_llava(), inputs_of(4), inputs_of(2)
    with attached(model):
        expected = [generate(model, each)[0].tolist() for each in (inputs, text)]
        streams = [TextIteratorStreamer(Words(), timeout=60) for _ in expected]
        threads = [
            threading.Thread(target=generate, args=(model, each), kwargs={"streamer": stream})
            for each, stream in zip((inputs, text), streams, strict=True)
        ]
        for thread in threads:
            thread.start()
        streamed = [[int(word) for word in "".join(stream).split()] for stream in streams]
        for thread in threads:
            thread.join()
    assert streamed == expected  # prompt and answer, as the stock model streams them


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "stream": {},
    "penalty": {"repetition_penalty": 9.0, "use_cache": False},
}


def test_two_hundred_requests_from_four_threads():
    """Texts, one picture, several, in every way; each gets the answer it gets alone."""
    model = tiny_llava()
    kinds = [(rows, way) for rows in ((2,), (4,), (0, 1)) for way in WAYS]

    def answer(kind):
        rows, way = kind
        options, inputs = WAYS[way], inputs_of(*rows[: 1 if way == "stream" else None])
        if way != "stream":
            found = generate(model, inputs, **options).tolist()
        else:
            stream = TextIteratorStreamer(Words(), timeout=60)
            generate(model, inputs, streamer=stream)
            found = "".join(stream)
        return found, None if rows == (2,) else reducer.kept

    with attached(model) as reducer:
        alone = {kind: answer(kind) for kind in kinds}
        requests = (kinds * 17)[:200]
        random.Random(0).shuffle(requests)
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(answer, requests))
    right = sum(alone[kind] == found for kind, found in zip(requests, together, strict=True))
    assert right == len(requests) == 200


def test_a_saved_model_comes_back_attached():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    file = io.BytesIO()
    with attached(model) as reducer:
        expected = generate(model, inputs)
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        twin = attachment_of(again)
        assert twin is not reducer and twin.model is again and twin.kept == []
        with torch.no_grad():
            model.lm_head.weight.zero_()
        assert torch.equal(generate(again, inputs), expected)
        assert twin.kept == reducer.kept
    twin.detach()
    assert attachment_of(again) is None
    assert not torch.equal(generate(again, inputs), expected)


def test_taken_apart_like_a_bound_method():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    stock = inspect.signature(type(model).forward)
    with prumerge.attach(model, "uniform", budget=3):
        expected = model(**inputs).logits
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.lm_head.weight.mul_(2)
        function = model.forward.__func__
        assert model.forward.__self__ is model and inspect.signature(function) == stock
        assert torch.equal(function(model, **inputs).logits, expected)
        assert torch.equal(function(twin, **inputs).logits, 2 * expected)
