"""EViT: the best-scored patches, and one token that holds the others.

Source: EViT, "Not All Patches are What You Need" (ICLR 2022).
"""

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import Reduction
from prumerge.rivals.baselines import keep_top
from prumerge.rivals.shared import HEAD_MEAN
from prumerge.settings import Settings


@register("evit", settings=HEAD_MEAN.with_changes(extra_token=True))
def fuse_inattentive(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches the class token attends to most, and the weighted sum of all others.

    The fused token is ``sum a_j x_j`` over the dropped patches j, divided by the sum of the weights
    only with ``normalise_weights``; it stands last and counts in the budget. That is PruMerge
    without its clusters. There is none without ``extra_token``, where nothing is dropped, nor with
    a budget of one.

    Source: the authors reduce three times inside the encoder (after blocks 4, 7 and 10 of 12,
    keeping 0.7 of the tokens each time by default) and train with it; here it happens once, behind
    the encoder, with the budget in place of the rate. Their code does not normalise the weights
    either, so the fused token is as long as the dropped attention mass makes it.
    """
    return keep_top(encoded, settings)
