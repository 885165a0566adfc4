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

    The fused token is ``sum a_j x_j`` over the dropped patches j; it stands last. That is PruMerge
    without its clusters.

    Args:
        encoded: What the encoder says.
        settings: The budget is read, ``normalise_weights`` says whether the fused token is
            divided by the sum of its weights, and ``extra_token`` whether there is one.

    Returns:
        Exactly the budget, fused token included. There is none where nothing is dropped, nor with
        a budget of one.

    Source:
        The authors reduce three times inside the encoder (after blocks 4, 7 and 10 of 12, keeping
        0.7 of the tokens each time by default) and train with it; here it happens once, behind
        the encoder, with the budget in place of the rate. Their code does not normalise the
        weights either, so the fused token is as long as the dropped attention mass makes it.
    """
    return keep_top(encoded, settings)
