"""What a vision encoder says about pictures: all that a reduction method may look at.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    width    of the encoder
"""

import dataclasses
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from prumerge.spatial import check_grid


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a vision encoder says about pictures, before any token is dropped.

    The first four fields are enough for most methods. The last two are maps, not values, so that
    nothing is computed for methods that do not ask.

    Args:
        features: Visual tokens of the selected layer, class token dropped, before the projector.
        keys: Keys of the patches, heads side by side, from the block named by ``key_layer``.
        scores: Attention each patch receives, in float32.
        grid: Rows and columns of patches.
        class_feature: The class token of the selected layer; None where the encoder has none.
        heads: Attention heads that stand side by side in ``keys``.
        project: The map from features to the language model's width; None outside a model.
        at_grid: Encodes the pictures again, shrunk to the rows and columns of patches it is given,
            and returns their features; see :func:`prumerge.encoder.shrunk_features`. None where
            the pictures themselves are not at hand.

    Raises:
        ValueError: If features, keys, scores and grid are not about the same patches.
    """

    features: Float[Tensor, "images patches width"]
    keys: Float[Tensor, "images patches width"]
    scores: Float[Tensor, "images patches"]
    grid: tuple[int, int]
    class_feature: Float[Tensor, "images width"] | None = None
    heads: int = 1
    project: Callable[[Tensor], Tensor] | None = dataclasses.field(default=None, repr=False)
    at_grid: Callable[..., Tensor] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_shapes(self.features, self.keys, self.scores)
        check_grid(self.grid, self.scores.shape[1])

    @property
    def head_mean_keys(self) -> Float[Tensor, "images patches depth"]:
        """Keys averaged over the heads, in float32."""
        return self.keys.float().unflatten(-1, (self.heads, -1)).mean(dim=-2)


def check_shapes(features: Tensor, keys: Tensor, scores: Tensor) -> None:
    """Refuse features, keys and scores that are not about the same patches.

    Args:
        features: Visual tokens.
        keys: Keys of the patches.
        scores: Attention each patch receives.

    Raises:
        ValueError: Naming both shapes, or that there is no patch at all.
    """
    for name, tensor in (("features", features), ("keys", keys)):
        if scores.ndim != 2 or tensor.ndim != 3 or tensor.shape[:2] != scores.shape:
            raise ValueError(
                f"{name} have shape {tuple(tensor.shape)} and scores {tuple(scores.shape)}: they "
                "must be (images, patches, width) and (images, patches), class token excluded"
            )
    if scores.shape[1] == 0:
        raise ValueError("scores have no patches: a picture needs at least one")
