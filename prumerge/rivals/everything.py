"""No reduction: what every method is measured against from above."""

import torch

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, Reduction
from prumerge.rivals.shared import PLAIN, send
from prumerge.settings import Settings


@register("all", settings=PLAIN, sends="all")
def keep_all(encoded: Encoded, settings: Settings) -> Reduction:
    """Send every patch unchanged; the budget is ignored."""
    kept = torch.ones_like(encoded.scores, dtype=torch.bool)
    return send(encoded, settings.with_changes(budget=None), kept, OUTLIER)
