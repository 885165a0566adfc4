"""From features, keys and scores to fewer visual tokens: the whole method on tensors.

    reduce_tokens   select (outliers, spatial, budget), then
    reduce_to       arrange, merge (supplement), append the extra token, cut into a list

Everything runs over the batch at once. Pictures keep different numbers of patches, so the work is
done on arrays as wide as the picture that keeps most; only the last line cuts them apart.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    kept     tokens one picture sends, extra token included
"""

import dataclasses

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from prumerge.encoded import check_shapes
from prumerge.presets import resolve_settings
from prumerge.selection import (
    DISTINCT,
    DROPPED,
    FILL,
    OUTLIER,
    SPATIAL,
    Selection,
    arrange,
    select,
)
from prumerge.settings import Settings
from prumerge.supplement import extra_token, merge

__all__ = [
    "DISTINCT",
    "DROPPED",
    "FILL",
    "OUTLIER",
    "SPATIAL",
    "Reduction",
    "Selection",
    "reduce_to",
    "reduce_tokens",
]


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
    return reduce_to(select(scores, settings, grid), features, keys, scores, settings)


def reduce_to(
    reason: Int8[Tensor, "images patches"],
    features: Float[Tensor, "images patches width"],
    keys: Float[Tensor, "images patches depth"],
    scores: Float[Tensor, "images patches"],
    settings: Settings,
) -> Reduction:
    """Send the patches that have a reason, merged as the settings say.

    Every method that only decides *which* patches stay ends here.

    Args:
        reason: Why each patch stays, 0 where it does not; see :class:`Selection`.
        features: Visual tokens.
        keys: Keys of the patches.
        scores: Attention each patch receives.
        settings: Order, merging and extra token are read.

    Returns:
        The reduction. The extra token is left out where nothing is dropped and where the budget
        is a single token.

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
