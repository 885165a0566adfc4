"""Which patches stay, why, and in which order they are sent.

    rank_scores   best-scored patch first
    select        outliers, evenly spaced patches, budget -> a reason per patch
    arrange       reasons -> patch indices in the order the language model sees

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    longest  kept patches of the picture that keeps most
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from prumerge.outliers import count_outliers
from prumerge.settings import Settings
from prumerge.spatial import check_grid, keep_even, keep_lattice, keep_stride, released_step

DROPPED, OUTLIER, SPATIAL, FILL, DISTINCT = 0, 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which patches of each picture stay, why, and in which order they are sent.

    Args:
        reason: Per patch ``DROPPED`` (0); ``OUTLIER`` (1), kept for its score; ``SPATIAL`` (2),
            kept for its place; ``FILL`` (3), next best by score, kept to reach the budget or so
            that a picture without outliers keeps something; ``DISTINCT`` (4), kept by methods that
            compare features: unlike the others, or standing for those like it.
        order: Patch index of each kept patch in the order the language model sees them, padded
            with -1.
        counts: Kept patches per picture, the extra token not among them. Lies on the CPU.
    """

    reason: Int8[Tensor, "images patches"]
    order: Int64[Tensor, "images longest"]
    counts: Int64[Tensor, " images"]

    @property
    def kept(self) -> Bool[Tensor, "images patches"]:
        """True where a patch stays."""
        return self.reason != DROPPED


def rank_scores(scores: Float[Tensor, "images patches"]) -> Int64[Tensor, "images patches"]:
    """Number the patches of each picture by falling score, from 0; the first of equals is first.

    Args:
        scores: Attention each patch receives.

    Returns:
        Rank of each patch.

    Example:
        >>> rank_scores(torch.tensor([[0.1, 0.5, 0.1, 0.3]])).tolist()
        [[2, 0, 3, 1]]
    """
    best_first = scores.float().argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device).expand_as(best_first)
    return torch.empty_like(best_first).scatter_(1, best_first, ranks)


def select(
    scores: Float[Tensor, "images patches"],
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> Int8[Tensor, "images patches"]:
    """Decide which patches stay.

    Without a budget the outliers stay (or the fixed share), and with them the evenly spaced
    patches they ask for. With a budget the best-scored patches stay, or in equal parts (see
    ``outlier_share``) the best-scored and evenly spaced ones, up to exactly the budget.

    Args:
        scores: Attention each patch receives.
        settings: Budget, fence, spatial part and branch are read.
        grid: Rows and columns of patches; None: square. Only the lattice needs it.

    Returns:
        The reason per patch, as :class:`Selection` lists them. At least one patch stays: the
        best-scored where a picture has no outlier, then counted as one.

    Raises:
        ValueError: If the lattice is asked for and the grid does not hold the patches.

    Source:
        Algorithm 1 of the paper; D4, D5, D11 to D13.

    Example:
        >>> scores = torch.tensor([[0.1, 0.1, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3, 0.3]])
        >>> select(scores, Settings()).tolist()
        [[0, 0, 0, 0, 1], [3, 0, 0, 0, 0]]
    """
    images, patches = scores.shape
    ranks = rank_scores(scores)
    total = settings.patches_of(patches)
    if total is not None:
        return _fill_budget(ranks, total, settings, grid)
    if settings.branch == "fixed":
        found = torch.full((images,), int(patches * settings.fixed_ratio), device=scores.device)
    else:
        found = count_outliers(scores, settings)
    chosen = found.clamp(min=1)
    by_place = _spread(chosen, patches, settings, grid)
    reason = torch.where(by_place, SPATIAL, DROPPED)
    first = torch.where(found > 0, OUTLIER, FILL)
    return torch.where(ranks < chosen[:, None], first[:, None], reason).to(torch.int8)


def _spread(chosen: Tensor, patches: int, settings: Settings, grid: tuple | None) -> Tensor:
    """Mark the evenly spaced patches that ``chosen`` ones by score ask for (D11 to D13)."""
    fixed = settings.branch == "fixed"
    if settings.spatial == "none":
        return torch.zeros(len(chosen), patches, dtype=torch.bool, device=chosen.device)
    if settings.spatial == "lattice":
        wanted = chosen if fixed else chosen * settings.spatial_factor
        return keep_lattice(wanted.clamp(max=patches), check_grid(grid, patches))
    if fixed:
        steps = torch.full_like(chosen, int(1 / settings.fixed_ratio))
        return keep_stride(steps, steps // 2, patches)
    steps = released_step(chosen, patches, settings.spatial_factor)
    return keep_stride(steps, torch.zeros_like(steps), patches)


def _fill_budget(ranks: Tensor, total: int, settings: Settings, grid: tuple | None) -> Tensor:
    """Mark exactly ``total`` patches: by score, by place, then the next best by score."""
    images, patches = ranks.shape
    if settings.spatial == "none":
        return torch.where(ranks < total, OUTLIER, DROPPED).to(torch.int8)
    by_score = max(1, round(settings.outlier_share * total))
    counts = torch.full((images,), total - by_score, device=ranks.device)
    if settings.spatial == "lattice":
        by_place = keep_lattice(counts, check_grid(grid, patches))
    else:
        by_place = keep_even(counts, patches)
    reason = torch.where(by_place, SPATIAL, DROPPED)
    reason = torch.where(ranks < by_score, OUTLIER, reason)
    # Patches chosen twice leave room for the next best: walk the others from the best down.
    free = torch.empty_like(reason).scatter_(1, ranks, (reason == DROPPED).long())
    room = total - (reason != DROPPED).sum(dim=1, keepdim=True)
    next_best = ((free == 1) & (free.cumsum(dim=1) <= room)).gather(1, ranks)
    return torch.where(next_best, FILL, reason).to(torch.int8)


def arrange(
    reason: Int8[Tensor, "images patches"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
) -> Selection:
    """Put the kept patches into the order in which they are sent.

    Args:
        reason: Why each patch stays; 0 where it does not.
        scores: Attention each patch receives.
        settings: ``order`` is read.

    Returns:
        The selection. Unless ``order`` is ``"raster"``, patches kept for their score come first,
        then those kept for their place or features, in raster order.

    Raises:
        ValueError: If a score is NaN or infinite.

    Source:
        D14.
    """
    patches = scores.shape[1]
    places = torch.arange(patches, device=scores.device)
    keys = places.expand_as(reason)
    if settings.order != "raster":
        by_score = rank_scores(scores) if settings.order == "attention" else places
        later = (reason == SPATIAL) | (reason == DISTINCT)
        keys = torch.where(later, patches + places, by_score)
    keys = torch.where(reason == DROPPED, 2 * patches, keys)
    counts = (reason != DROPPED).sum(dim=1)
    # A device waits here: lengths and the check of the scores travel together.
    *lengths, finite = torch.cat([counts, torch.isfinite(scores).all().long()[None]]).tolist()
    if not finite:
        raise ValueError("scores hold NaN or infinity: check the pixel values and the encoder")
    order = keys.argsort(dim=1, stable=True)[:, : max(lengths, default=0)]
    padding = places[: order.shape[1]] >= counts[:, None]
    order = order.masked_fill(padding, -1)
    return Selection(reason, order, torch.tensor(lengths, dtype=torch.int64))
