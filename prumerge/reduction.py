"""From features, keys and scores to fewer visual tokens: the whole method on tensors.

    reduce_tokens   all of it:
    select          outliers, evenly spaced patches, budget -> a reason per patch
    arrange         reasons -> patch indices in the order the language model sees
    reduce_to       arrange, merge (supplement), append the extra token, cut into a list

Everything runs over the batch at once. Pictures keep different numbers of patches, so the work is
done on arrays as wide as the picture that keeps most; only the last line cuts them apart.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    longest  kept patches of the picture that keeps most
    kept     tokens one picture sends, extra token included
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int8, Int64
from torch import Tensor

from prumerge.encoder import check_shapes
from prumerge.outliers import count_outliers
from prumerge.settings import Settings, resolve_settings
from prumerge.spatial import check_grid, keep_even, keep_lattice, keep_stride, released_step
from prumerge.supplement import extra_token, merge, take

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
    """Decide which patches stay, and why, as :class:`Selection` lists the reasons.

    Without a budget the outliers stay (or the fixed share), and with them the evenly spaced
    patches they ask for. With a budget the best-scored patches stay, or in equal parts (see
    ``outlier_share``) the best-scored and evenly spaced ones, up to exactly the budget. At least
    one patch stays: the best-scored where a picture has no outlier, then counted as one.

    Raises:
        ValueError: If the lattice is asked for, which alone needs the grid (None: square), and the
            grid does not hold the patches.

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
    by_place = spread(chosen, patches, settings, grid)
    reason = torch.where(by_place, SPATIAL, DROPPED)
    first = torch.where(found > 0, OUTLIER, FILL)
    return torch.where(ranks < chosen[:, None], first[:, None], reason).to(torch.int8)


