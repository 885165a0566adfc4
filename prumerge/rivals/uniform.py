"""Evenly spaced patches, whatever the picture shows."""

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction
from prumerge.rivals.shared import PLAIN, counts_to_keep, send
from prumerge.settings import Settings
from prumerge.spatial import keep_lattice


@register("uniform", settings=PLAIN)
def keep_uniform(encoded: Encoded, settings: Settings) -> Reduction:
    """Send evenly spaced patches on a two-dimensional lattice.

    :func:`prumerge.spatial.keep_lattice` places them.

    Args:
        encoded: What the encoder says.
        settings: The budget is read.

    Returns:
        Exactly the budget, also where it is no product of two numbers.

    Source:
        A customary baseline. Others take the nearest rectangular sub-grid and add or drop patches
        to meet the budget; here the rows of the lattice differ by at most one mark instead.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, keep_lattice(counts, encoded.grid), SPATIAL)
