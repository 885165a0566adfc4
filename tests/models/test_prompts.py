"""Placeholders are counted picture by picture, and prompts shrink to what is really sent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prumerge.models import prompts
from prumerge.models.prompts import shorten

X = 9  # placeholder
LONG = torch.long


def long(rows):
    return torch.tensor(rows, dtype=LONG)


def kept(*pictures):
    return [torch.tensor(patches, dtype=LONG) for patches in pictures]


def find_placeholders(ids, token, pictures, patches):
    """Of pictures with equally many patches each."""
    return prompts.find_placeholders(ids, token, [(patches,)] * pictures, each=patches)


def test_placeholders_are_found_picture_by_picture():
    ids = long([[1, X, X, 2, X, X], [X, X, X, X, 5, 6]])
    found = find_placeholders(ids, X, 4, 2)
    assert [own.tolist() for own in found] == [[1, 2], [4, 5], [6, 7], [8, 9]]


def test_a_run_across_two_rows_is_two_pictures():
    ids = long([[1, 2, X, X], [X, X, 3, 4]])
    assert [own.tolist() for own in find_placeholders(ids, X, 2, 2)] == [[2, 3], [4, 5]]


def test_no_pictures_and_no_placeholders_agree():
    assert find_placeholders(long([[1, 2]]), X, 0, 4) == []


@pytest.mark.parametrize(
    ("rows", "row", "picture", "run"),
    [
        ([[1, X, X, 2, X], [X, X, X, 3, 4]], 0, 1, 1),  # swapped between rows: totals agree
        ([[X, 1, X, X, X]], 0, 0, 1),  # swapped within a row: totals agree
        ([[1, X, X, 1, 1], [X, X, 4, X, 5]], 1, 1, 1),
        ([[X, X, X, 4, 5]], 0, 0, 3),
    ],
)
def test_wrong_counts_are_refused_by_row_and_picture(rows, row, picture, run):
    pictures = max(1, sum(ids.count(X) for ids in rows) // 2)
    message = f"prompt {row} has a run of {run} image placeholders .* picture {picture} .*2 visual"
    with pytest.raises(ValueError, match=message):
        find_placeholders(long(rows), X, pictures, 2)


def test_as_many_pictures_as_runs():
    with pytest.raises(ValueError, match=r"3 pictures .* show 2 \(per prompt: \[2, 0\]"):
        find_placeholders(long([[X, X, X, X], [1, 2, 3, 4]]), X, 3, 2)


def test_one_picture_by_hand():
    ids = long([[1, X, X, X, 7]])
    slots = find_placeholders(ids, X, 1, 3)
    short = shorten(ids, torch.ones_like(ids), slots, kept([0, 2]))
    assert short.input_ids.tolist() == [[1, X, X, 7]]
    assert short.source.tolist() == [[0, 1, 3, 4]]
    assert short.visual.tolist() == [[False, True, True, False]]
    assert short.pick(long([[10, 11, 12, 13, 14]]), -100).tolist() == [[10, 11, 13, 14]]


def test_order_of_the_visual_tokens_is_kept():
    ids = long([[1, X, X, X, 7]])
    slots = find_placeholders(ids, X, 1, 3)
    short = shorten(ids, torch.ones_like(ids), slots, kept([2, 0, 1]))
    assert short.source.tolist() == [[0, 3, 1, 2, 4]]


@pytest.mark.parametrize(("side", "first"), [("left", [1, 1, X, 7]), ("right", [1, X, 7, 1])])
def test_unequal_rows_are_padded_on_the_wanted_side(side, first):
    ids = long([[1, X, X, 7], [1, X, X, 7]])
    slots = find_placeholders(ids, X, 2, 2)
    short = shorten(ids, torch.ones_like(ids), slots, kept([1], [0, 1]), side)
    assert short.input_ids.tolist() == [first, [1, X, X, 7]]
    assert short.attention_mask.sum(dim=1).tolist() == [3, 4]
    assert (short.source < 0).sum(dim=1).tolist() == [1, 0]


def test_padding_changes_sides():
    ids, mask = long([[1, X, X, 7, 0], [1, X, X, 7, 8]]), long([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    short = shorten(ids, mask, find_placeholders(ids, X, 2, 2), kept([0, 1], [0, 1]), "left")
    assert short.input_ids.tolist() == [[1, 1, X, X, 7], [1, X, X, 7, 8]]


def test_nothing_removed_leaves_the_layout_alone():
    ids = long([[0, 0, 1, X, X, 7], [0, 1, X, X, 7, 8]])  # a column of padding in both rows
    mask = (ids != 0).long()
    short = shorten(ids, mask, find_placeholders(ids, X, 2, 2), kept([0, 1], [1, 0]))
    assert short.input_ids.tolist() == ids.tolist()
    assert short.attention_mask.tolist() == mask.tolist()


def test_a_picture_may_send_nothing_or_more_than_its_patches():
    ids = long([[1, X, X, 7], [1, X, X, 8]])
    slots = find_placeholders(ids, X, 2, 2)
    short = shorten(ids, torch.ones_like(ids), slots, kept([], [0, 1, 1]))
    assert short.input_ids.tolist() == [[1, 1, 1, 1, 7], [1, X, X, X, 8]]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), patches=st.integers(1, 5), side=st.sampled_from(["left", "right"]))
def test_a_batch_is_its_rows_alone(data, patches, side):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4), label="pictures")
    rows = []
    for count in counts:
        row = [1]
        for _ in range(count):
            row += [X] * patches + [4] * data.draw(st.integers(0, 2))
        rows.append(row)
    chosen = [
        torch.randperm(patches)[: data.draw(st.integers(0, patches))] for _ in range(sum(counts))
    ]
    length = max(map(len, rows))
    ids = long([[0] * (length - len(row)) + row for row in rows])
    mask = (ids != 0).long()
    slots = find_placeholders(ids, X, sum(counts), patches)
    short = shorten(ids, mask, slots, chosen, side)
    for index, row in enumerate(rows):
        own = chosen[sum(counts[:index]) : sum(counts[: index + 1])]
        alone = long([row])
        places = find_placeholders(alone, X, len(own), patches)
        expected = shorten(alone, torch.ones_like(alone), places, own)
        real = short.attention_mask[index].bool()
        assert short.input_ids[index, real].tolist() == expected.input_ids[0].tolist()
        moved = short.source[index, real] - (length - len(row))
        assert moved.tolist() == expected.source[0].tolist()
        assert int(short.visual[index].sum()) == sum(map(len, own))
