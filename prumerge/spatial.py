"""Evenly spaced visual tokens: what PruMerge+ adds to the outliers.

Outliers sit on the objects the class token looks at. PruMerge+ adds patches spread over the whole
picture, more of them the more outliers there are. The paper's figure shows a two-dimensional
lattice; the release strides over the flattened raster instead (D11).

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, rows x columns, row after row

Source: LLaVA-PruMerge, arXiv 2403.15388, PruMerge+ (spatial branch of Algorithm 1).
"""

import math
import numbers

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def released_step(
    outliers: Int64[Tensor, " images"], patches: int, factor: int = 3
) -> Int64[Tensor, " images"]:
    """Return the distance between neighbouring spatial tokens in the adaptive branch.

    The share of outliers asks for every ``patches // outliers``-th patch, and ``factor`` for
    ``factor`` times as many: ``patches // outliers // factor``, at least 1. A step of 1 keeps the
    whole picture, which happens from 97 outliers of 576 on. There must be an outlier.

    Source:
        D11, D12; release lines 209-210.

    Example:
        >>> released_step(torch.tensor([16, 40, 97]), patches=576).tolist()
        [12, 4, 1]
    """
    return (patches // outliers // factor).clamp(min=1)


def keep_stride(
    steps: Int64[Tensor, " images"],
    starts: Int64[Tensor, " images"],
    patches: int,
    last: bool = True,
) -> Bool[Tensor, "images patches"]:
    """Mark every ``steps``-th patch of the flattened raster, from patch ``starts`` to the end.

    Steps that divide the row length give vertical stripes: 6 marks 4 of 24 columns. Without
    ``last`` the last patch is never marked.

    Source:
        D11 and D13. The release stops one patch short of the end (575 of 576 hard-coded).

    Example:
        >>> keep_stride(torch.tensor([2]), torch.tensor([1]), patches=6).int().tolist()
        [[0, 1, 0, 1, 0, 1]]
    """
    offsets = torch.arange(patches, device=steps.device)[None] - starts[:, None]
    marks = (offsets >= 0) & (offsets % steps[:, None] == 0)
    marks[:, -1] &= last
    return marks


def keep_even(counts: Int64[Tensor, "*rows"], length: int) -> Bool[Tensor, "*rows {length}"]:
    """Mark ``counts`` of ``length`` places, evenly spaced and centred; every row exactly its count.

    Mark number i stands at ``floor((i + 1/2) * length / counts)``, the middle of its share.

    Source:
        Own choice: neither paper nor release spaces an exact number of tokens.

    Example:
        >>> keep_even(torch.tensor([2, 3]), length=6).int().tolist()
        [[0, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1]]
    """
    # Marks up to a place, in whole numbers: rounding in floating point would lose some.
    ends = torch.arange(length + 1, device=counts.device)
    marks = (2 * ends * counts[..., None] + length - 1) // (2 * length)
    return marks[..., 1:] > marks[..., :-1]


def keep_lattice(
    counts: Int64[Tensor, " images"], grid: tuple[int, int]
) -> Bool[Tensor, "images patches"]:
    """Mark ``counts`` patches, exactly as many, on a two-dimensional lattice over the picture.

    On a ``grid`` of rows by columns it has about ``sqrt(counts * rows / columns)`` rows, so that
    its cells are as square as can be; the marks are dealt out evenly to these rows and evenly
    spaced within each. Counts that are a product of both sides give a regular lattice, others rows
    that differ by one mark.

    Source:
        D11: the figure of PruMerge+ shows a regular 8 x 8 lattice; no formula is given.

    Example:
        >>> keep_lattice(torch.tensor([4]), grid=(4, 4))[0].reshape(4, 4).int().tolist()
        [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]]
    """
    rows, columns = grid
    wanted = (counts * (rows / columns)).sqrt().round().long()
    fewest = (counts + columns - 1) // columns  # rows below which the marks would not fit
    lattice_rows = torch.maximum(wanted, fewest).clamp(min=1, max=rows)
    used = keep_even(lattice_rows, rows)
    share = used.cumsum(dim=1)  # number of the lattice row each row belongs to, from 1
    per_row = share * counts[:, None] // lattice_rows[:, None]
    per_row = per_row - (share - 1) * counts[:, None] // lattice_rows[:, None]
    marks = keep_even(torch.where(used, per_row, 0), columns)
    return marks.flatten(start_dim=1)


def check_grid(grid: tuple[int, int] | None, patches: int) -> tuple[int, int]:
    """Return rows and columns, square if none are given; ValueError unless they hold the patches.

    Example:
        >>> check_grid(None, 576)
        (24, 24)
    """
    side = math.isqrt(patches)
    pair = (side, side) if grid is None else grid
    whole = isinstance(pair, tuple | list) and all(isinstance(n, numbers.Integral) for n in pair)
    if not whole or len(pair) != 2:
        raise ValueError(f"grid must be (rows, columns), two whole numbers, got {grid!r}")
    rows, columns = pair
    if rows * columns != patches or rows < 1:
        told = f"grid={grid}" if grid else "no grid given and not a square"
        raise ValueError(f"{patches} patches, {told}: pass grid=(rows, columns) that holds them")
    return rows, columns
