"""A stock vision encoder, run only as far as needed, and what it says about pictures.

    Encoded         all that a reduction method may look at
    needed_layers   which hidden states the features, scores and keys are read from
    hidden_states   run the blocks before them, and no other
    shrunk_features the features of smaller pictures
    run_again       let a method run the encoder its own way
    device_of, gathered   weights that accelerate offloads or FSDP2 shards

Hidden state number i is the input of block i, counted from 0; the last one is the output of the
last block. transformers numbers ``hidden_states`` the same way.

Shapes
    images   pictures in the batch
    patches  visual tokens of one picture, class token excluded
    width    of the encoder
    depth    of all its heads' keys side by side
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prumerge.settings import Settings
from prumerge.spatial import check_grid
from prumerge.tower import Tower, open_tower


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a vision encoder says about pictures, before any token is dropped.

    The first four fields are enough for most methods, and must be about the same patches (else
    ValueError). The last three are maps, not values, so that nothing is computed for methods that
    do not ask.

    Args:
        features: Visual tokens of the selected layer, class token dropped, before the projector.
        keys: Keys of the patches, heads side by side, from the block named by ``key_layer``; in
            float32 where :func:`prumerge.encode` makes them.
        scores: Attention each patch receives, in float32.
        grid: Rows and columns of patches.
        class_feature: The class token of the selected layer; None where the encoder has none.
        heads: Attention heads that stand side by side in ``keys``.
        relevance: Cosine of each patch with the question, in CLIP's common space; None unless a
            :class:`prumerge.mini.relevance.TextReader` was asked: no encoder knows the question.
        project: The map from features to the language model's width; None outside a model.
        at_grid: Encodes the pictures again, shrunk to the rows and columns of patches it is given,
            and returns their features; see :func:`prumerge.encoder.shrunk_features`. None where
            the pictures themselves are not at hand.
        rerun: ``rerun(function, pictures)`` calls ``function(tower, pixel_values, layer)`` with
            the module that holds the encoder's blocks, the pixels of the pictures it is given by
            number, and the hidden state of the features, from 0; for methods that change what
            happens inside the encoder. What comes back, a tensor or several with a row for each
            picture, is on the device of the features. None where there are no pictures at hand.
    """

    features: Float[Tensor, "images patches width"]
    keys: Float[Tensor, "images patches depth"]
    scores: Float[Tensor, "images patches"]
    grid: tuple[int, int]
    class_feature: Float[Tensor, "images width"] | None = None
    heads: int = 1
    relevance: Float[Tensor, "images patches"] | None = None
    project: Callable[[Tensor], Tensor] | None = dataclasses.field(default=None, repr=False)
    at_grid: Callable[..., Tensor] | None = dataclasses.field(default=None, repr=False)
    rerun: Callable[..., Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_shapes(self.features, self.keys, self.scores)
        check_grid(self.grid, self.scores.shape[1])

    @property
    def head_mean_keys(self) -> Float[Tensor, "images patches depth"]:
        """Keys averaged over the heads, in float32."""
        return self.keys.float().unflatten(-1, (self.heads, -1)).mean(dim=-2)

    def at(self, pictures: slice | Int64[Tensor, " chosen"]) -> "Encoded":
        """Choose pictures; one that is named several times is there as often.

        Example:
            >>> pair = Encoded(torch.eye(4).expand(2, 4, 4), torch.eye(4).expand(2, 4, 4),
            ...                torch.tensor([[1.0] * 4, [2.0] * 4]), (2, 2))
            >>> pair.at(torch.tensor([1, 1])).scores.sum(dim=1).tolist()
            [8.0, 8.0]
        """
        again, rerun = self.at_grid, self.rerun
        places = torch.arange(len(self.scores), device=self.scores.device)[pictures]
        return dataclasses.replace(
            self,
            **{name: rows[places.to(rows.device)] for name, rows in self._rows().items()},
            at_grid=again and (lambda grid, some: again(grid, places[some.to(places.device)])),
            rerun=rerun and (lambda call, some: rerun(call, places[some.to(places.device)])),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Encoded":
        """Move all to a device, and what features there are or will be to a floating-point type.

        The encoder and the projector stay where they are; their results are moved.
        """
        project, again, rerun = self.project, self.at_grid, self.rerun
        home, target = (self.features.device, self.features.dtype), (device, dtype)
        moved = {name: rows.to(device) for name, rows in self._rows().items()}
        moved |= {name: moved[name].to(dtype) for name in moved if "feature" in name}
        return dataclasses.replace(
            self,
            **moved,
            project=project and (lambda features: project(features.to(*home)).to(*target)),
            at_grid=again and (lambda *smaller: again(*smaller).to(*target)),
            rerun=rerun and (lambda *asked: _each(lambda part: part.to(device), rerun(*asked))),
        )

    @staticmethod
    def joined(parts: Sequence["Encoded"]) -> "Encoded":
        """Put pictures that were encoded alike, a part at a time, behind each other again."""
        rows = [part._rows() for part in parts]
        maps = {
            name: getattr(parts[0], name) and functools.partial(_again, parts, name)
            for name in ("at_grid", "rerun")
        }
        together = {name: torch.cat([some[name] for some in rows]) for name in rows[0]}
        return dataclasses.replace(parts[0], **together, **maps)

    def _rows(self) -> dict[str, Tensor]:
        names = ("features", "keys", "scores", "class_feature", "relevance")
        named = {name: getattr(self, name) for name in names}
        return {name: rows for name, rows in named.items() if rows is not None}


def _again(parts: Sequence[Encoded], name: str, how: Any, pictures: Tensor) -> Any:
    """Encode pictures of several parts another way; neighbours of one part together."""
    places = [(number, row) for number, part in enumerate(parts) for row in range(len(part.scores))]
    chosen = itertools.groupby([places[i] for i in pictures.tolist()], key=lambda place: place[0])
    rows = [(number, torch.tensor([row for _, row in some])) for number, some in chosen]
    found = [getattr(parts[number], name)(how, some) for number, some in rows]
    if isinstance(found[0], tuple):
        return tuple(map(torch.cat, zip(*found, strict=True)))
    return torch.cat(found)


def _each(change: Callable[[Tensor], Tensor], found: Any) -> Any:
    return tuple(map(change, found)) if isinstance(found, tuple) else change(found)


def check_shapes(features: Tensor, keys: Tensor, scores: Tensor) -> None:
    """Raise ValueError unless all three are floating-point numbers about the same patches.

    There must be a patch. In whole numbers merged tokens would be cut.
    """
    for name, tensor in (("features", features), ("keys", keys), ("scores", scores)):
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} must be a tensor, got {type(tensor).__name__}: pass "
                f"torch.as_tensor({name})"
            )
        if not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point numbers, got {tensor.dtype}: pass {name}.float()"
            )
    for name, tensor in (("features", features), ("keys", keys)):
        if scores.ndim != 2 or tensor.ndim != 3 or tensor.shape[:2] != scores.shape:
            raise ValueError(
                f"{name} have shape {tuple(tensor.shape)} and scores {tuple(scores.shape)}: they "
                "must be (images, patches, width) and (images, patches), class token excluded"
            )
    if scores.shape[1] == 0:
        raise ValueError("scores have no patches: a picture needs at least one")


