"""A picture -> what the encoder says -> what a method keeps, merges and costs.

Shapes
    patches  visual tokens of the unreduced picture
    kept     tokens the picture sends, extra token included
"""

import dataclasses

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int8
from PIL import Image
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.pictures import Picture
from prumerge.mini.scenes import HELD_OUT_SEED, draw_scene
from prumerge.mini.styles import PLAIN, Style
from prumerge.reduction import Reduction
from prumerge.roofline import ModelShape, estimate_costs


@dataclasses.dataclass(frozen=True)
class Look:
    """What a method does with one picture; ``reduction`` is still connected to ``features``."""

    encoded: Encoded
    reduction: Reduction
    features: Float[Tensor, "1 patches width"] = dataclasses.field(repr=False)

    @property
    def kept(self) -> int:
        """Tokens the picture sends, extra token included."""
        return self.reduction.kept[0]

    @property
    def reason(self) -> Int8[np.ndarray, " patches"]:
        """Why each patch stays, 0 where it does not; see :class:`prumerge.Selection`."""
        return self.reduction.selection.reason[0].cpu().numpy()

    @property
    def scores(self) -> Float[np.ndarray, " patches"]:
        """Attention each patch receives."""
        return self.encoded.scores[0].float().cpu().numpy()

    def place(self, token: int) -> int:
        """Return the patch at which a token stands; tokens count from 0 in the order sent."""
        return int(self.reduction.positions[0][token])

    def origin(self, token: int) -> Float[np.ndarray, " patches"]:
        """Return how much of each patch's feature a token holds; tokens count from 0.

        A token is a weighted sum of features, so its weights are its derivatives, for a method of
        one's own, too. All are 0 for a token made of something else, such as the class token or a
        smaller picture.
        """
        if not 0 <= token < self.kept:
            raise ValueError(f"token must be 0 to {self.kept - 1} here, got {token}")
        nothing = np.zeros(self.features.shape[1], np.float32)
        sent = self.reduction.tokens[0][token]
        if not sent.requires_grad:
            return nothing
        found = torch.autograd.grad(
            sent.float().sum(), self.features, retain_graph=True, allow_unused=True
        )[0]
        return nothing if found is None else found[0].float().mean(dim=-1).cpu().numpy()


def draw_picture(seed: int, objects: int, grid: int = 24, style: Style = PLAIN) -> Picture:
    """Draw a scene that training never saw, of 1 or more objects; a sign may come on top."""
    rng = np.random.default_rng((HELD_OUT_SEED, seed, objects))
    scene = draw_scene(rng, grid, objects=objects, held_out=True, style=style)
    name = f"scene {seed} with {objects} object{'s' * (objects > 1)}"
    return Picture(name, Image.fromarray(scene.pixels), scene)


def look(encoded: Encoded, method: Method) -> Look:
    """Reduce one encoded picture so that each token can be asked where it comes from."""
    features = encoded.features.detach().requires_grad_()
    with torch.enable_grad():
        reduction = method(dataclasses.replace(encoded, features=features))
    return Look(encoded, reduction, features)


def prefill(
    shape: ModelShape | str, patches: int, kept: int, text_tokens: int, card: str = "H100"
) -> pd.DataFrame:
    """Estimate what the prompt costs the language model with all tokens and with those kept.

    Two rows, ``all tokens`` and ``kept``: ``tokens`` of the prompt, ``tera_operations``,
    ``prefill_ms`` and ``cache_mib`` in FP16, see :func:`prumerge.roofline.estimate_costs`.
    """
    prompts = [text_tokens + patches, text_tokens + kept]
    costs = [estimate_costs(shape, tokens, card) for tokens in prompts]
    rows = pd.concat(costs).query("stage == 'prefill'")
    table = pd.DataFrame({"tokens": prompts}, index=["all tokens", "kept"])
    table["tera_operations"] = rows["operations"].to_numpy() / 1e12
    table["prefill_ms"] = rows["time_ms"].to_numpy()
    table["cache_mib"] = rows["cache_write_bytes"].to_numpy() / 2**20
    return table
