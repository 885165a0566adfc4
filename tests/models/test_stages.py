"""Which layers of the language model read how many visual tokens, and what is recycled."""

import itertools

import pytest
import torch

from prumerge import names
from prumerge.methods import INSIDE
from prumerge.models.recycling import cluster_means, density_peaks, recycled_of, split
from prumerge.models.stages import DROPPINGS, find_dropping, resolve_inside
from prumerge.roofline import estimate_costs, estimate_prefill


def test_the_three_are_no_names_to_attach():
    assert tuple(DROPPINGS) == INSIDE
    assert not set(INSIDE) & set(names())


def test_published_shares_at_the_published_depth():
    runs = {
        name: [
            (count, len(list(layers))) for count, layers in itertools.groupby(rule.reads(32, 576))
        ]
        for name, rule in DROPPINGS.items()
    }
    assert runs == {
        "fastv": [(576, 2), (288, 30)],
        "pyramiddrop": [(576, 8), (288, 8), (144, 8), (72, 8)],
        "sparsevlm": [(576, 3), (300, 4), (200, 9), (110, 16)],
    }


def test_budgets_of_the_embedded_model_by_hand():
    """4 layers: fastv drops after 1, pyramiddrop after 1, 2, 3, sparsevlm after 1 (twice) and 2."""
    assert find_dropping("fastv").reads(4, 576, 192) == (576, 64, 64, 64)
    assert find_dropping("fastv").reads(4, 576, 288) == (576, 192, 192, 192)
    first, second, third = find_dropping("pyramiddrop").reads(4, 576, 192)[1:]
    assert first + second + third == 192
    assert second / first == pytest.approx(first / 576, abs=0.02)
    assert third / second == pytest.approx(first / 576, abs=0.02)
    # 200 : 110, both twice: 3 layers read 192 in all
    assert find_dropping("sparsevlm").reads(4, 576, 192) == (576, 92, 50, 50)


@pytest.mark.parametrize("layers", [2, 3, 4, 13, 32, 40])
@pytest.mark.parametrize("name", INSIDE)
def test_the_mean_over_layers_is_the_budget_or_the_smallest_is_named(name, layers):
    rule, had = find_dropping(name), []
    for budget in range(1, 600, 7):
        try:
            reads = rule.reads(layers, 576, budget)
        except ValueError as error:
            least = int(str(error).rpartition(" ")[2])
            assert budget < least
            assert sum(rule.reads(layers, 576, least)) <= least * layers
            continue
        had.append(budget)
        assert sum(reads) <= layers * min(budget, 576) < sum(reads) + layers
        assert list(reads) == sorted(reads, reverse=True) and reads[0] == 576 and reads[-1] > 0
    assert had == list(range(had[0], 600, 7))


def test_a_budget_that_cannot_be_had_is_refused():
    with pytest.raises(
        ValueError,
        match="budget=64: fastv reads all 576 visual tokens in 1 of 4 layers, so the "
        "mean over the layers is at least 145",
    ):
        find_dropping("fastv").reads(4, 576, 64)
    with pytest.raises(ValueError, match="sparsevlm drops between layers, and the model has 1"):
        find_dropping("sparsevlm").reads(1, 576, 64)


def test_the_row_of_64_reads_more_than_64_as_published():
    """66, 30 and 17 are kept, and their recycled tokens are read as well."""
    read, total = 576, 3 * 576
    for kept, layers in ((66, 4), (30, 9), (17, 16)):
        read = kept + recycled_of(read - kept)[1]
        total += layers * read
    assert total / 32 == 82.25


@pytest.mark.parametrize("before", [1, 2, 16, 576])
def test_kept_and_clusters_are_what_is_read(before):
    for reads in range(1, before + 1):
        kept, recycled, clusters = split(before, reads)
        assert kept + clusters == reads and kept >= 1
        assert clusters <= recycled <= before - kept
        if reads > recycled_of(before - 1)[1]:
            assert (recycled, clusters) == recycled_of(before - kept)


def test_density_peaks_by_hand():
    """On a line at 0, 1, 2 and 10, 11: root of the width 1, densities over two nearest points."""
    points = torch.tensor([[[0.0], [1.0], [2.0], [10.0], [11.0]]])
    centres, owner = density_peaks(points, 2)
    # Each lies 1 from its nearest: all are as dense, so the first of all counts as the densest, and
    # the one of the others that is farthest from any before it is at 10.
    assert centres.tolist() == [[0, 3]]
    assert owner.tolist() == [[0, 0, 0, 1, 1]]
    assert cluster_means(points, owner, 2).tolist() == [[[1.0], [10.5]]]


def test_density_peaks_of_every_point():
    points = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    centres, owner = density_peaks(points, 5)
    assert centres.sort().values.tolist() == [list(range(5))] * 2
    means = cluster_means(points, owner, 5)
    torch.testing.assert_close(means, points.gather(1, centres[..., None].expand(-1, -1, 3)))


def test_rows_describe_them_as_other_methods():
    method = resolve_inside("fastv", budget=192)
    shown = method.settings
    assert (shown.budget, shown.order, shown.positions) == (192, "raster", "original")
    assert method.sends == "on average" and not method.reads_question
    with pytest.raises(ValueError, match="positions='compact': fastv has one setting, budget"):
        resolve_inside("fastv", positions="compact")


@pytest.mark.parametrize("convention", ["complete", "llm-viewer"])
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_layers_that_read_alike_cost_what_a_prompt_costs(convention, precision):
    how = {"hardware": "A100", "precision": precision, "batch": 3, "convention": convention}
    wanted = estimate_costs("7b", 185, **how).iloc[0]
    for name, value in estimate_prefill("7b", [185] * 32, **how).items():
        assert value == pytest.approx(wanted[name], rel=1e-12), name


def test_a_layer_costs_what_it_reads():
    """Between prompts of either length, by the layers that read each."""
    long, short, mixed = (
        estimate_prefill("7b", tokens)
        for tokens in ([616] * 32, [104] * 32, [616] * 2 + [104] * 30)
    )
    part = (mixed["operations"] - short["operations"]) / (long["operations"] - short["operations"])
    assert part == pytest.approx(2 / 32, rel=1e-3)  # embedding, last norm and logits beside them
    with pytest.raises(ValueError, match="layer_tokens has 3 numbers, the model 32 layers"):
        estimate_prefill("7b", [616, 104, 104])
    with pytest.raises(ValueError, match="tokens of layer 1 must be a whole number"):
        estimate_prefill("7b", [616, 0] * 16)
