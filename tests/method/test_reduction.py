"""The vectorised method equals the slow reference, and does the right thing at the edges."""

import subprocess
import sys

import pytest
import reference
import torch
from jaxtyping import TypeCheckError
from samples import DEVICES, encoded, scores_with
from torch.utils._python_dispatch import TorchDispatchMode

from prumerge import PRESETS, Encoded, Settings, reduce_tokens
from prumerge.encoder import check_shapes
from prumerge.reduction import FILL, OUTLIER, SPATIAL, arrange, rank_scores, select

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
COUNTS = [0, 1, 5, 16, 3]
# Tests run with types checked as well: a wrong shape is then refused before its value is.
REFUSALS = (ValueError, TypeCheckError)


def by_reference(name, features, keys, scores, grid=(8, 8)):
    """Order and tokens of one picture under a preset, from the plain loops."""
    lists = features.float().tolist(), keys.float().tolist(), scores.tolist()
    return {
        "release": reference.release,
        "release+": reference.release_plus,
        "release+fixed": reference.release_fixed,
        "paper": reference.paper,
        "paper-literal": reference.paper_literal,
        "paper+": lambda *inputs: reference.paper_plus(*inputs, grid),
    }[name](*lists)


def order_of(reduction, picture=0):
    """Patch indices a picture sends, without padding."""
    selection = reduction.selection
    return selection.order[picture, : selection.counts[picture]].tolist()


def assert_equals_reference(reduction, name, features, keys, scores, grid=(8, 8)):
    for picture in range(len(scores)):
        inputs = features[picture], keys[picture], scores[picture]
        order, tokens = by_reference(name, *inputs, grid)
        assert order_of(reduction, picture) == order
        expected = torch.tensor(tokens)
        close = TOLERANCE[features.dtype]
        found = reduction.tokens[picture]
        assert found.dtype == features.dtype and found.device == features.device
        torch.testing.assert_close(found.float().cpu(), expected, rtol=close, atol=close)


