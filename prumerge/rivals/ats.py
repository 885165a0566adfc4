"""ATS: sample patches evenly along the distribution of their scores.

Patches with high scores take much of the cumulative distribution and are hit often, low ones
seldom; what is hit twice is sent once. So the number of tokens adapts to the picture: the natural
adaptive rival to PruMerge's fence. ``points`` are those of the picture that has most.

Source: ATS, "Adaptive Token Sampling For Efficient Vision Transformers" (ECCV 2022).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, Reduction
from prumerge.rivals.shared import HEAD_MEAN, counts_to_keep, send
from prumerge.settings import Settings


def sample_inverse(
    scores: Float[Tensor, "images patches"], counts: Int64[Tensor, " images"]
) -> Bool[Tensor, "images patches"]:
    """Mark the patches hit by evenly spaced points of the scores' cumulative distribution.

    Scores are sorted upwards and summed up; the sums are moved and scaled to [0, 1]. Points are
    spread evenly from the smallest sum above 0 to 1, and each hits the patch with the nearest sum.
    A single point lies at 1: the best-scored patch.

    Source: paper, inverse transform sampling. The authors take K - 1 points for K tokens, of which
    one is the class token, and at least 8 of them.

    Example:
        >>> scores = torch.tensor([[0.1, 0.6, 0.2, 0.1]])
        >>> sample_inverse(scores, torch.tensor([4])).int().tolist()
        [[0, 1, 1, 1]]
    """
    ordered, patch = scores.float().sort(dim=1, stable=True)
    sums = ordered.cumsum(dim=1)
    sums = sums - sums[:, :1]
    sums = sums / sums[:, -1:].clamp(min=torch.finfo(sums.dtype).tiny)
    lowest = sums.masked_fill(sums <= 0, 1).amin(dim=1, keepdim=True)

    turn = torch.arange(max(counts.tolist(), default=0), device=scores.device)
    share = turn / (counts - 1).clamp(min=1)[:, None]  # [images points], 0 to 1
    points = torch.where(counts[:, None] == 1, 1, lowest + (1 - lowest) * share).clamp(max=1)
    above = torch.searchsorted(sums, points).clamp(max=scores.shape[1] - 1)
    below = (above - 1).clamp(min=0)
    nearer_below = points - sums.gather(1, below) <= sums.gather(1, above) - points
    hit = patch.gather(1, torch.where(nearer_below, below, above))
    hits = torch.zeros_like(patch).scatter_add_(1, hit, (turn < counts[:, None]).long())
    return hits > 0


def points_for(scores: Float[Tensor, "images patches"], total: int) -> int:
    """Find the most sampling points per picture, the same for each, that hit no more than wanted.

    There are at most 64 points for each patch: what those miss, more would hardly hit.

    Example:
        >>> points_for(torch.tensor([[0.1, 0.6, 0.2, 0.1]]), total=2)
        2
    """

    def fits(points: int) -> bool:
        counts = torch.full((len(scores),), points, device=scores.device)
        return int(sample_inverse(scores, counts).sum()) <= total

    fewest, most = 1, 64 * scores.shape[1]
    while 2 * fewest <= most and fits(2 * fewest):
        fewest *= 2
    many = min(2 * fewest, most + 1)
    while many - fewest > 1:
        middle = (fewest + many) // 2
        fewest, many = (middle, many) if fits(middle) else (fewest, middle)
    return fewest


@register("ats", settings=HEAD_MEAN.with_changes(score="value_weighted"), sends="at most")
def sample_adaptively(encoded: Encoded, settings: Settings) -> Reduction:
    """Send each patch that is hit by one of as many sampling points as the budget allows.

    The more the scores differ, the fewer tokens are sent. By default scores are class attention
    times the length of the patch's value (``score="value_weighted"``).

    Source: the authors do this inside several blocks of the encoder, where dropped patches can
    still be attended to, and can train through it; here it happens once, behind the encoder.
    Points start near 0, so that a few patches of low score are always hit; that is theirs.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, sample_inverse(encoded.scores, counts) * OUTLIER)


@register("ats_mean", settings=HEAD_MEAN.with_changes(score="value_weighted"), sends="on average")
def sample_to_mean(encoded: Encoded, settings: Settings) -> Reduction:
    """Send what sampling points hit, as many of them as bring the mean number to the budget.

    All pictures have so many points that those of a batch send the budget on average and no more,
    short of it by what one point more for each would add. A picture's tokens depend on the others
    of its batch; alone it sends the budget or a little less. Without a budget, the mean is that of
    what the fence gives each picture.

    Source: own choice, for comparisons at equal mean counts; the authors set the number of points.
    """
    total = int(counts_to_keep(encoded, settings).sum())
    points = points_for(encoded.scores, total) if total else 1
    counts = torch.full((len(encoded.scores),), points, device=encoded.scores.device)
    return send(encoded, settings, sample_inverse(encoded.scores, counts) * OUTLIER)
