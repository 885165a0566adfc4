"""Rivals that weigh difference against score or question, by their definitions with loops."""

import math

import pytest
import torch

from prumerge import Encoded, resolve
from prumerge.reduction import OUTLIER, SPATIAL
from prumerge.rivals.dpp import conditional_kernel, largest_volume
from prumerge.rivals.hiprune import anchor_first, with_neighbours
from prumerge.rivals.holov import contrasts, share_out
from prumerge.rivals.scope import cover_greedily
from prumerge.rivals.shared import cosines


def drawn(images, patches, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, patches, width, generator=generator)


def seen(images=3, patches=36, width=6, **more):
    features, side = drawn(images, patches, width), math.isqrt(patches)
    scores = drawn(images, patches, seed=1)[..., 0].softmax(dim=1)
    return Encoded(features, features, scores, (side, side), **more)


def sets_of(reduction):
    return [set(places.tolist()) for places in reduction.positions]


# SCOPE


def cover_by_loops(similarity, scores, picks):
    patches, chosen = range(len(scores)), []
    while len(chosen) < picks:
        gains = {}
        for new in patches:
            if new in chosen:
                continue
            gain = 0.0
            for other in patches:
                covered = max([0.0, *(float(similarity[other][pick]) for pick in chosen)])
                gain += max(0.0, float(similarity[other][new]) - covered)
            gains[new] = float(scores[new]) * gain
        chosen.append(max(gains, key=gains.get))
    return chosen


def test_scope_is_the_greedy_rule():
    pictures = seen(patches=25)
    similarity = cosines(pictures.features)
    found = cover_greedily(similarity, pictures.scores, 9)
    for row in range(3):
        assert found[row].tolist() == cover_by_loops(similarity[row], pictures.scores[row], 9)
    assert sets_of(resolve("scope", budget=9)(pictures)) == [set(row) for row in found.tolist()]


def test_scope_by_hand():
    # Patches 0 and 1 are alike, 2 stands alone. First 0: 0.4 * (1 + 0.9) beats 0.3 * 1.9 and
    # 0.3 * 1. Then 1 adds 0.3 * 0.1 only, 2 adds 0.3 * 1.
    similarity = torch.tensor([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    scores = torch.tensor([[0.4, 0.3, 0.3]])
    assert cover_greedily(similarity, scores, 3).tolist() == [[0, 2, 1]]


def test_scope_without_scores_is_facility_location_and_without_likeness_top_k():
    apart = torch.eye(6)[None]
    scores = torch.tensor([[0.1, 0.3, 0.05, 0.2, 0.25, 0.1]])
    assert cover_greedily(apart, scores, 4).tolist() == [[1, 4, 3, 0]]
    groups = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2), torch.ones(1, 1))[None]
    assert cover_greedily(groups, torch.ones(1, 6), 3).tolist() == [[0, 3, 5]]


# Determinants


def volume_by_determinants(kernel, picks):
    chosen = []
    while len(chosen) < picks:
        rest = [patch for patch in range(len(kernel)) if patch not in chosen]
        with_each = {
            patch: float(torch.det(kernel[[*chosen, patch]][:, [*chosen, patch]].double()))
            for patch in rest
        }
        best = max(with_each.values())
        chosen.append(next(p for p in rest if with_each[p] >= best * (1 - 1e-9)))
    return chosen


def test_dpp_picks_the_largest_determinant_each_time():
    pictures = seen(patches=25, width=12)
    kernel = cosines(pictures.features)
    found = largest_volume(kernel, 8)
    for row in range(3):
        assert found[row].tolist() == volume_by_determinants(kernel[row], 8)
    assert (found[:, 0] == 0).all()  # all are equal at the start
    assert sets_of(resolve("dpp", budget=8)(pictures)) == [set(row) for row in found.tolist()]


def test_dpp_by_hand():
    # After 0, what is left of 1 is 1 - 0.8^2 = 0.36, of 2 all, of 3 half; after 2, nothing of 3.
    half = 2**-0.5
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [half, half, 0]])
    assert largest_volume((directions @ directions.T)[None], 4).tolist() == [[0, 2, 1, 3]]


def test_dpp_goes_on_where_nothing_is_left():
    """More picks than dimensions, and doubles: still as many as wanted, none twice, no NaN."""
    features = drawn(2, 20, width=3)
    features[:, 10:] = features[:, :10]
    order = largest_volume(cosines(features), 20)
    assert [sorted(row) for row in order.tolist()] == [list(range(20))] * 2
    assert all(len({place % 10 for place in row[:3]}) == 3 for row in order.tolist())


# CDPruner


def test_cdpruner_prefers_what_lies_away_from_the_text_as_released():
    pictures = seen(relevance=drawn(3, 36, seed=5)[..., 0] / 10)
    found = resolve("cdpruner", budget=7)(pictures)
    for row in range(3):
        away = [-float(value) for value in pictures.relevance[row]]
        low, high = min(away), max(away)
        weight = torch.tensor([(value - low + 1e-6) / (high - low) for value in away])
        similarity = cosines(pictures.features)[row]
        kernel = weight[:, None] * similarity * weight
        expected = volume_by_determinants(kernel, 6)  # the sixth dimension is the last
        assert set(expected) <= set(found.positions[row].tolist())


def test_cdpruner_with_equal_relevance_is_dpp():
    equal = seen(relevance=torch.full((3, 36), 0.3))
    assert sets_of(resolve("cdpruner", budget=6)(equal)) == sets_of(resolve("dpp", budget=6)(equal))