def needed_layers(settings: Settings, feature_layer: int, blocks: int) -> tuple[int, int, int]:
    """Number the hidden state of the features and the blocks of scores and keys from 0 (D1).

    ``feature_layer`` is -1 for the output of the last block. Where ``score_layer`` or ``key_layer``
    is None, the block that reads the features is taken.

    Raises:
        ValueError: If a layer does not exist, or nothing reads the features and no block is named.

    Example:
        >>> needed_layers(Settings(), feature_layer=-2, blocks=24)
        (23, 23, 23)
    """
    if not isinstance(feature_layer, int):
        raise ValueError(
            f"feature_layer must be one int, got {feature_layer!r}: lists of layers "
            "have no single block that reads them"
        )
    if not -blocks - 1 <= feature_layer <= blocks:
        raise ValueError(f"feature_layer must be in [{-blocks - 1}, {blocks}], got {feature_layer}")
    features = feature_layer % (blocks + 1)
    found = []
    for name in ("score_layer", "key_layer"):
        layer = getattr(settings, name)
        if layer is None and features == blocks:
            raise ValueError(
                f"no block reads feature layer {feature_layer}: set {name}, -1 for the last block"
            )
        layer = features if layer is None else layer
        if not -blocks <= layer < blocks:
            raise ValueError(f"{name} must be in [{-blocks}, {blocks - 1}], got {layer}")
        found.append(layer % blocks)
    return features, found[0], found[1]


