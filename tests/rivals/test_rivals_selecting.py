"""Rivals that choose patches, against their definitions written with loops, and small cases."""

import math

import pytest
import torch
from samples import scores_with

from prumerge import Encoded, resolve
from prumerge.reduction import DISTINCT, OUTLIER
from prumerge.rivals.ats import points_for, sample_inverse
from prumerge.rivals.divprune import farthest_first
from prumerge.rivals.small_picture import grid_within
from prumerge.rivals.vispruner import drop_duplicates


def drawn(images, patches, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, patches, width, generator=generator)


def seen(images=3, patches=36, seed=0):
    features, side = drawn(images, patches, seed=seed), math.isqrt(patches)
    scores = drawn(images, patches, seed=seed + 1)[..., 0].softmax(dim=1)
    return Encoded(features, features, scores, (side, side))


def cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


# DivPrune


def smallest_distance(features, chosen):
    pairs = [(a, b) for a in chosen for b in chosen if a < b]
    return min(1 - cosine(features[a], features[b]) for a, b in pairs)


def farthest_first_by_loops(features, picks):
    patches = range(len(features))

    def distance(patch, others):
        return min(1 - cosine(features[patch], features[other]) for other in others)

    chosen = [max(patches, key=lambda p: distance(p, [o for o in patches if o != p]))]
    while len(chosen) < picks:
        rest = [patch for patch in patches if patch not in chosen]
        chosen.append(max(rest, key=lambda p: distance(p, chosen)))
    return chosen


def test_directions_on_a_circle_are_picked_far_apart():
    angles = torch.tensor([0.0, 0.2, 0.4, 2.0, 3.5]).unsqueeze(0)
    features = torch.stack([angles.cos(), angles.sin()], dim=-1)
    # 2.0 is 1.5 from its nearest, 3.5 as well, and 2.0 stands first; from 2.0 the farthest is 0.0;
    # 3.5 is then 1.5 from 2.0; of 0.2 and 0.4 the second lies farther from 0.0.
    assert farthest_first(features, 5).tolist() == [[3, 0, 4, 2, 1]]


def test_divprune_is_the_greedy_rule():
    features = drawn(3, 20)
    expected = [farthest_first_by_loops(row, 9) for row in features]
    assert farthest_first(features, 9).tolist() == expected


def test_each_pick_is_the_farthest_of_those_left():
    features = torch.nn.functional.normalize(drawn(1, 40), dim=-1)
    order = farthest_first(features, 15)[0]
    distance = 1 - features[0] @ features[0].T
    reached = [float(distance[order[:n]][:, order[n]].min()) for n in range(1, 15)]
    for n, gap in enumerate(reached, start=1):
        assert gap == pytest.approx(float(distance[order[:n]].amin(dim=0).max()))
    assert reached == sorted(reached, reverse=True)


def test_greedy_picks_are_within_half_of_the_best_spread():
    """The guarantee holds for metrics, such as the chord: one minus cosine is half its square."""
    features = drawn(1, 9, width=3, seed=4)[0]
    found = math.sqrt(smallest_distance(features, farthest_first(features[None], 4)[0].tolist()))
    choices = torch.combinations(torch.arange(9), 4).tolist()
    best = math.sqrt(max(smallest_distance(features, choice) for choice in choices))
    assert best / 2 <= found <= best + 1e-6


def test_doubles_are_picked_last_and_never_twice():
    features = drawn(1, 5)[:, [0, 1, 2, 0, 1, 2, 3]]
    order = farthest_first(features, 7)[0].tolist()
    assert sorted(order) == list(range(7))
    assert {place % 3 if place < 6 else 3 for place in order[:4]} == {0, 1, 2, 3}


def test_divprune_looks_behind_the_projector_where_there_is_one():
    plain = seen()
    project = torch.nn.Linear(6, 2, bias=False)
    projected = Encoded(plain.features, plain.keys, plain.scores, plain.grid, project=project)
    with torch.no_grad():
        found = resolve("divprune", budget=8)(projected)
        expected = farthest_first(project(plain.features), 8)
    assert [set(row.tolist()) for row in found.positions] == [set(r) for r in expected.tolist()]
    assert (found.selection.reason[found.selection.kept] == DISTINCT).all()


# ATS


def sample_by_loops(scores, points):
    order = sorted(range(len(scores)), key=lambda patch: float(scores[patch]))
    total, sums = 0.0, []
    for patch in order:
        total += float(scores[patch])
        sums.append(total)
    sums = [(value - sums[0]) / (sums[-1] - sums[0]) for value in sums]
    lowest = min(value for value in sums if value > 0)
    hit = set()
    for number in range(points):
        point = lowest + (1 - lowest) * number / (points - 1)
        hit.add(order[min(range(len(sums)), key=lambda place: abs(sums[place] - point))])
    return sorted(hit)


