"""Evenly spaced patches: the released stride, exact counts, the lattice."""

import pytest
import reference
import torch
from samples import DEVICES

from prumerge import Settings
from prumerge.reduction import select
from prumerge.spatial import check_grid, keep_even, keep_lattice, keep_stride, released_step

# Outliers of 576 and tokens the released PruMerge+ then sends on average over where they lie.
RELEASED_LENGTHS = {
    16: 64, 20: 83, 24: 94, 28: 120, 32: 124, 36: 145, 40: 175, 44: 178, 48: 181,
    52: 228, 57: 231, 64: 236, 72: 325, 80: 329, 96: 337,
}  # fmt: skip


def tensor(*values):
    return torch.tensor(values)


@pytest.mark.parametrize("patches", [144, 196, 256, 576])
def test_steps_are_those_of_the_released_arithmetic(patches):
    outliers = torch.arange(1, patches // 4 + 1)
    expected = [max(int(int(1 / (count / patches)) / 3), 1) for count in outliers.tolist()]
    assert released_step(outliers, patches).tolist() == expected


def test_steps_lose_nothing_to_rounding():
    """Of 729 patches the release's floating point makes every 80th of every 81st."""
    assert int(int(1 / (3 / 729)) / 3) == 80
    assert released_step(tensor(3), 729).tolist() == [81]


@pytest.mark.parametrize(("outliers", "length"), RELEASED_LENGTHS.items())
def test_lengths_are_those_of_the_release(outliers, length):
    step = released_step(tensor(outliers), 576)
    grid = keep_stride(step, tensor(0), 576).sum().item()
    expected = outliers + grid * (1 - outliers / 576) + 1
    assert abs(expected - length) <= 1


def test_from_97_outliers_on_the_release_keeps_the_whole_picture():
    """And then the extra token would sum nothing: ours leaves it out, 576 tokens in all."""
    assert released_step(tensor(96, 97, 144), 576).tolist() == [2, 1, 1]


def test_the_fixed_branch_strides_by_eight_from_the_fourth():
    marked = keep_stride(tensor(8), tensor(4), 576)[0].nonzero()[:, 0]
    assert marked.tolist() == list(range(4, 576, 8)) and len(marked) == 72


def test_strides_that_divide_the_row_give_vertical_stripes():
    marked = keep_stride(tensor(6), tensor(0), 576).reshape(24, 24)
    assert marked.any(dim=0).sum() == 4 and marked.all(dim=0).sum() == 4


@pytest.mark.parametrize("outliers", [20, 33, 36, 38, 39])
def test_the_released_stride_can_be_had(outliers):
    """At 33 to 38 outliers the step is 5, and 575 a multiple of it."""
    scores = torch.linspace(2, 1, 576)[None].clone()
    scores[0, 100 : 100 + outliers] += 10
    chosen = Settings(spatial="stride", last_patch=False)
    ours = select(scores, chosen)[0].nonzero()[:, 0].tolist()
    flat = [[0.0]] * 576
    theirs, _ = reference.release_plus(flat, flat, scores[0].tolist(), end=575)
    assert ours == sorted(theirs)
    whole = select(scores, chosen.with_changes(last_patch=True))[0].nonzero()[:, 0].tolist()
    assert set(whole) - set(ours) == ({575} if 33 <= outliers <= 38 else set())


def test_the_last_patch_can_be_marked():
    """The release stops at 575 of 576 and never samples the last patch."""
    assert keep_stride(tensor(5), tensor(0), 576)[0, 575]
    scores = torch.linspace(2, 1, 576)[None].clone()
    scores[0, :36] += 10
    ours = select(scores, Settings(spatial="stride"))[0].nonzero()[:, 0].tolist()
    flat = [[0.0]] * 576
    theirs, _ = reference.release_plus(flat, flat, scores[0].tolist(), end=575)
    assert set(ours) - set(theirs) == {575}
    assert set(theirs) <= set(ours)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [1, 2, 7, 24, 27])
def test_even_marks_stand_in_the_middle_of_their_shares(length, device):
    marked = keep_even(torch.arange(length + 1, device=device), length)
    for count, row in enumerate(marked):
        assert row.nonzero()[:, 0].tolist() == reference.middles(count, length)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (24, 24), (5, 9), (9, 5), (1, 12), (12, 1)])
def test_a_lattice_holds_exactly_its_count(grid, device):
    patches = grid[0] * grid[1]
    marked = keep_lattice(torch.arange(patches + 1, device=device), grid)
    assert marked.sum(dim=1).tolist() == list(range(patches + 1))
    for count in {1, 2, 3, patches // 3, patches // 2, patches - 1, patches} & {
        *range(patches + 1)
    }:
        assert marked[count].nonzero()[:, 0].tolist() == reference.lattice(count, grid)


def test_a_square_count_gives_the_regular_lattice_of_the_figure():
    marked = keep_lattice(tensor(64), (24, 24)).reshape(24, 24)
    assert marked.any(dim=1).nonzero()[:, 0].tolist() == list(range(1, 24, 3))
    assert torch.equal(marked, marked.any(dim=1)[:, None] & marked.any(dim=0)[None])


@pytest.mark.parametrize("grid", [(23, 25), (0, 0), (-24, -24), (24, 23)])
def test_a_grid_that_does_not_hold_the_patches_is_refused(grid):
    with pytest.raises(ValueError, match=r"576 patches.*grid"):
        check_grid(grid, 576)


def test_patches_that_form_no_square_need_a_grid_only_for_the_lattice():
    scores = torch.rand(1, 12, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="12 patches, no grid given"):
        select(scores, Settings(spatial="lattice"))
    assert select(scores, Settings(spatial="lattice"), grid=(3, 4)).any()
    assert select(scores, Settings(spatial="stride")).any()