def spread(
    chosen: Int64[Tensor, " images"],
    patches: int,
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> Bool[Tensor, "images patches"]:
    """Mark the evenly spaced patches that ``chosen`` ones by score ask for (D11 to D13)."""
    fixed = settings.branch == "fixed"
    if settings.spatial == "none":
        return torch.zeros(len(chosen), patches, dtype=torch.bool, device=chosen.device)
    if settings.spatial == "lattice":
        wanted = chosen if fixed else chosen * settings.spatial_factor
        return keep_lattice(wanted.clamp(max=patches), check_grid(grid, patches))
    if fixed:
        steps = torch.full_like(chosen, int(1 / settings.fixed_ratio))
        return keep_stride(steps, steps // 2, patches, settings.last_patch)
    steps = released_step(chosen, patches, settings.spatial_factor)
    return keep_stride(steps, torch.zeros_like(steps), patches, settings.last_patch)


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
    """Put the kept patches into the order in which they are sent, as ``settings.order`` says (D14).

    Unless that is ``"raster"``, patches kept for their score come first, then those kept for their
    place or features, in raster order.

    Raises:
        ValueError: If a score is NaN or infinite.
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


@dataclasses.dataclass(frozen=True)
class Reduction:
    """The tokens to send instead of the full features, and where they come from.

    Args:
        tokens: One tensor per picture, the extra token last.
        positions: The patch index where each token stands. The extra token stands at the last
            patch, so that positions never fall in raster order.
        selection: Which patches were kept.
    """

    tokens: list[Float[Tensor, "_kept _width"]]
    positions: list[Int64[Tensor, " _kept"]]
    selection: Selection

    @property
    def kept(self) -> list[int]:
        """Visual tokens each picture sends, extra token included."""
        return [len(tokens) for tokens in self.tokens]


def reduce_tokens(
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    settings: Settings | str = "prumerge",
    *,
    grid: tuple[int, int] | None = None,
    **overrides,
) -> Reduction:
    """Keep the patches that matter, merge others into them, and drop the rest.

    Args:
        features: Visual tokens before the projector, class token excluded, raster order.
        keys: Keys that say which patches are alike.
        scores: Attention each patch receives, such as :func:`prumerge.encode` computes.
        settings: A preset's name or a ``Settings`` object.
        grid: Rows and columns of patches. None: as many rows as columns.
        overrides: Changed settings, as in ``reduce_tokens(..., budget=64)``.

    Returns:
        Tokens in the type and on the device of ``features``, one entry per picture. A picture
        keeps at least one patch, also where none is an outlier. A budget is met exactly, extra
        token included; a budget of one leaves no room for the extra token.

        At no time are more than 16 bytes held for each pair of a token sent and a patch, and 12
        for each number of the tokens sent, as wide as the picture that sends most: no array of
        patches by patches. Features in halves are copied to float32 besides.

    Raises:
        ValueError: If these are no tensors of floating-point numbers, shapes disagree, scores or
            tokens are NaN or infinite (scores need not be probabilities, but sums weighted by them
            must fit the type), a setting is unknown or out of its limits, or the grid does not
            hold the patches.

    Source:
        Algorithm 1 of the paper; differences D4 to D15 stand in :class:`prumerge.Settings`.

    Example:
        >>> scores = torch.full((1, 16), 0.01)
        >>> scores[0, 5] = 0.85
        >>> features = torch.eye(16)[None]
        >>> reduce_tokens(features, features, scores, "paper").positions
        [tensor([5])]
    """
    settings = resolve_settings(settings, **overrides)
    check_shapes(features, keys, scores)
    reason = select(scores, settings, grid)
    if settings.duplicates and settings.branch == "fixed" and settings.budget is None:
        return reduce_with_duplicates(reason, features, keys, scores, settings, grid)
    return reduce_to(reason, features, keys, scores, settings)


def reduce_to(
    reason: Int8[Tensor, "images patches"],
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
) -> Reduction:
    """Send the patches that have a reason, merged as the settings say.

    Every method that only decides *which* patches stay ends here. ``reason`` is 0 where a patch is
    dropped, else as :class:`Selection` lists. The extra token is left out where nothing is dropped
    and where the budget is a single token.

    Raises:
        ValueError: If a score or a token is NaN or infinite.
    """
    patches = scores.shape[1]
    selection = arrange(reason, scores, settings)
    order, kept = selection.order, selection.kept
    tokens = merge(features, keys, scores, order.clamp(min=0), kept, settings)
    lengths = selection.counts.tolist()
    if settings.extra_token and settings.tokens_of(patches) != 1:
        extra = extra_token(features, scores, ~kept, settings.normalise_weights)
        tokens, order = _append(tokens, order, kept.sum(dim=1), extra, patches - 1)
        lengths = [min(length + 1, patches) for length in lengths]
    if not torch.isfinite(tokens).all():
        raise ValueError(
            f"tokens would be NaN or infinite in {tokens.dtype}: check the features and keys, or "
            "divide the scores by their sum, as attention is"
        )
    return Reduction(
        tokens=[row[:length] for row, length in zip(tokens, lengths, strict=True)],
        positions=[row[:length] for row, length in zip(order, lengths, strict=True)],
        selection=selection,
    )


def _append(tokens: Tensor, order: Tensor, counts: Tensor, extra: Tensor, place: int) -> tuple:
    """Put one more token behind the last one of each row; rows end at different columns."""
    pad = torch.nn.functional.pad
    here = counts[:, None]
    order = pad(order, (0, 1)).scatter_(1, here, place)
    here = here[..., None].expand(-1, 1, tokens.shape[-1])
    return pad(tokens, (0, 0, 0, 1)).scatter_(1, here, extra[:, None]), order


def _listed(
    reason: Int8[Tensor, "images patches"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> tuple[Int64[Tensor, "images sent"], Int64[Tensor, "images others"]]:
    """List the patches sent, by score and then by place, and the others as the release lists them.

    The others stand in raster order, without as many of the first as are sent twice.
    """
    images, patches = scores.shape
    by_score = (reason > 0) & (reason != SPATIAL)
    chosen = by_score.sum(dim=1)
    by_place = spread(chosen, patches, settings, grid)
    places = torch.arange(patches, device=scores.device).expand(images, -1)
    keys = rank_scores(scores) if settings.order == "attention" else places
    best = keys.masked_fill(~by_score, patches).argsort(dim=1, stable=True)
    even = places.masked_fill(~by_place, patches).sort(dim=1).values
    # The fixed branch sends as many patches of each kind whatever the picture.
    counts = torch.stack([by_score, by_place]).sum(dim=2).amax(dim=1).tolist() if images else (0, 0)
    order = torch.cat([best[:, : counts[0]], even[:, : counts[1]]], dim=1)
    order = order.sort(dim=1).values if settings.order == "raster" else order
    others = places.masked_fill(reason > 0, -1).argsort(dim=1, stable=True)[:, order.shape[1] :]
    return order, others


def reduce_with_duplicates(
    reason: Int8[Tensor, "images patches"],
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
    grid: tuple[int, int] | None = None,
) -> Reduction:
    """Send what PruMerge+'s branch for training sends as released, with its duplicates.

    A patch chosen both by score and for its place is sent twice there; it is a neighbour of itself,
    and counts twice among the neighbours of others. The list of the others, which takes each index
    to be sent once, then lacks as many patches, the first ones of the raster: they reach neither a
    neighbour's sum nor the extra token. An adapter that was trained on such tokens sees its exact
    input only with both. All pictures send equally many tokens, 145 of 576.

    Source:
        D13; release at commit 097c041, lines 216-269, and ``complement_idx``.
    """
    order, others = _listed(reason, scores, settings, grid)
    images, sent = order.shape
    pool = torch.cat([order, others], dim=1)  # what can be merged, one entry per list entry
    features, keys = take(features, pool), take(keys, pool)
    weights = scores.gather(1, pool)
    turn = torch.arange(pool.shape[1], device=pool.device)
    kept: Bool[Tensor, "images pool"] = (turn < sent).expand(images, -1)
    tokens = merge(features, keys, weights, turn[:sent].expand(images, -1), kept, settings)
    positions = order
    if settings.extra_token and others.shape[1]:
        extra = extra_token(features, weights, ~kept, settings.normalise_weights)
        tokens = torch.cat([tokens, extra[:, None]], dim=1)
        positions = torch.nn.functional.pad(order, (0, 1), value=scores.shape[1] - 1)
    counts = torch.full((images,), sent)
    return Reduction(list(tokens), list(positions), Selection(reason, order, counts))
