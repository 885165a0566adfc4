"""What every method is measured against: all patches, random and evenly spaced ones, top k."""

import torch

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, SPATIAL, Reduction, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, PLAIN, counts_to_keep, send
from prumerge.settings import Settings
from prumerge.spatial import keep_lattice


@register("all", settings=PLAIN, sends="all")
def keep_all(encoded: Encoded, settings: Settings) -> Reduction:
    """Send every patch unchanged; the budget is ignored."""
    kept = torch.full_like(encoded.scores, OUTLIER, dtype=torch.int8)
    return send(encoded, settings.with_changes(budget=None), kept)


@register("random", settings=PLAIN)
def keep_random(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches drawn without replacement.

    The seed alone decides the draw: all pictures use the same one, so that a picture's tokens do
    not depend on the batch it comes in, and smaller budgets are subsets of larger ones. Report the
    mean over several seeds.

    Source: a customary baseline; published ones draw without a seed.
    """
    patches = encoded.scores.shape[1]
    generator = torch.Generator().manual_seed(settings.seed)  # on the CPU: the same everywhere
    turn = torch.randperm(patches, generator=generator).to(encoded.scores.device)
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, (turn < counts[:, None]) * SPATIAL)


@register("uniform", settings=PLAIN)
def keep_uniform(encoded: Encoded, settings: Settings) -> Reduction:
    """Send evenly spaced patches on a two-dimensional lattice.

    The budget is met also where it is no product of two numbers, see
    :func:`prumerge.spatial.keep_lattice`.

    Source: a customary baseline. Others take the nearest rectangular sub-grid and add or drop
    patches to meet the budget; here the rows of the lattice differ by at most one mark instead.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, keep_lattice(counts, encoded.grid) * SPATIAL)


@register("top_k", settings=PLAIN)
def keep_top(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches of PruMerge's best scores and merge nothing.

    It differs from PruMerge in merging only; among equal scores the raster's first patches stay.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, (rank_scores(encoded.scores) < counts[:, None]) * OUTLIER)


@register("fastervlm", settings=HEAD_MEAN)
def keep_top_of_heads(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches with the highest mean class attention over the heads and merge nothing.

    It is ``top_k`` with another score, read in the block that made the features.

    Source: FasterVLM (released code): block 22 of CLIP ViT-L/14, mean over heads, raster order, no
    merging. VisionZip's sum over heads ranks alike.
    """
    return keep_top(encoded, settings)
