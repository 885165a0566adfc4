"""Rivals that merge patches, against their definitions written with loops, and small cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import scores_with

from prumerge import Encoded, resolve
from prumerge.reduction import OUTLIER, SPATIAL
from prumerge.rivals.small_picture import area_weights
from prumerge.rivals.tome import merge_alike
from prumerge.rivals.visionzip import DOMINANT_SHARE, contextual_targets
from prumerge.spatial import keep_lattice


def drawn(images, patches, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, patches, width, generator=generator)


def seen(images=3, patches=36, heads=3, seed=0):
    scores = drawn(images, patches, seed=seed + 2)[..., 0].softmax(dim=1)
    side = math.isqrt(patches)
    classes = drawn(images, 1, seed=seed + 3)[:, 0]
    features, keys = drawn(images, patches, seed=seed), drawn(images, patches, seed=seed + 1)
    return Encoded(features, keys, scores, (side, side), classes, heads)


def cosine(one, other):
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def head_mean(keys, heads):
    return sum(keys.chunk(heads, dim=-1)) / heads


# ToMe


def merge_by_loops(features, keys, target, most=10**9):
    """Size-weighted means, one pair after the other: [(feature, size, place), ...]."""
    tokens = [(x, k, 1, place) for place, (x, k) in enumerate(zip(features, keys, strict=True))]
    while len(tokens) > target:
        even, odd = tokens[0::2], tokens[1::2]
        pairs = []
        for index, (_, key, _, _) in enumerate(even):
            alike = [cosine(key, other) for _, other, _, _ in odd]
            pairs.append((max(alike), index, alike.index(max(alike))))
        pairs.sort(key=lambda pair: -pair[0])
        merged = pairs[: min(len(tokens) - target, len(tokens) // 2, most)]
        for _, source, into in merged:
            (x, k, size, _), (y, m, other, place) = even[source], odd[into]
            total = size + other
            odd[into] = (
                (size * x + other * y) / total,
                (size * k + other * m) / total,
                total,
                place,
            )
        gone = {source for _, source, _ in merged}
        tokens = odd + [token for index, token in enumerate(even) if index not in gone]
        tokens.sort(key=lambda token: token[3])
    return tokens


@pytest.mark.parametrize("most", [None, 16, 3])
@pytest.mark.parametrize(("patches", "target"), [(36, 30), (36, 18), (36, 17), (49, 5), (25, 1)])
def test_tome_is_the_published_rule_repeated(patches, target, most):
    pictures = seen(patches=patches)
    found = resolve("tome", budget=target, merges_per_round=most)(pictures)
    for row in range(3):
        keys = head_mean(pictures.keys[row], 3)
        expected = merge_by_loops(pictures.features[row], keys, target, most or 10**9)
        assert found.positions[row].tolist() == [place for _, _, _, place in expected]
        torch.testing.assert_close(found.tokens[row], torch.stack([x for x, _, _, _ in expected]))


def test_tome_merges_16_pairs_a_round_unless_told_otherwise():
    assert resolve("tome").settings.merges_per_round == 16
    assert resolve("tome", merges_per_round=None).settings.merges_per_round is None


def test_tome_rounds_differ_in_one_batch():
    """Pictures with few merges are done before others, with the tokens they would have alone."""
    keys, counts = drawn(3, 40), torch.tensor([38, 3, 20])
    together = merge_alike(keys, counts, most=4)
    for row in range(3):
        alone = merge_alike(keys[row : row + 1], counts[row : row + 1], most=4)
        assert torch.equal(together[row], alone[0])


def test_tome_by_hand():
    # Even places 0, 2, 4 and odd places 1, 3. Patch 2 points where 1 does, 4 nearly where 3 does;
    # 0 is like none. With 4 left only 2 goes into 1; with 3 also 4 into 3; with 2, another round:
    # tokens 0, {1, 2}, {3, 4}: 0 and {3, 4} look at {1, 2}; {3, 4} is nearer.
    keys = torch.tensor([[-1.0, -0.9], [1.0, 0.0], [1.0, 0.0], [0.7, 0.8], [0.6, 0.9]])[None]
    owners = [merge_alike(keys, torch.tensor([count])).tolist()[0] for count in (5, 4, 3, 2)]
    assert owners == [[0, 1, 2, 3, 4], [0, 1, 1, 3, 4], [0, 1, 1, 3, 3], [0, 1, 1, 1, 1]]


@settings(max_examples=40, deadline=None)
@given(patches=st.integers(1, 50), seed=st.integers(0, 99), data=st.data())
def test_tome_sizes_add_up(patches, seed, data):
    counts = torch.tensor(data.draw(st.lists(st.integers(1, patches), min_size=1, max_size=4)))
    owner = merge_alike(drawn(len(counts), patches, 3, seed), counts)
    for row, count in enumerate(counts.tolist()):
        sizes = owner[row].bincount(minlength=patches)
        assert int(sizes.sum()) == patches and int((sizes > 0).sum()) == count
        survivors = sizes.nonzero().flatten()
        assert torch.equal(owner[row, survivors], survivors)


def test_tome_keeps_the_mean_of_the_picture():
    """Sizes times tokens sum to the sum of all features: nothing is lost or counted twice."""
    pictures = seen()
    found = resolve("tome", budget=7)(pictures)
    owner = merge_alike(pictures.head_mean_keys, torch.full((3,), 7), most=16)
    for row in range(3):
        sizes = owner[row].bincount(minlength=36)[found.positions[row]]
        total = (sizes[:, None] * found.tokens[row]).sum(dim=0)
        torch.testing.assert_close(total, pictures.features[row].sum(dim=0))


def test_tome_merges_equals_first():
    pictures = seen(images=1, patches=16)
    keys = pictures.keys.clone()
    keys[:, 1::2] = keys[:, 0::2]
    twins = Encoded(pictures.features, keys, pictures.scores, (4, 4), heads=3)
    found = resolve("tome", budget=8)(twins)
    expected = pictures.features.unflatten(1, (8, 2)).mean(dim=2)
    torch.testing.assert_close(found.tokens[0], expected[0])


# VisionZip


def zip_by_loops(features, keys, scores, class_feature, dominant, contextual):
    ranked = sorted(range(len(scores)), key=lambda patch: -float(scores[patch]))
    best = sorted(ranked[: dominant - 1])
    rest = [patch for patch in range(len(scores)) if patch not in best]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    groups = {target: [] for target in targets}
    for patch in rest:
        if patch not in targets:
            groups[max(targets, key=lambda t: cosine(keys[t], keys[patch]))].append(patch)
    tokens = [class_feature, *(features[patch] for patch in best)]
    for target, group in groups.items():
        gathered = sum(features[patch] for patch in group) / max(len(group), 1)
        tokens.append(features[target] + gathered)
    return torch.stack(tokens), [0, *best, *targets]


@pytest.mark.parametrize(("budget", "contextual"), [(16, 2), (20, 3), (32, 5), (35, 5)])
def test_visionzip_is_the_published_rule(budget, contextual):
    pictures = seen()
    found = resolve("visionzip", budget=budget)(pictures)
    for row in range(3):
        keys = head_mean(pictures.keys[row], 3)
        own = (pictures.scores[row], pictures.class_feature[row])
        tokens, places = zip_by_loops(
            pictures.features[row], keys, *own, budget - contextual, contextual
        )
        assert found.positions[row].tolist() == places
        torch.testing.assert_close(found.tokens[row], tokens)


@pytest.mark.parametrize(("budget", "dominant", "contextual"), [(192, 162, 30), (128, 108, 20)])
def test_visionzip_splits_budgets_as_published(budget, dominant, contextual):
    pictures = seen(patches=576)
    reason = resolve("visionzip", budget=budget)(pictures).selection.reason
    assert ((reason == OUTLIER).sum(dim=1) == dominant - 1).all()  # and the class token
    assert ((reason == SPATIAL).sum(dim=1) == contextual).all()
    assert round(64 * DOMINANT_SHARE) == 54


def test_visionzip_by_hand():
    # Patch 1 is dominant. Of 0, 2, 3, 4 every second is a target: 0 and 3. Key 2 is like 0's, key
    # 4 like 3's.
    features = torch.tensor([[[1.0], [2.0], [4.0], [8.0], [16.0]]]).expand(-1, -1, 2)
    keys = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]]])
    scores = torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.1]])
    pictures = Encoded(features, keys, scores, (1, 5), torch.tensor([[32.0, 32.0]]))
    found = resolve("visionzip", budget=4, outlier_share=0.5)(pictures)
    assert found.tokens[0][:, 0].tolist() == [32.0, 2.0, 1.0 + 4.0, 8.0 + 16.0]
    assert found.positions[0].tolist() == [0, 1, 0, 3]
    raster = resolve("visionzip", budget=4, outlier_share=0.5, order="raster")(pictures)
    assert raster.tokens[0][:, 1].tolist() == [32.0, 5.0, 2.0, 24.0]


@pytest.mark.parametrize("budget", [1, 36])
def test_visionzip_has_no_class_token_where_there_is_no_room(budget):
    pictures = seen()
    found = resolve("visionzip", budget=budget)(pictures)
    assert found.selection.counts.tolist() == found.kept == [budget] * 3


def test_visionzip_without_a_class_token_sends_a_patch_more():
    pictures = seen()
    found = resolve("visionzip", budget=16)(
        Encoded(pictures.features, pictures.keys, pictures.scores, (6, 6), heads=3)
    )
    assert found.selection.counts.tolist() == found.kept == [16] * 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_targets_are_as_many_as_wanted_and_never_dominant(rest, data):
    wanted = data.draw(st.integers(0, sum(rest)))
    mask = torch.tensor([rest])
    targets = contextual_targets(mask, torch.tensor([wanted]))
    assert int(targets.sum()) == wanted and not (targets & ~mask).any()


# Down-sampled features


def pool_by_loops(features, grid, marks):
    """Each patch cut into pieces so small that no cell divides one; means of the pieces."""
    rows, columns = grid
    marked = [[c for c in range(columns) if marks[r * columns + c]] for r in range(rows)]
    bands = [row for row in marked if row]
    fine_rows = rows * len(bands)
    tokens = []
    for band, row in enumerate(bands):
        for cell in range(len(row)):
            pieces = []
            for y in range(band * rows, (band + 1) * rows):
                for x in range(cell * columns, (cell + 1) * columns):
                    patch = (y * rows // fine_rows) * columns + x // len(row)
                    pieces.append(features[patch])
            tokens.append(sum(pieces) / len(pieces))
    return torch.stack(tokens)


@pytest.mark.parametrize("budget", [1, 2, 5, 7, 12, 24])
@pytest.mark.parametrize("grid", [(6, 6), (4, 9)])
def test_pooling_is_the_mean_over_equal_cells(budget, grid):
    pictures = seen()
    pictures = Encoded(pictures.features, pictures.keys, pictures.scores, grid)
    found = resolve("down_sampled", budget=budget)(pictures)
    marks = keep_lattice(torch.tensor([budget]), grid)[0].tolist()
    for row in range(3):
        torch.testing.assert_close(
            found.tokens[row], pool_by_loops(pictures.features[row], grid, marks)
        )


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_regular_cells_are_average_pooling(side):
    pictures = seen()
    found = torch.stack(resolve("down_sampled", budget=side * side)(pictures).tokens)
    squares = pictures.features.transpose(1, 2).unflatten(2, (6, 6))
    expected = torch.nn.functional.adaptive_avg_pool2d(squares, side).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_every_patch_weighs_the_same_in_a_regular_grid():
    marks = keep_lattice(torch.tensor([25]), (6, 6))
    weights = area_weights(marks.view(1, 6, 6), marks[0].nonzero().flatten()[None])
    torch.testing.assert_close(weights.sum(dim=1), torch.full((1, 36), 25 / 36))


def test_counts_of_their_own_in_one_batch():
    scores = scores_with([2, 8, 0], patches=36)
    pictures = seen()
    found = resolve("down_sampled")(Encoded(pictures.features, pictures.keys, scores, (6, 6)))
    assert found.kept == [3, 9, 2]
    for row, count in enumerate(found.kept):
        marks = keep_lattice(torch.tensor([count]), (6, 6))[0].tolist()
        torch.testing.assert_close(
            found.tokens[row], pool_by_loops(pictures.features[row], (6, 6), marks)
        )


# All three


@pytest.mark.parametrize("name", ["tome", "visionzip", "down_sampled"])
def test_gradients_reach_the_features(name):
    pictures = seen()
    features = pictures.features.clone().requires_grad_()
    own = Encoded(features, pictures.keys, pictures.scores, (6, 6), heads=3)
    sum(row.sum() for row in resolve(name, budget=8)(own).tokens).backward()
    assert (features.grad > 0).all()
