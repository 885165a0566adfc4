"""VisionZip: dominant patches by score, and contextual tokens that gather the rest.

Source: VisionZip, "Longer is Better but Not Necessary in Vision Language Models" (CVPR 2025).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import OUTLIER, SPATIAL, Reduction, arrange, rank_scores
from prumerge.rivals.shared import HEAD_MEAN, counts_to_keep, cut, members
from prumerge.settings import Settings
from prumerge.supplement import take, weighted_sums

# Published: 162 + 30 of 192 tokens, 108 + 20 of 128, 54 + 10 of 64.
DOMINANT_SHARE = 27 / 32


def contextual_targets(
    rest: Bool[Tensor, "images patches"], wanted: Int64[Tensor, " images"]
) -> Bool[Tensor, "images patches"]:
    """Mark evenly spaced patches among those that are not dominant.

    Of R remaining patches in raster order every ``R // wanted``-th is marked, from the first on,
    until there are ``wanted``, as in the released code.

    Example:
        >>> rest = torch.tensor([[True, False, True, True, True, True]])
        >>> contextual_targets(rest, torch.tensor([2])).int().tolist()
        [[1, 0, 0, 1, 0, 0]]
    """
    number = rest.cumsum(dim=1) - 1
    step = (rest.sum(dim=1) // wanted.clamp(min=1)).clamp(min=1)[:, None]
    return rest & (number % step == 0) & (number // step < wanted[:, None])


def assign(
    keys: Float[Tensor, "images patches depth"],
    assigned: Bool[Tensor, "images patches"],
    targets: Bool[Tensor, "images patches"],
) -> Int64[Tensor, "images patches"]:
    """Find each patch's most alike target; -1 for those that look for none, or where none is."""
    directions = normalize(keys, dim=-1)
    similarity = directions @ directions.transpose(1, 2)
    nearest = similarity.masked_fill(~targets[:, None], -torch.inf).argmax(dim=-1)
    return nearest.masked_fill(~assigned | ~targets.any(dim=1, keepdim=True), -1)


@register(
    "visionzip", settings=HEAD_MEAN.with_changes(outlier_share=DOMINANT_SHARE, order="grouped")
)
def zip_tokens(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the class token, the best-scored patches, and evenly spaced ones that gather the rest.

    Every patch that is neither dominant nor a target goes to the target with the most alike key; a
    contextual token is its target plus the mean of what went to it. The class token comes first,
    then the dominant patches, then the contextual tokens (``order="grouped"``). ``outlier_share``
    is the share of dominant tokens, class token included. No class token is sent where the encoder
    has none, where nothing is dropped, and with a budget of one; a patch takes its place.
    ``neighbours`` and ``extra_token`` are not read.

    Source: released code: block 22 of CLIP ViT-L/14, attention summed over heads (the mean ranks
    alike), keys averaged over heads; the target itself is not part of the mean. Its defaults, 191
    dominant and 30 contextual tokens, are no published budget. LLaVA was never trained on the class
    token it is given here.
    """
    counts = counts_to_keep(encoded, settings)
    patches = encoded.scores.shape[1]
    with_class = (counts > 1) & (counts < patches)
    if encoded.class_feature is None:
        with_class = torch.zeros_like(with_class)
    wanted = counts - with_class.long()
    contextual = ((1 - settings.outlier_share) * counts).round().long()
    contextual = torch.minimum(contextual, wanted)
    dominant = rank_scores(encoded.scores) < (wanted - contextual)[:, None]
    targets = contextual_targets(~dominant, contextual)
    reason = torch.where(targets, SPATIAL, dominant * OUTLIER).to(torch.int8)
    selection = arrange(reason, encoded.scores, settings)
    owner = assign(encoded.head_mean_keys, ~dominant & ~targets, targets)
    order = selection.order.clamp(min=0)
    gathered = members(owner, order).float()
    gathered = gathered / gathered.sum(dim=-1, keepdim=True).clamp(min=1)
    features = encoded.features
    tokens = weighted_sums(features, gathered) + take(features, order)
    return _lead(encoded, cut(selection, tokens.to(features.dtype)), with_class)


def _lead(encoded: Encoded, reduction: Reduction, with_class: Tensor) -> Reduction:
    """Put the class token in front where it is wanted; it stands at the first patch."""
    tokens, positions = list(reduction.tokens), list(reduction.positions)
    for image, wanted in enumerate(with_class.tolist()):
        if wanted:
            tokens[image] = torch.cat([encoded.class_feature[image, None], tokens[image]])
            positions[image] = torch.nn.functional.pad(positions[image], (1, 0))
    return Reduction(tokens, positions, reduction.selection)
