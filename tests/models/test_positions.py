"""Order and position ids: three of each, the same answer batched, cached, padded and by hand."""

import pytest
import torch
from toy import batch, by_hand, pictures, prompt, tiny_llava

import prumerge
from prumerge import Settings
from prumerge.models.positions import stretch
from prumerge.reduction import DISTINCT, FILL, OUTLIER, SPATIAL, arrange

NEW = 5
KINDS = ["compact", "original", "stretched"]
PROMPTS = [prompt(3, 5), prompt(2, 0, 9), prompt(6, 0)]  # the last one ends with its picture
SHOWN = [[0], [1, 2], [3]]


def inputs_of(*rows, side="left"):
    shown = [picture for row in rows for picture in SHOWN[row]]
    return batch(*(PROMPTS[row] for row in rows), side=side) | {"pixel_values": pictures(4)[shown]}


def answers(model, inputs, **options):
    output = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)
    return output[:, -NEW:].tolist()


@pytest.mark.parametrize(
    ("count", "patches", "places"),
    [
        (0, 16, []),
        (1, 16, [7]),
        (2, 16, [0, 15]),
        (3, 16, [0, 8, 15]),
        (4, 16, [0, 5, 10, 15]),
        (5, 5, [0, 1, 2, 3, 4]),
        (1, 1, [0]),
        (3, 2, [0, 1, 1]),
    ],
)
def test_stretched_places(count, patches, places):
    assert stretch(count, patches).tolist() == places


@pytest.mark.parametrize("count", range(2, 577, 41))
def test_stretching_is_even_to_the_rounding(count):
    places = stretch(count, 576).tolist()
    assert places[0] == 0 and places[-1] == 575 and len(set(places)) == count
    assert all(abs(place - j * 575 / (count - 1)) <= 0.5 for j, place in enumerate(places))


def expected_answer(model, reducer, row, kind):
    reduction = reducer.method(reducer.encode(pictures(4)[SHOWN[row]]))
    return by_hand(model, reduction, PROMPTS[row], kind, NEW)[0]


@pytest.mark.parametrize("order", ["attention", "raster"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_with_cache_answers_as_each_prompt_by_hand(kind, order):
    model = tiny_llava()
    settings = {"positions": kind, "order": order, "spatial_factor": 1}
    with prumerge.attach(model, "prumerge+", **settings) as reducer:
        expected = [expected_answer(model, reducer, row, kind) for row in range(3)]
        assert answers(model, inputs_of(0, 1, 2)) == expected
        assert len(set(reducer.kept)) > 1
        assert answers(model, inputs_of(0, 1, 2, side="right")) == expected
        assert answers(model, inputs_of(0, 1, 2), use_cache=False) == expected
        assert answers(model, inputs_of(1)) == expected[1:2]


def test_ids_differ_and_so_do_answers():
    model, logits = tiny_llava(), []
    for kind in KINDS:
        with prumerge.attach(model, "top_k", budget=5, positions=kind), torch.no_grad():
            logits.append(model(**inputs_of(0, 1)).logits)
    assert logits[0].shape == logits[1].shape == logits[2].shape
    assert not any(torch.allclose(logits[a], logits[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_stretched_forward_passes_the_ids_it_says():
    model, seen = tiny_llava(), []
    model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with prumerge.attach(model, "top_k", budget=4, positions="stretched"), torch.no_grad():
        model(**inputs_of(0, 2))
    # Prompt 0: begin and 3 words, 4 tokens over 16 patches, 5 words. Prompt 2: 7, then the picture.
    first = [0, 1, 2, 3, 4, 9, 14, 19, 20, 21, 22, 23, 24]
    second = [0, 1, 2, 3, 4, 5, 6, 7, 12, 17, 22]
    ids = seen[0].tolist()
    assert ids[0] == first and ids[1][-len(second) :] == second


@pytest.mark.parametrize("kind", ["original", "stretched"])
def test_all_tokens_keep_their_ids(kind):
    model, inputs = tiny_llava(), inputs_of(0, 1, 2)
    expected = answers(model, inputs)
    with prumerge.attach(model, "all", positions=kind):
        assert answers(model, inputs) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("attention", [7, 3, 1, 0, 5, 6]),
        ("grouped", [1, 3, 7, 0, 5, 6]),
        ("raster", [0, 1, 3, 5, 6, 7]),
    ],
)
def test_orders(order, expected):
    reason = torch.tensor([[SPATIAL, FILL, 0, OUTLIER, 0, DISTINCT, SPATIAL, OUTLIER]])
    scores = torch.tensor([[9.0, 1.0, 8.0, 2.0, 7.0, 6.0, 5.0, 3.0]])
    selection = arrange(reason.to(torch.int8), scores, Settings(order=order))
    assert selection.order.tolist() == [expected]