def test_the_kernel_of_a_question_by_hand():
    similarity = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
    kernel = conditional_kernel(similarity, torch.tensor([[0.1, 0.3]]))
    expected = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(kernel, expected, atol=2e-5, rtol=0)


def test_cdpruner_without_a_question_says_how_to_add_one():
    with pytest.raises(ValueError, match=r"cdpruner needs to know the question.*read_text"):
        resolve("cdpruner", budget=6)(seen())


# HoloV


def holov_by_loops(features, scores, budget, runs):
    patches, size = len(scores), len(scores) // runs
    worth, contrast = [], []
    for run in range(runs):
        own = range(run * size, (run + 1) * size)
        for i in own:
            alike = [
                0.0 if i == j else float(torch.cosine_similarity(features[i], features[j], dim=0))
                for j in own
            ]
            mean = sum(alike) / (size - 1)
            contrast.append(sum((value - mean) ** 2 for value in alike) / (size - 1))
    scaled = [1000 * float(score) for score in scores]
    balance = (sum(scaled) / patches) / (sum(contrast) / patches)
    each = [a + 0.09 * v * balance for a, v in zip(scaled, contrast, strict=True)]
    worth = [sum(each[run * size : (run + 1) * size]) / size for run in range(runs)]
    quota = [min(size, math.floor(budget * value / sum(worth))) for value in worth]
    while sum(quota) < budget:
        for run in sorted(range(runs), key=lambda run: -worth[run]):
            if quota[run] < size and sum(quota) < budget:
                quota[run] += 1
    kept = set()
    for run in range(runs):
        own = sorted(range(run * size, (run + 1) * size), key=lambda p: -float(scores[p]))
        kept |= set(own[: quota[run]])
    return kept


@pytest.mark.parametrize("budget", [5, 16, 40, 60])
def test_holov_is_the_published_rule(budget):
    pictures = seen(patches=64)
    found = sets_of(resolve("holov", budget=budget)(pictures))
    for row in range(3):
        expected = holov_by_loops(pictures.features[row], pictures.scores[row], budget, runs=16)
        assert found[row] == expected


def test_contrasts_by_hand():
    # Run 0: patch 0 is like 1 (0.8) and 2 (0.2): mean 0.5; squares 0.25 (itself), 0.09, 0.09.
    similarity = torch.tensor([[1.0, 0.8, 0.2, 9.0], [0.8, 1, 0, 9], [0.2, 0, 1, 9], [9, 9, 9, 1]])
    found = contrasts(similarity[None], torch.tensor([0, 0, 0, 1]))
    assert found[0, 0].item() == pytest.approx(0.43 / 2)
    assert found[0, 3].item() == 0  # alone in its run


def test_tokens_are_shared_out_by_worth_up_to_the_room():
    # 8 * 0.7 = 5.6, cut to the room of 3; 1.6 and 0.8 are 1 and 0; the 4 left go 2, 3, 2, 3.
    found = share_out(torch.tensor([8]), torch.tensor([[7.0, 2.0, 1.0]]), torch.tensor([3, 3, 3]))
    assert found.tolist() == [[3, 3, 2]]
    none = share_out(torch.tensor([4]), torch.zeros(1, 2), torch.tensor([3, 3]))
    assert none.tolist() == [[2, 2]]


# HiPrune


def test_neighbours_are_index_differences_cut_at_the_ends():
    marks = torch.zeros(3, 12, dtype=torch.bool)
    marks[0, 5] = marks[1, 0] = marks[2, 11] = True
    found = [row.nonzero().flatten().tolist() for row in with_neighbours(marks, columns=4)]
    assert found == [[1, 4, 5, 6, 9], [0, 1, 4], [7, 10, 11]]


@pytest.mark.parametrize(("budget", "anchors"), [(10, 0), (25, 0), (26, 1), (60, 1), (100, 2)])
def test_hiprune_gives_a_tenth_to_anchors_with_neighbours(budget, anchors):
    middle, deep = drawn(2, 144, seed=2)[..., 0], drawn(2, 144, seed=3)[..., 0]
    around, filled = anchor_first(middle, deep, torch.full((2,), budget), columns=12)
    for row in range(2):
        best = sorted(range(144), key=lambda p: -float(middle[row, p]))[:anchors]
        steps = (0, -1, 1, -12, 12)
        expected = {min(max(patch + step, 0), 143) for patch in best for step in steps}
        assert set(around[row].nonzero().flatten().tolist()) == expected
        others = [patch for patch in range(144) if patch not in expected]
        others.sort(key=lambda patch: -float(deep[row, patch]))
        assert set(filled[row].nonzero().flatten().tolist()) == set(
            others[: budget - len(expected)]
        )


def test_hiprune_reads_the_middle_block_from_the_pictures():
    middle = drawn(3, 144, seed=2)[..., 0]
    asked = []

    def rerun(function, chosen):
        asked.append(chosen.tolist())
        return middle

    pictures = seen(patches=144, rerun=rerun)
    reason = resolve("hiprune", budget=60)(pictures).selection.reason
    assert asked == [[0, 1, 2]]
    around, filled = anchor_first(middle, pictures.scores, torch.full((3,), 60), 12)
    assert torch.equal(reason == SPATIAL, around) and torch.equal(reason == OUTLIER, filled)
    with pytest.raises(ValueError, match=r"hiprune encodes the pictures again.*prumerge.encode"):
        resolve("hiprune", budget=60)(seen())