@pytest.mark.parametrize("points", [2, 3, 8, 20, 49])
def test_ats_is_the_published_rule(points):
    scores = torch.rand(4, 49, generator=torch.Generator().manual_seed(1)) ** 3
    scores = scores / scores.sum(dim=1, keepdim=True)
    hits = sample_inverse(scores, torch.full((4,), points))
    expected = [sample_by_loops(row, points) for row in scores]
    assert [row.nonzero().flatten().tolist() for row in hits] == expected


def test_ats_by_hand():
    # Upwards 0.1 0.1 0.3 0.5, summed 0.1 0.2 0.5 1.0, scaled 0 1/9 4/9 1: points 1/9, 5/9, 1 hit
    # the second, third and fourth of them.
    scores = torch.tensor([[0.5, 0.1, 0.1, 0.3]])
    assert sample_inverse(scores, torch.tensor([3])).tolist() == [[True, False, True, True]]


def test_ats_sends_each_patch_once_and_at_most_the_budget():
    pictures = seen(images=8)
    for budget in (1, 2, 9, 36):
        reduction = resolve("ats", budget=budget)(pictures)
        for places in reduction.positions:
            assert 1 <= len(set(places.tolist())) == len(places) <= budget
        best = pictures.scores.argmax(dim=1, keepdim=True)
        assert reduction.selection.kept.gather(1, best).all()


def test_ats_sends_fewer_the_more_the_scores_differ():
    steep = torch.stack([torch.arange(36.0).mul(rate).softmax(0) for rate in (0.0, 0.1, 0.5, 2)])
    kept = sample_inverse(steep, torch.full((4,), 18)).sum(dim=1).tolist()
    assert kept[0] == 18 and kept == sorted(set(kept), reverse=True) and kept[3] <= 4


def test_ats_counts_differ_in_one_batch_as_told():
    scores = seen(images=3).scores
    hits = sample_inverse(scores, torch.tensor([4, 9, 30]))
    for row, count in enumerate((4, 9, 30)):
        assert hits[row].nonzero().flatten().tolist() == sample_by_loops(scores[row], count)


@pytest.mark.parametrize("budget", [1, 5, 9, 20])
def test_ats_mean_has_the_most_points_that_the_mean_number_allows(budget):
    pictures = seen(images=5)
    kept = resolve("ats_mean", budget=budget)(pictures).kept
    hit = [
        int(sample_inverse(pictures.scores, torch.full((5,), points)).sum())
        for points in range(1, 64 * 36)
    ]
    points = points_for(pictures.scores, 5 * budget)
    assert sum(kept) == hit[points - 1] <= 5 * budget
    assert hit[points] > 5 * budget  # one point more would be too many
    plain = resolve("ats", budget=budget)(pictures).kept
    assert sum(kept) >= sum(plain)


def test_ats_mean_alone_sends_the_budget_where_patches_can_be_hit():
    for row in range(4):
        alone = seen(images=4).at(torch.tensor([row]))
        assert resolve("ats_mean", budget=12)(alone).kept[0] in (11, 12)


def test_ats_mean_without_a_budget_has_the_mean_of_the_fence():
    scores = scores_with([0, 3, 9, 4], patches=36)
    features = drawn(4, 36)
    kept = resolve("ats_mean")(Encoded(features, features, scores, (6, 6))).kept
    assert 4 * 4 <= sum(kept) <= 2 + 4 + 10 + 5


# VisPruner


def drop_by_loops(features, sequence, target):
    if target == 0:
        return []
    while len(sequence) > target:
        even, odd = sequence[0::2], sequence[1::2]
        best = {e: max(cosine(features[e], features[o]) for o in odd) for e in even}
        even = sorted(even, key=lambda patch: -best[patch])
        sequence = even[min(8, len(sequence) - target) :] + odd
    return sorted(sequence)


@pytest.mark.parametrize(("patches", "target"), [(64, 9), (63, 20), (30, 29), (17, 1), (8, 8)])
def test_vispruner_drops_as_the_published_rule(patches, target):
    features = drawn(2, patches)
    generator = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(patches, generator=generator) for _ in range(2)])
    left = drop_duplicates(
        features, order, torch.full((2,), patches), torch.full((2,), target)
    ).bool()
    for row in range(2):
        expected = drop_by_loops(features[row], order[row].tolist(), target)
        assert left[row].nonzero().flatten().tolist() == expected