def check_pictures(vision_tower: nn.Module | Tower, pixel_values: Tensor) -> None:
    """Raise ValueError unless these are a batch of pictures of a size that the encoder takes.

    That is its own size, or, where its positions fit themselves to the picture (DINOv2, DINOv3,
    InternViT, SigLIP2), any whole number of patches.
    """
    tower = open_tower(vision_tower)
    if not isinstance(pixel_values, Tensor):
        raise ValueError(
            f"pixel_values must be a tensor, got {type(pixel_values).__name__}: pass "
            'processor(..., return_tensors="pt")["pixel_values"]'
        )
    channels = getattr(tower.module.config, "num_channels", 3)
    given, sizes = list(pixel_values.shape), tower.image_px
    right = len(given) == 4 and given[1] == channels
    if tower.fits_its_positions:
        sides, sizes = given[-2:], tuple(f"n * {side}" for side in tower.patch_px)
        right = right and all(
            own and not own % side for own, side in zip(sides, tower.patch_px, strict=True)
        )
    else:
        right = right and tuple(given[2:]) == sizes
    if not right:
        raise ValueError(
            f"pixel_values must be [pictures, {channels}, {sizes[0]}, {sizes[1]}] for this "
            f"encoder, got {given}: use the processor saved with the model"
        )


def hidden_states(
    vision_tower: nn.Module | Tower, pixel_values: Tensor, wanted: set[int], **options: bool
) -> dict[int, Tensor]:
    """Run the encoder up to the last hidden state wanted; return those wanted by number.

    Class token and registers are included. Pictures are moved to the encoder's type and device.
    They must have a size that it takes (else ValueError) unless there are ``options`` for the
    embeddings, such as ``interpolate_pos_encoding=True``.
    """
    tower = open_tower(vision_tower)
    if not options:
        check_pictures(tower, pixel_values)
    first, grid = tower.patch_layer, tower.grid(pixel_values)
    hidden = tower.embed(pixel_values.to(device_of(first), first.weight.dtype), **options)
    states = {}
    for index in range(max(wanted) + 1):
        if index:
            hidden = tower.run(tower.blocks[index - 1], hidden, grid)
        if index in wanted:
            states[index] = hidden
    return states


def shrunk_features(
    vision_tower: nn.Module | Tower,
    pixel_values: Tensor,
    layer: int,
    grid: tuple[int, int],
    pictures: Tensor,
) -> Tensor:
    """Encode pictures again after shrinking them, so that they have fewer patches.

    The pictures of the given numbers are shrunk to the rows and columns of patches in ``grid``;
    their features in hidden state ``layer``, from 0, come back without class token. They are
    resized with an antialiased bilinear filter, and the position embeddings are interpolated as
    ``transformers`` does for pictures of another size.
    """
    tower = open_tower(vision_tower)
    positions = getattr(tower.embeddings, "position_embedding", None)
    if positions is not None and positions.weight.is_meta:
        # transformers interpolates the weight itself, past the hooks that would bring it.
        raise ValueError(
            "smaller pictures need the encoder's position embeddings in memory, and they are "
            "offloaded: keep model.vision_tower on a device, or choose another method"
        )
    size = [side * patch for side, patch in zip(grid, tower.patch_px, strict=True)]
    chosen = pixel_values[pictures.to(pixel_values.device)].float()
    small = interpolate(chosen, size=size, mode="bilinear", antialias=True)
    options = {} if tower.fits_its_positions else {"interpolate_pos_encoding": True}
    return hidden_states(tower, small, {layer}, **options)[layer][:, tower.first :]


def run_again(
    tower: nn.Module,
    pixel_values: Tensor,
    layer: int,
    function: Callable[[nn.Module, Tensor, int], Any],
    pictures: Tensor,
) -> Any:
    """Call ``function(tower, pixel_values, layer)`` on the pictures of the given numbers."""
    return function(tower, pixel_values[pictures.to(pixel_values.device)], layer)


def device_of(layer: nn.Module) -> torch.device:
    """Find where a layer computes, which for an offloaded one is not where its weights wait.

    That is the execution device of the hooks that ``accelerate`` put on it, else the weight's.
    """
    hook = getattr(layer, "_hf_hook", None)
    for own in getattr(hook, "hooks", [hook]):
        if getattr(own, "execution_device", None) is not None:
            return torch.device(own.execution_device)
    return layer.weight.device


def is_sharded(layer: nn.Module) -> bool:
    """Whether FSDP2 holds only a part of a layer's weight at the moment."""
    return hasattr(layer.weight, "full_tensor")


@contextlib.contextmanager
def gathered(owner: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Bring sharded weights together for layers used outside of their owner's forward pass.

    ``owner`` is what FSDP2 shards and gathers as one, if anything is sharded. ValueError if the
    weights are trained: FSDP2 would lose their gradients.
    """
    if not (hasattr(owner, "unshard") and is_sharded(layer)):
        yield
        return
    if torch.is_grad_enabled() and layer.weight.requires_grad:
        raise ValueError(
            "FSDP2 shards and trains a layer that is read outside of its block's forward pass, and "
            "would lose its gradients: freeze model.vision_tower, or do not shard its layers"
        )
    owner.unshard()
    try:
        yield
    finally:
        owner.reshard()
