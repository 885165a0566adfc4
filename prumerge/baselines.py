"""What every reduction has to beat: all tokens, random ones, evenly spaced ones, plain top-k.

Without a budget each baseline sends as many tokens as PruMerge would for the same picture (its
outliers and its extra token), so that counts are equal picture by picture. None merges unless
``neighbours`` is set.
"""

import torch
from torch import Tensor

from prumerge.methods import register
from prumerge.outliers import count_outliers
from prumerge.reduction import OUTLIER, SPATIAL, Reduction, reduce_to
from prumerge.scores import Encoded
from prumerge.selection import rank_scores
from prumerge.settings import Settings
from prumerge.spatial import keep_lattice

PLAIN = Settings(neighbours=0, extra_token=False, order="raster")


def counts_to_keep(encoded: Encoded, settings: Settings) -> Tensor:
    """Return patches to keep per picture: the budget, or as many tokens as PruMerge would send.

    Args:
        encoded: What the encoder says.
        settings: The budget, or whisker and quartiles, are read.

    Returns:
        Counts between 1 and the number of patches, one per picture.
    """
    images, patches = encoded.scores.shape
    total = settings.patches_of(patches)
    if total is not None:
        return torch.full((images,), total, device=encoded.scores.device)
    # PruMerge adds one token for the dropped patches; a baseline without one keeps a patch more.
    found = count_outliers(encoded.scores, settings).clamp(min=1)
    return found if settings.extra_token else (found + 1).clamp(max=patches)


def _send(encoded: Encoded, settings: Settings, kept: Tensor, why: int) -> Reduction:
    reason = (kept * why).to(torch.int8)
    return reduce_to(reason, encoded.features, encoded.keys, encoded.scores, settings)


@register("all", settings=PLAIN)
def keep_all(encoded: Encoded, settings: Settings) -> Reduction:
    """Send every patch unchanged; the budget is ignored."""
    kept = torch.ones_like(encoded.scores, dtype=torch.bool)
    return _send(encoded, settings.with_changes(budget=None), kept, OUTLIER)


@register("random", settings=PLAIN)
def keep_random(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches drawn without replacement.

    The seed alone decides the draw: all pictures use the same one, so that a picture's tokens do
    not depend on the batch it comes in, and smaller budgets are subsets of larger ones.
    """
    patches = encoded.scores.shape[1]
    generator = torch.Generator().manual_seed(settings.seed)  # on the CPU: the same everywhere
    turn = torch.randperm(patches, generator=generator).to(encoded.scores.device)
    counts = counts_to_keep(encoded, settings)
    return _send(encoded, settings, turn < counts[:, None], SPATIAL)


@register("uniform", settings=PLAIN)
def keep_uniform(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches on a two-dimensional lattice; see :func:`prumerge.spatial.keep_lattice`."""
    counts = counts_to_keep(encoded, settings)
    return _send(encoded, settings, keep_lattice(counts, encoded.grid), SPATIAL)


@register("top_k", settings=PLAIN)
def keep_top(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the best-scored patches and merge nothing."""
    counts = counts_to_keep(encoded, settings)
    return _send(encoded, settings, rank_scores(encoded.scores) < counts[:, None], OUTLIER)