NAMES = ["release", "release+", "release+fixed", "paper", "paper+", "paper-literal"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_the_reference_picture_by_picture(name, dtype, device):
    inputs = encoded(COUNTS, dtype=dtype, device=device)
    assert_equals_reference(reduce_tokens(*inputs, name), name, *inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_random_scores_equal_the_reference(name, seed):
    features, keys, _ = encoded([0], patches=49, seed=seed)
    scores = torch.randn(1, 49, generator=torch.Generator().manual_seed(seed)).exp()
    scores = scores / scores.sum()
    reduction = reduce_tokens(features, keys, scores, name)
    assert_equals_reference(reduction, name, features, keys, scores, grid=(7, 7))


@pytest.mark.parametrize("name", ["release", "release+"])
def test_a_picture_of_576_patches_equals_the_reference(name):
    inputs = encoded([33], patches=576)
    assert_equals_reference(reduce_tokens(*inputs, name), name, *inputs, grid=(24, 24))


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_by_index(name):
    """Keys are unit vectors and scores and features small powers of two: all sums are exact."""
    generator = torch.Generator().manual_seed(3)
    keys = torch.eye(4)[torch.randint(4, (2, 64), generator=generator)]
    features = torch.randint(-4, 5, (2, 64, 3), generator=generator).float()
    scores = torch.full((2, 64), 2.0**-8)
    scores[:, [3, 11, 12, 40, 63]] = 2.0**-3
    reduction = reduce_tokens(features, keys, scores, name)
    assert_equals_reference(reduction, name, features, keys, scores)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("budget", [None, 9, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_unequal_counts_equals_each_picture_alone(name, budget, device):
    """D5: in the release a picture's tokens depend on its batch, or the batch crashes."""
    inputs = encoded(COUNTS, device=device)
    together = reduce_tokens(*inputs, name, budget=budget)
    for picture in range(len(COUNTS)):
        alone = reduce_tokens(*(tensor[picture : picture + 1] for tensor in inputs), name,
                              budget=budget)  # fmt: skip
        assert order_of(together, picture) == order_of(alone)
        torch.testing.assert_close(together.tokens[picture], alone.tokens[0])
        assert torch.equal(together.positions[picture], alone.positions[0])


def test_the_released_pooling_can_be_had():
    inputs = encoded([16, 3])
    pooled = reduce_tokens(*inputs, pooling="batch", outlier_rule="count")
    count = len(reference.outliers(inputs[2].flatten().tolist())) // 2
    assert pooled.kept == [count + 1, count + 1]
    assert reduce_tokens(*inputs).kept == [17, 4]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_without_outliers_keeps_its_best_patch(name):
    """The release sends the extra token alone, or divides by zero in PruMerge+."""
    features, keys, scores = encoded([0])
    reduction = reduce_tokens(features, keys, scores, name)
    best = scores.argmax().item()
    assert best in order_of(reduction)
    if name != "release+fixed":
        assert reduction.selection.reason[0, best] == FILL
        assert not (reduction.selection.reason == OUTLIER).any()


def test_equal_scores_keep_the_first_patch():
    features, keys, _ = encoded([0])
    scores = torch.full((1, 64), 1 / 64)
    assert order_of(reduce_tokens(features, keys, scores, "paper")) == [0]


@pytest.mark.parametrize("device", DEVICES)
def test_the_released_duplicates_can_be_had(device):
    """D13: 145 vectors whatever the picture; patch 0 is lost where one other is sent twice."""
    features, keys, scores = encoded([30, 0, 60], patches=576, device=device)
    reduction = reduce_tokens(features, keys, scores, "release+fixed", duplicates=True)
    assert reduction.kept == [145, 145, 145]
    for row in range(3):
        lists = features[row].tolist(), keys[row].tolist(), scores[row].tolist()
        order, tokens = reference.release_fixed_twice(*lists)
        assert len(set(order)) < len(order) == 144
        assert reduction.positions[row].tolist() == [*order, 575]
        expected = torch.tensor(tokens)
        torch.testing.assert_close(reduction.tokens[row].cpu(), expected, rtol=2e-6, atol=2e-6)
    once = reduce_tokens(features, keys, scores, "release+fixed")
    assert not torch.allclose(once.tokens[0][-1], reduction.tokens[0][-1])


def test_duplicates_are_the_fixed_branchs_alone():
    inputs = encoded([30, 0], patches=576)
    for name, budget in [("release+", None), ("release", None), ("release+fixed", 64)]:
        one = reduce_tokens(*inputs, name, budget=budget, duplicates=True)
        other = reduce_tokens(*inputs, name, budget=budget)
        assert all(map(torch.equal, one.tokens, other.tokens))


@pytest.mark.parametrize("order", ["grouped", "raster"])
def test_duplicates_can_be_sent_in_another_order(order):
    inputs = encoded([30], patches=64)
    usual = reduce_tokens(*inputs, "release+fixed", duplicates=True)
    other = reduce_tokens(*inputs, "release+fixed", duplicates=True, order=order)
    places = other.positions[0].tolist()[:-1]
    if order == "grouped":
        assert places == sorted(places[:8]) + sorted(places[8:])
    else:
        assert places == sorted(places)
    assert sorted(usual.positions[0].tolist()[:-1]) == sorted(places)
    torch.testing.assert_close(usual.tokens[0].sum(dim=0), other.tokens[0].sum(dim=0))


def test_the_fixed_branch_sends_no_patch_twice():
    """The release sends 145 vectors, a patch chosen both ways twice; ours 145 less these."""
    features, keys, scores = encoded([30], patches=576)
    reduction = reduce_tokens(features, keys, scores, "release+fixed")
    best = set(rank_scores(scores)[0].lt(72).nonzero()[:, 0].tolist())
    twice = best & set(range(4, 576, 8))
    assert twice and reduction.kept == [145 - len(twice)]
    order = order_of(reduction)
    assert len(set(order)) == len(order)


def test_no_extra_token_where_nothing_is_dropped():
    """From 97 of 576 outliers on PruMerge+ keeps every patch."""
    reduction = reduce_tokens(*encoded([100], patches=576), "release+")
    assert reduction.kept == [576]


@pytest.mark.parametrize("order", ["attention", "raster"])
@pytest.mark.parametrize("name", [*PRESETS, "lattice"])
@pytest.mark.parametrize("budget", [1, 2, 3, 10, 33, 63, 64, 65, 1000])
def test_a_budget_is_met_exactly_extra_token_included(budget, name, order):
    name = Settings(spatial="lattice") if name == "lattice" else name
    reduction = reduce_tokens(*encoded(COUNTS), name, budget=budget, order=order)
    assert reduction.kept == [min(budget, 64)] * len(COUNTS)
    assert [len(place) for place in reduction.positions] == reduction.kept


@pytest.mark.parametrize("share", [1 / 64, 0.25, 0.5, 1.0])
def test_a_share_is_a_number_of_tokens(share):
    assert reduce_tokens(*encoded(COUNTS), budget=share).kept == [round(64 * share)] * len(COUNTS)


@pytest.mark.parametrize("spatial", ["stride", "lattice"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_budget_is_filled_by_score_place_and_next_best(share, spatial):
    scores = encoded(COUNTS)[2]
    settings = Settings(budget=20, extra_token=False, spatial=spatial, outlier_share=share)
    reason = select(scores, settings)
    for row, values in zip(reason, scores.tolist(), strict=True):
        even = {
            "stride": lambda count: reference.middles(count, 64),
            "lattice": lambda count: reference.lattice(count, (8, 8)),
        }[spatial]
        expected = reference.within_budget(values, 20, share, even)
        assert row.nonzero()[:, 0].tolist() == expected
        assert (row == OUTLIER).sum() == max(1, round(share * 20))


def test_a_budget_without_spatial_part_takes_the_best_scored():
    scores = encoded([5])[2]
    reason = select(scores, Settings(budget=12, extra_token=False))
    assert torch.equal(reason > 0, rank_scores(scores) < 12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_keeping_everything_changes_no_bit(dtype, device):
    features, keys, scores = encoded(COUNTS, dtype=dtype, device=device)
    settings = Settings(budget=64, neighbours=0, order="raster")
    reduction = reduce_tokens(features, keys, scores, settings)
    assert torch.equal(torch.stack(reduction.tokens), features)
    assert torch.equal(torch.stack(reduction.positions).cpu(), torch.arange(64).expand(5, -1))


def test_attention_order_puts_spatial_patches_last_and_raster_order_sorts():
    inputs = encoded([5])
    scores, reason = inputs[2][0], reduce_tokens(*inputs, "release+").selection.reason[0]
    order = order_of(reduce_tokens(*inputs, "release+"))
    assert [reason[patch].item() for patch in order] == sorted(reason[order].tolist())
    assert scores[order[:5]].tolist() == sorted(scores[order[:5]].tolist(), reverse=True)
    assert order[5:] == sorted(order[5:])
    assert (reason[order[5:]] == SPATIAL).all()
    assert order_of(reduce_tokens(*inputs, "release+", order="raster")) == sorted(order)


@pytest.mark.parametrize("order", ["attention", "raster"])
def test_positions_name_the_patch_each_token_comes_from(order):
    reduction = reduce_tokens(*encoded([0, 1, 5, 3]), "release+", order=order)
    for picture, places in enumerate(reduction.positions):
        assert places[:-1].tolist() == order_of(reduction, picture)
        assert places[-1] == 63  # the extra token stands at the last patch
        if order == "raster":
            assert (places.diff() >= 0).all()


def test_padding_of_the_order_is_minus_one():
    selection = reduce_tokens(*encoded(COUNTS)).selection
    assert selection.order.shape == (5, 16)
    assert (selection.order >= 0).sum(dim=1).tolist() == selection.counts.tolist()
    assert torch.equal(selection.kept.sum(dim=1), selection.counts)


def test_no_picture_gives_no_tokens():
    features, keys, scores = encoded([2])
    reduction = reduce_tokens(features[:0], keys[:0], scores[:0], "release+")
    assert reduction.tokens == [] and reduction.kept == []


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_one_patch_is_sent_as_it_is(name):
    features = torch.tensor([[[1.0, 2.0]]])
    reduction = reduce_tokens(features, features, torch.ones(1, 1), name)
    assert reduction.tokens[0].tolist() == [[1.0, 2.0]]


def test_gradients_reach_the_features():
    features, keys, scores = encoded(COUNTS)
    features.requires_grad_()
    torch.cat(reduce_tokens(features, keys, scores, "release+").tokens).sum().backward()
    assert features.grad.abs().sum(dim=-1).gt(0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("budget", [None, 9])
def test_scores_that_are_no_numbers_are_refused(value, budget):
    features, keys, scores = encoded(COUNTS)
    scores[1, 7] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        reduce_tokens(features, keys, scores, "release+", budget=budget)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tokens_that_would_be_infinite_are_refused(dtype):
    """Scores that are no attention are fine while their sums are numbers."""
    features, keys, scores = encoded(COUNTS, dtype=dtype)
    for name in ("release", "release+", "tuned-handling"):
        with pytest.raises(ValueError, match=r"infinite in torch\.float.*divide the scores by"):
            reduce_tokens(features, keys, scores * 1e38 / scores.max(), name)
    found = reduce_tokens(features, keys, scores * 100, "release")
    assert torch.cat(found.tokens).isfinite().all()


@pytest.mark.parametrize("largest", [1e-30, 1e30, 3e38])
def test_weighted_means_do_not_depend_on_the_scale_of_the_scores(largest):
    features, keys, scores = encoded(COUNTS)
    for name, settings in {"paper": {}, "release": {"normalise_weights": True}}.items():
        expected = reduce_tokens(features, keys, scores, name, **settings)
        found = reduce_tokens(features, keys, scores / scores.max() * largest, name, **settings)
        assert found.kept == expected.kept
        torch.testing.assert_close(torch.cat(found.tokens), torch.cat(expected.tokens))


UNCHECKED = """
import prumerge
import torch
x, s = torch.randn(1, 16, 4), torch.rand(1, 16)
reduce = prumerge.reduce_tokens
whole = torch.arange(64).reshape(1, 16, 4)
calls = [
    lambda: reduce(x.numpy(), x, s), lambda: reduce(x, x.tolist(), s), lambda: reduce(x, x, None),
    lambda: reduce(whole, x, s), lambda: prumerge.Encoded(whole, x, s, (4, 4)),
    lambda: reduce(x, x, s, {"budget": 4}), lambda: reduce(x, x, s, None),
    lambda: prumerge.encode(torch.nn.Linear(1, 1), x, {"budget": 4}),
    lambda: prumerge.register("mine", settings={"budget": 4}),
    lambda: reduce(x, x, s, "paper+", grid=(4, 2, 2)), lambda: reduce(x, x, s, "paper+", grid=16),
    lambda: prumerge.Encoded(x, x, s, (4.0, 4.0)),
]
for call in calls:
    try:
        print(call())
    except ValueError as error:
        print(error)
"""


def test_what_is_no_tensor_setting_or_grid_is_told_in_one_sentence():
    """As users call it: nothing checks the types before the package does."""
    command = [sys.executable, "-c", UNCHECKED]
    tried = subprocess.run(command, capture_output=True, text=True)
    assert not tried.returncode, tried.stderr
    settings = "settings must be a preset's name or Settings, got"
    assert tried.stdout.splitlines() == [
        "features must be a tensor, got ndarray: pass torch.as_tensor(features)",
        "keys must be a tensor, got list: pass torch.as_tensor(keys)",
        "scores must be a tensor, got NoneType: pass torch.as_tensor(scores)",
        *["features must be floating-point numbers, got torch.int64: pass features.float()"] * 2,
        f"{settings} dict: pass Settings(**settings)",
        f"{settings} NoneType: pass a name such as 'prumerge'",
        *[f"{settings} dict: pass Settings(**settings)"] * 2,
        "grid must be (rows, columns), two whole numbers, got (4, 2, 2)",
        "grid must be (rows, columns), two whole numbers, got 16",
        "grid must be (rows, columns), two whole numbers, got (4.0, 4.0)",
    ]


@pytest.mark.parametrize(
    "cut",
    [
        lambda features, keys, scores: (features[:, 1:], keys, scores),
        lambda features, keys, scores: (features, keys[:, 1:], scores),
        lambda features, keys, scores: (features[1:], keys, scores),
        lambda features, keys, scores: (features, keys, scores[0]),
        lambda features, keys, scores: (features[0], keys[0], scores[0]),
        lambda features, keys, scores: (features[:, :0], keys[:, :0], scores[:, :0]),
    ],
)
def test_shapes_that_disagree_are_refused(cut):
    with pytest.raises(REFUSALS):
        reduce_tokens(*cut(*encoded(COUNTS)))


def test_the_refusal_of_shapes_says_what_to_do():
    features, keys, scores = encoded(COUNTS)
    with pytest.raises(ValueError, match=r"features have shape \(5, 63, 12\).*class token"):
        check_shapes(features[:, 1:], keys, scores)
    with pytest.raises(ValueError, match="no patches"):
        check_shapes(features[:, :0], keys[:, :0], scores[:, :0])


@pytest.mark.parametrize(
    ("patches", "grid"), [(63, (8, 8)), (64, (8, 7)), (64, (64, 64)), (64, (-8, -8))]
)
def test_what_an_encoder_says_must_be_about_the_same_patches(patches, grid):
    """Also for methods that look at scores or features alone."""
    features, keys, scores = encoded(COUNTS)
    with pytest.raises(REFUSALS):
        Encoded(features[:, :patches], keys[:, :patches], scores, grid)


class Watch(TorchDispatchMode):
    """Notes the largest result of any operation and the operations that read a value."""

    def __init__(self):
        super().__init__()
        self.largest, self.reads, self.calls = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls += 1
        self.reads += "_local_scalar_dense" in str(function) or "nonzero" in str(function)
        tensors = [value for value in (result if isinstance(result, tuple) else (result,))]
        sizes = [value.numel() for value in tensors if isinstance(value, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


def watched(outliers, **overrides):
    """Reduce a batch under watch."""
    inputs = encoded(outliers, patches=144, width=8)
    with Watch() as watch:
        kept = reduce_tokens(*inputs, **overrides).kept
    return watch, kept


def test_memory_grows_with_kept_patches_not_with_all_of_them():
    watch, kept = watched([4, 9, 2])
    assert watch.largest == 3 * (max(kept) - 1) * 144  # images x longest x patches


@pytest.mark.parametrize("name", NAMES)
def test_few_operations_wait_for_a_value_and_none_loops_over_pictures(name):
    few, _ = watched([4, 9], settings=name)
    many, _ = watched([4, 9] * 20, settings=name)
    assert few.reads == many.reads == 1  # finite tokens; lengths are read once, by tolist
    assert many.calls - few.calls == 38 * 2  # tokens and positions of a picture, cut out at the end


def test_arranging_needs_no_more_columns_than_the_longest():
    scores = scores_with([3, 7])
    selection = arrange(select(scores, Settings()), scores, Settings())
    assert selection.order.shape == (2, 7)
