"""How much a patch hands on: attention it receives times the length of its value.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture
    width    of the encoder
"""

from jaxtyping import Float
from torch import Tensor


def weigh_by_values(
    scores: Float[Tensor, "images patches"], values: Float[Tensor, "images patches width"]
) -> Float[Tensor, "images patches"]:
    """Weigh the attention a patch receives by how much it hands on: the length of its value.

    Args:
        scores: Attention each patch receives.
        values: Values of the patches, heads side by side.

    Returns:
        Products in float32, each row divided by its sum.

    Source:
        Not in the paper; the score of ATS, :mod:`prumerge.rivals.ats`.

    Example:
        >>> import torch
        >>> values = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [10.0, 0.0]]])
        >>> weigh_by_values(torch.tensor([[0.4, 0.2, 0.2]]), values).tolist()
        [[0.4, 0.2, 0.4]]
    """
    products = scores.float() * values.float().norm(dim=-1)
    return products / products.sum(dim=1, keepdim=True)
