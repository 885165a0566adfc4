"""The patches the class token attends to most: PruMerge without fence, merging and extra token."""

from prumerge.methods import register
from prumerge.reduction import OUTLIER, Reduction
from prumerge.rivals.shared import HEAD_MEAN, PLAIN, counts_to_keep, send
from prumerge.scores import Encoded
from prumerge.selection import rank_scores
from prumerge.settings import Settings


@register("fastervlm", settings=HEAD_MEAN)
@register("top_k", settings=PLAIN)
def keep_top(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the best-scored patches and merge nothing.

    ``top_k`` takes PruMerge's score, so that both differ in merging only; ``fastervlm`` the mean
    class attention of the heads in the block that made the features.

    Args:
        encoded: What the encoder says.
        settings: The budget is read; ``score`` and ``score_layer`` where pictures are encoded.

    Returns:
        Exactly the budget; among equal scores the first patches of the raster.

    Source:
        FasterVLM (released code): block 22 of CLIP ViT-L/14, mean over heads, raster order, no
        merging. VisionZip's sum over heads ranks alike.
    """
    counts = counts_to_keep(encoded, settings)
    return send(encoded, settings, rank_scores(encoded.scores) < counts[:, None], OUTLIER)
