"""A picture or clip -> what the encoder says -> what a method keeps, merges and costs.

Shapes
    patches  visual tokens of the unreduced picture, tile by tile or frame by frame
    kept     tokens the picture sends, extra token included
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Int8
from PIL import Image
from torch import Tensor

from prumerge.draw.tiles import stitch
from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.clips import MOST_THINGS, draw_clip
from prumerge.mini.pictures import Picture
from prumerge.mini.scenes import HELD_OUT_SEED, draw_scene
from prumerge.mini.styles import PLAIN, Style
from prumerge.models.canvases import reduce_packed
from prumerge.models.slots import Packed
from prumerge.reduction import Reduction
from prumerge.roofline import ModelShape, estimate_costs


@dataclasses.dataclass(frozen=True)
class View:
    """Neighbouring patches, painted as one picture; ``patches`` are theirs, in raster order.

    ``name`` is empty for a picture that is whole.
    """

    name: str
    grid: tuple[int, int]
    patches: Int[np.ndarray, " shown"]


@dataclasses.dataclass(frozen=True)
class Film(Picture):
    """A clip: its first frame is the picture."""

    frames: tuple[Image.Image, ...] = ()


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

    @property
    def views(self) -> tuple[View, ...]:
        """What is painted: the picture, its base and its crops, or the frames of a clip."""
        return (View("", self.encoded.grid, np.arange(self.reason.size)),)

    def place(self, token: int) -> int:
        """Return the patch at which a token stands; tokens count from 0 in the order sent."""
        return int(self.reduction.positions[0][token])

    def where(self, token: int) -> tuple[View, int, int]:
        """Return the view in which a token stands, and row and column there, from 0."""
        place = self.place(token)
        (view,) = (view for view in self.views if place in view.patches)
        return view, *divmod(int(np.flatnonzero(view.patches == place)[0]), view.grid[1])

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


@dataclasses.dataclass(frozen=True)
class TiledLook(Look):
    """The same of one picture in tiles, or of one clip; newlines and class tokens are left out.

    ``part`` is what those are called that are not stitched.
    """

    packed: Packed = dataclasses.field(kw_only=True)
    part: str = dataclasses.field(kw_only=True)

    @functools.cached_property
    def slots(self) -> Int[np.ndarray, " patches"]:
        """Where each patch stands among the placeholders."""
        return np.concatenate([own.slots.numpy() for own in self.packed.visuals[0].canvases])

    @property
    def reason(self) -> Int8[np.ndarray, " patches"]:
        return self.reduction.selection.reason[0].cpu().numpy()[self.slots]

    @property
    def scores(self) -> Float[np.ndarray, " patches"]:
        scores = [part.scores for part in self.packed.parts]
        return _gathered(scores, _shown(self.packed)).float().cpu().numpy()

    @property
    def views(self) -> tuple[View, ...]:
        visual, sizes = self.packed.visuals[0], self.packed.visuals[0].sizes
        ends = np.cumsum(sizes)
        own = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        if any(canvas.box is not None for canvas in visual.canvases):
            maps = zip(("the whole picture", "the crops"), stitch(visual, own), strict=True)
            return tuple(View(name, found.shape, found.ravel()) for name, found in maps)
        pairs = zip(visual.canvases, own, strict=True)
        found = [(canvas.grid, patches) for canvas, patches in pairs]
        name = f"{self.part} {{}}" if len(found) > 1 else ""
        return tuple(View(name.format(n), *each) for n, each in enumerate(found, start=1))

    def place(self, token: int) -> int:
        return int(np.flatnonzero(self.slots == int(self.reduction.positions[0][token]))[0])


def _shown(packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """The part, the tile in it and the row in that, of each patch of the first picture or clip."""
    canvases, sizes = packed.visuals[0].canvases, [len(part.scores) for part in packed.parts]
    tiles = torch.cat([torch.full_like(canvas.rows, canvas.tile) for canvas in canvases])
    ends = torch.tensor(sizes).cumsum(0)
    parts = torch.bucketize(tiles, ends, right=True)
    tiles = tiles - (ends - torch.tensor(sizes))[parts]
    return parts, tiles, torch.cat([canvas.rows for canvas in canvases])


def _gathered(values: Sequence[Tensor], shown: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The value, of those of each part, of every patch shown."""
    parts, tiles, rows = shown
    found = values[0].new_empty(len(rows), *values[0].shape[2:])
    for number, own in enumerate(values):
        here = parts == number
        found[here] = own[tiles[here], rows[here]]
    return found


def draw_picture(seed: int, objects: int, grid: int = 24, style: Style = PLAIN) -> Picture:
    """Draw a scene that training never saw, of 1 or more objects; a sign may come on top.

    A style of several sizes has them in turn, seed by seed.
    """
    rng, grids = np.random.default_rng((HELD_OUT_SEED, seed, objects)), style.grids(grid)
    own = grids[seed % len(grids)]
    scene = draw_scene(rng, own, objects=objects, held_out=True, style=style)
    name = f"scene {seed} with {objects} object{'s' * (objects > 1)}"
    return Picture(name, Image.fromarray(scene.pixels), scene)


def draw_film(seed: int, objects: int, frames: int) -> Film:
    """Draw a clip that training never saw, of 1 or more things, at most those that fit one."""
    rng, most = np.random.default_rng((HELD_OUT_SEED, seed, objects)), min(objects, MOST_THINGS)
    clip = draw_clip(rng, frames, objects=most, held_out=True)
    shown = tuple(Image.fromarray(own) for own in clip.pixels)
    return Film(f"clip {seed} with {most} thing{'s' * (most > 1)}", shown[0], frames=shown)


def look(encoded: Encoded | Packed, method: Method, part: str = "frame") -> Look:
    """Reduce one encoded picture, or clip, so that each token can be asked where it comes from.

    ``part`` is what a piece of it is called, a frame or a tile.
    """
    if isinstance(encoded, Packed):
        return _look_at_tiles(encoded, method, part)
    features = encoded.features.detach().requires_grad_()
    with torch.enable_grad():
        reduction = method(dataclasses.replace(encoded, features=features))
    return Look(encoded, reduction, features)


def _look_at_tiles(packed: Packed, method: Method, part_name: str) -> TiledLook:
    shown = _shown(packed)
    features = _gathered([part.features.detach() for part in packed.parts], shown)[None]
    features.requires_grad_()
    with torch.enable_grad():
        parts = []
        for number, part in enumerate(packed.parts):
            here = shown[0] == number
            places = (shown[1][here], shown[2][here])
            whole = part.features.detach().index_put(places, features[0, here])
            parts.append(dataclasses.replace(part, features=whole))
        reduction = reduce_packed(dataclasses.replace(packed, parts=tuple(parts)), method)
    return TiledLook(packed.parts[0], reduction, features, packed=packed, part=part_name)


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
