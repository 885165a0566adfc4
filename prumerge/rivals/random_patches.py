"""Patches drawn at random: what every method has to beat, and some in print do not."""

import torch

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import SPATIAL, Reduction
from prumerge.rivals.shared import PLAIN, counts_to_keep, send
from prumerge.settings import Settings


@register("random", settings=PLAIN)
def keep_random(encoded: Encoded, settings: Settings) -> Reduction:
    """Send patches drawn without replacement.

    The seed alone decides the draw: all pictures use the same one, so that a picture's tokens do
    not depend on the batch it comes in, and smaller budgets are subsets of larger ones. Report the
    mean over several seeds.

    Args:
        encoded: What the encoder says.
        settings: Budget and ``seed`` are read.

    Returns:
        Exactly the budget.

    Source:
        A customary baseline; published ones draw without a seed.
    """
    patches = encoded.scores.shape[1]
    generator = torch.Generator().manual_seed(settings.seed)  # on the CPU: the same everywhere
    turn = torch.randperm(patches, generator=generator).to(encoded.scores.device)
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, turn < counts[:, None], SPATIAL)
