"""Adaptive important token selection: which visual tokens stand out.

A vision encoder's class token looks at few patches. Their attention scores are upper outliers of
the picture's own distribution, so the number worth keeping follows from the picture.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded (CLIP ViT-L/14-336: 576)

Source: LLaVA-PruMerge, arXiv 2403.15388, step "adaptive important token selection" (AITS).
"""

import functools

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prumerge.settings import Settings


def fence(
    scores: Float[Tensor, "rows patches"],
    whisker: float = 1.5,
    lower_quantile: float = 0.25,
    upper_quantile: float = 0.75,
) -> Float[Tensor, "rows 1"]:
    """Return the score above which a patch of the same row is an outlier, in float32.

    The fence is ``Q3 + whisker * (Q3 - Q1)`` with linearly interpolated quartiles; NaN where a
    score of the row is NaN.

    Source:
        Paper, equation of the IQR bound; the release computes the same with numpy.

    Example:
        >>> fence(torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])).tolist()
        [[6.0]]
    """
    # In float32: torch.quantile refuses half precision, and a half carries three digits.
    scores = scores.float()
    if len(scores) == 0:  # no picture, no fence; torch.quantile refuses an empty array
        return scores.new_empty(0, 1)
    lower = torch.quantile(scores, lower_quantile, dim=1, keepdim=True)
    upper = torch.quantile(scores, upper_quantile, dim=1, keepdim=True)
    return upper + whisker * (upper - lower)


def keep_outliers(
    scores: Float[Tensor, "images patches"],
    whisker: float = 1.5,
    lower_quantile: float = 0.25,
    upper_quantile: float = 0.75,
) -> Bool[Tensor, "images patches"]:
    """Mark the patches whose score is an upper outlier within their own picture.

    A patch stays when its score is strictly above the picture's :func:`fence`. Rows keep different
    numbers of patches, with the paper's quartiles at most ``ceil((patches - 1) / 4)``: 144 of 576.
    Only ratios within a row matter, so removing the class token before or after the softmax gives
    the same answer. A row without outliers is all False; what to do with such a picture is decided
    by :func:`prumerge.reduce_tokens`.

    Raises:
        ValueError: If a score is NaN or infinite, or there are too few patches for any to be an
            outlier, see :func:`count_outliers`.

    Source:
        Paper, equation of the IQR bound. The release pools the quartiles over the batch and turns
        the count into a ratio (D4, D5): identical for one picture, different for several.

    Example:
        >>> scores = torch.tensor([[0.1, 0.1, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3, 0.3]])
        >>> keep_outliers(scores).sum(dim=1).tolist()
        [1, 0]
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: check the pixel values and the encoder")
    bounds = (whisker, lower_quantile, upper_quantile)
    check_enough(scores.shape[1], bounds)
    return scores.float() > fence(scores, *bounds)


def count_outliers(
    scores: Float[Tensor, "images patches"], settings: Settings
) -> Int64[Tensor, " images"]:
    """Count the outliers of each picture under the pooling and the rule of ``settings``.

    Outliers are the best-scored patches of a picture, so their number says which they are. Scores
    are not checked for NaN: that would make a device wait.

    Raises:
        ValueError: If there are so few patches that none can be an outlier, whatever its score:
            with the paper's quartiles 2 or 3. A single patch is all there is, and no outlier.

    Source:
        D4 and D5. With ``pooling="batch"`` and ``outlier_rule="count"`` every picture of a batch
        gets the same number, the mean rounded down, as in the release (lines 35-46, 116).

    Example:
        >>> scores = torch.tensor([[0.1, 0.1, 0.2, 0.2, 0.9], [0.3, 0.3, 0.3, 0.3, 0.3]])
        >>> count_outliers(scores, Settings()).tolist()
        [1, 0]
    """
    images = scores.shape[0]
    scores = scores.float()
    rows = scores.reshape(1, -1) if settings.pooling == "batch" and images else scores
    bounds = (settings.whisker, settings.lower_quantile, settings.upper_quantile)
    check_enough(rows.shape[1], bounds)
    limits = fence(rows, *bounds)
    counts = (scores > limits).sum(dim=1)
    if settings.pooling == "batch" and settings.outlier_rule == "count" and images:
        counts = (counts.sum() // images).expand(images)
    return counts


@functools.lru_cache(maxsize=64)
def check_enough(patches: int, bounds: tuple[float, float, float]) -> None:
    """Refuse a picture in which not even one patch that has all the attention stands out.

    ``bounds``: whisker, lower and upper quantile. ValueError, also from the functions that call it.
    """
    alone = torch.zeros(1, patches)
    alone[:, :1] = 1
    if patches > 1 and not (alone > fence(alone, *bounds)).any():
        raise ValueError(
            f"{patches} patches are too few for the fence, beyond which none of them can be: set a "
            "budget, or show the encoder larger pictures"
        )
