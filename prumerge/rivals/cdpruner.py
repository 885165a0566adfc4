"""CDPruner: patches that differ from each other, weighed by what they have to do with the question.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture

Source: CDPruner, "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token
Pruning in MLLMs" (NeurIPS 2025).
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import register
from prumerge.reduction import Reduction
from prumerge.rivals.dpp import largest_volume
from prumerge.rivals.shared import PLAIN, behind_projector, cosines, send_picked
from prumerge.settings import Settings


def conditional_kernel(
    similarity: Float[Tensor, "images patches patches"],
    relevance: Float[Tensor, "images patches"],
) -> Float[Tensor, "images patches patches"]:
    """Weigh similarities by how far each patch's relevance lies *below* the highest.

    Returns:
        ``w_i S_ij w_j`` with ``w`` from just above 0 at the most relevant patch to 1 at the least;
        plain similarities where all are equally relevant.

    Source:
        Released code: relevance is negated before it is scaled, on purpose, since patches of CLIP
        (all but the class token) point away from the text they show. Where all are equal it
        divides by zero.

    Example:
        >>> import torch
        >>> kernel = conditional_kernel(torch.eye(3)[None], torch.tensor([[0.0, 0.1, 0.2]]))
        >>> kernel.diagonal(dim1=1, dim2=2).round(decimals=3).tolist()
        [[1.0, 0.25, 0.0]]
    """
    away = -relevance
    low, high = away.amin(dim=1, keepdim=True), away.amax(dim=1, keepdim=True)
    weight = (away - low + 1e-6) / (high - low)
    weight = weight.masked_fill(high == low, 1)
    return weight[:, :, None] * similarity * weight[:, None]


@register("cdpruner", settings=PLAIN, reads_question=True)
def keep_for_question(encoded: Encoded, settings: Settings) -> Reduction:
    """Send the patches of the largest determinant, weighed by what they say of the question.

    It is ``dpp`` with a kernel that knows the question. Similarities are taken behind the projector
    where there is one.

    Raises:
        ValueError: If ``encoded`` does not know the question.

    Source:
        Released code. A picture asked about twice is encoded once and reduced twice.
    """
    if encoded.relevance is None:
        raise ValueError(
            "cdpruner needs to know the question, and this Encoded holds no relevance: add it with "
            "prumerge.relevance.read_text(...).ask(encoded, questions) and pass the result on"
        )
    kernel = conditional_kernel(cosines(behind_projector(encoded)), encoded.relevance.float())
    return send_picked(encoded, settings, partial(largest_volume, kernel))