def test_vispruner_drops_the_doubles():
    # Patches 0 to 3 at even places; 0 and 2 have a double at an odd place, 1 and 3 have none.
    axes = torch.eye(8)
    features = axes[[0, 1, 2, 3, 0, 5, 2, 7]][None]
    order = torch.tensor([[0, 4, 1, 5, 2, 6, 3, 7]])
    left = drop_duplicates(features, order, torch.tensor([8]), torch.tensor([6]))
    assert left.tolist() == [[0, 1, 0, 1, 1, 1, 1, 1]]


def test_vispruner_drops_different_numbers_in_one_batch():
    features = drawn(4, 40)
    order = torch.arange(40).expand(4, -1)
    lengths, targets = torch.tensor([40, 31, 12, 5]), torch.tensor([3, 30, 0, 4])
    left = drop_duplicates(features, order, lengths, targets).bool()
    for row in range(4):
        expected = drop_by_loops(features[row], list(range(int(lengths[row]))), int(targets[row]))
        assert left[row].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(("budget", "share", "important"), [(9, 0.5, 4), (8, 0.25, 2), (1, 0.5, 1)])
def test_vispruner_keeps_a_share_by_score_and_the_rest_by_difference(budget, share, important):
    pictures = seen()
    reduction = resolve("vispruner", budget=budget, outlier_share=share)(pictures)
    reason = reduction.selection.reason
    best = pictures.scores >= pictures.scores.topk(important).values[:, -1:]
    assert torch.equal(reason == OUTLIER, best)
    assert ((reason == DISTINCT).sum(dim=1) == budget - important).all()
    for row in range(3):
        rest = pictures.scores[row].argsort(descending=True, stable=True)[important:].tolist()
        expected = drop_by_loops(pictures.features[row], rest, budget - important)
        found = (reason[row] == DISTINCT).nonzero().flatten().tolist()
        assert found == expected


def test_vispruner_without_a_diverse_part_is_fastervlm():
    pictures = seen()
    whole = resolve("vispruner", budget=9, outlier_share=1.0)(pictures)
    expected = resolve("fastervlm", budget=9)(pictures)
    assert all(map(torch.equal, whole.positions, expected.positions))


# EViT


def test_evit_sends_the_best_and_the_weighted_sum_of_the_rest():
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [4.0, 8.0], [2.0, 2.0]]])
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    pictures = Encoded(features, features, scores, (2, 2))
    found = resolve("evit", budget=3)(pictures)
    assert found.tokens[0].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.75, 1.25]]
    assert found.positions[0].tolist() == [0, 1, 3]
    normalised = resolve("evit", budget=3, normalise_weights=True)(pictures)
    assert normalised.tokens[0][-1].tolist() == [3.0, 5.0]
    assert resolve("evit", budget=1)(pictures).positions[0].tolist() == [0]


def test_evit_is_top_k_and_one_token():
    pictures = seen()
    fused, plain = resolve("evit", budget=10)(pictures), resolve("fastervlm", budget=9)(pictures)
    rows = zip(fused.tokens, plain.tokens, fused.positions, plain.positions, strict=True)
    assert all(torch.equal(a[:-1], b) and torch.equal(p[:-1], q) for a, b, p, q in rows)


# The picture made smaller


def test_smaller_grids_fit_and_waste_little():
    for tokens in range(1, 577):
        rows, columns = grid_within(tokens, (24, 24))
        assert 1 <= rows <= columns <= 24 and rows * columns <= tokens
        assert columns <= rows + 2 and (rows + 1) ** 2 > tokens


def test_smaller_grids_keep_proportions():
    assert grid_within(32, (12, 24)) == (4, 8)
    assert grid_within(1000, (12, 24)) == (12, 24)
    assert grid_within(20, (24, 6)) == (8, 2)
    assert grid_within(3, (24, 2)) == (3, 1)


def test_smaller_pictures_need_the_pictures():
    with pytest.raises(ValueError, match=r"make it with prumerge.encode"):
        resolve("small_picture", budget=4)(seen())


def test_smaller_pictures_of_different_sizes_in_one_batch():
    asked = []

    def at_grid(grid, chosen):
        asked.append((grid, chosen.tolist()))
        return torch.full((len(chosen), grid[0] * grid[1], 6), float(grid[0] * grid[1]))

    scores = scores_with([3, 8, 0, 3], patches=36)
    features = drawn(4, 36)
    pictures = Encoded(features, features, scores, (6, 6), at_grid=at_grid)
    found = resolve("small_picture")(pictures)
    assert asked == [((2, 2), [0, 3]), ((3, 3), [1]), ((1, 2), [2])]
    assert found.kept == [4, 9, 2, 4]
    assert [row.unique().tolist() for row in found.tokens] == [[4.0], [9.0], [2.0], [4.0]]
    assert found.positions[0].tolist() == [7, 10, 25, 28]
    assert found.positions[1].tolist() == [7, 9, 11, 19, 21, 23, 31, 33, 35]
