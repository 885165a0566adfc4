"""The patches the class token attends to most: PruMerge without fence, merging and extra token."""

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, Reduction, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, PLAIN, counts_to_keep, send
from prumerge.settings import Settings


@register("top_k", settings=PLAIN)
def keep_top(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches of PruMerge's best scores and merge nothing.

    It differs from PruMerge in merging only.

    Args:
        encoded: What the encoder says.
        settings: The budget is read; ``score`` and ``score_layer`` where pictures are encoded.

    Returns:
        Exactly the budget; among equal scores the first patches of the raster.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, rank_scores(encoded.scores) < counts[:, None], OUTLIER)


@register("fastervlm", settings=HEAD_MEAN)
def keep_top_of_heads(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches with the highest mean class attention over the heads and merge nothing.

    It is ``top_k`` with another score, read in the block that made the features.

    Args:
        encoded: What the encoder says.
        settings: As for :func:`keep_top`.

    Returns:
        Exactly the budget; among equal scores the first patches of the raster.

    Source:
        FasterVLM (released code): block 22 of CLIP ViT-L/14, mean over heads, raster order, no
        merging. VisionZip's sum over heads ranks alike.
    """
    return keep_top(encoded, settings)
