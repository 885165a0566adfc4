"""SparseVLM's recycling: the best of the dropped tokens sent on as the means of a few clusters.

Clusters are found by density peaks: a centre has a dense neighbourhood and lies far from everything
denser.

Source: SparseVLM (arXiv 2410.04417) and its authors' code, which breaks ties of the density by a
little noise; here the earlier point is the denser one, so that answers repeat. Density peaks:
Rodriguez and Laio, Science 344 (2014).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

RECYCLED = 0.3
"""Share of the dropped tokens that are recycled, the best-rated ones."""

PER_CLUSTER = 10


def recycled_of(dropped: int) -> tuple[int, int]:
    """Return how many of the dropped tokens are recycled, and into how many clusters.

    Example:
        >>> recycled_of(276)
        (83, 9)
    """
    if dropped == 0:
        return 0, 0
    recycled = int(RECYCLED * dropped) + 1
    return recycled, recycled // PER_CLUSTER + 1


def split(before: int, reads: int) -> tuple[int, int, int]:
    """Split ``reads`` tokens of the next layer into tokens kept, recycled, and their clusters.

    As many are kept as leave room for the clusters that the rule makes of the others, but at least
    one; clusters fill what is left.

    Example:
        >>> split(576, 309)
        (300, 83, 9)
    """
    fits = (kept for kept in range(reads, 0, -1) if kept + recycled_of(before - kept)[1] <= reads)
    kept = next(fits, 1)
    recycled, clusters = recycled_of(before - kept)
    clusters = min(clusters, reads - kept)
    return kept, recycled if clusters else 0, clusters


def density_peaks(
    points: Float[Tensor, "rows points width"], clusters: int
) -> tuple[Int64[Tensor, "rows clusters"], Int64[Tensor, "rows points"]]:
    """Find the centres of clusters, and the cluster of each point.

    A point's density is the exponential of minus its mean squared distance to its nearest points,
    itself included, as many as there are clusters; distances are divided by the root of the width.
    Its peak is that times its distance to the nearest denser point (the densest of a row: the
    largest distance of the row). The points of the largest peaks are centres, and points belong
    to the nearest centre. ``clusters`` is at most the number of points.
    """
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart / points.shape[-1] ** 0.5
    nearest = apart.topk(clusters, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    place = torch.arange(points.shape[1], device=points.device)
    first = place[None, :] < place[:, None]
    mine, theirs = density[:, :, None], density[:, None, :]
    denser = (theirs > mine) | ((theirs == mine) & first)
    farthest = apart.flatten(1).max(dim=1).values[:, None, None]
    lonely = torch.where(denser, apart, farthest).min(dim=-1).values
    centres = (lonely * density).sort(descending=True, stable=True).indices[:, :clusters]
    to_centres = apart.gather(2, centres[:, None, :].expand(-1, points.shape[1], -1))
    owner = to_centres.argmin(dim=2)
    numbers = torch.arange(clusters, device=points.device).expand_as(centres)
    return centres, owner.scatter(1, centres, numbers)


def cluster_means(
    points: Float[Tensor, "rows points width"], owner: Int64[Tensor, "rows points"], clusters: int
) -> Float[Tensor, "rows clusters width"]:
    """Average the points of each cluster."""
    belongs = torch.nn.functional.one_hot(owner, clusters).to(points).transpose(1, 2)
    return belongs @ points / belongs.sum(dim=2, keepdim=True)
