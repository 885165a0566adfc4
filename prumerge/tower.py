"""A stock vision tower of any build, opened: its embeddings, its blocks, and how they attend.

    open_tower   find them by what the tower has, not by its class
    Tower        the first hidden state, the blocks, which tokens are patches
    Attention    queries, keys and values of one block

CLIP, SigLIP, SigLIP2 (both kinds), DINOv2 with and without registers, DINOv3, ViT, DeiT and
InternViT of transformers fit, and what is built like one of them. Blocks are run as they are, with
layer scale and whatever else they hold; queries and keys are those the tower's attention sees,
after its own norms and rotated where it rotates them. What a build has that is not known here is
refused by name, since attention that was read without it would be another.

Shapes
    images  pictures in the batch
    tokens  all in the encoder: class token, registers, patches
    width   of the encoder; queries, keys and values have their heads side by side
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

HOLDERS, LISTS = ("encoder", "model"), ("layers", "layer")
NORMS = ("layer_norm1", "norm1", "layernorm_before")
MAPS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
NORMS_AFTER = ("layer_norm2", "norm2", "layernorm_after")
SCALES = (("layer_scale1", "lambda_1"), ("layer_scale2", "lambda_2"))
OUTPUTS = ("out_proj", "o_proj", "projection_layer")
PATCH_LAYERS = ("patch_embedding", "patch_embeddings")
IN_ATTENTION = {*MAPS[0], *MAPS[1], *OUTPUTS, "q_norm", "k_norm"}
IN_ATTENTION |= {"attention", "output", "dropout", "projection_dropout"}
IN_BLOCK = {"self_attn", "attention", *NORMS, *NORMS_AFTER, *SCALES[0], *SCALES[1]}
IN_BLOCK |= {"mlp", "intermediate", "output", "dropout", "drop_path"}
IN_TOWER = {"embeddings", "encoder", "layers", "layer", "model", "rope_embeddings", "pre_layrnorm"}
IN_TOWER |= {"layernorm", "norm", "post_layernorm", "head", "pooler"}  # the last: behind the blocks


class _Unknown(ValueError):
    """Why a module is no tower that is known here."""


@dataclasses.dataclass(frozen=True)
class Attention:
    """The maps of one block's attention, heads side by side; norms behind them where it has any."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module | None  # None in a layout whose output is not read here
    query_norm: nn.Module | None = None
    key_norm: nn.Module | None = None

    def queries(self, normed: Tensor) -> Tensor:
        """Project what a block's first norm gives."""
        queries = self.query(normed)
        return queries if self.query_norm is None else self.query_norm(queries)

    def keys(self, normed: Tensor) -> Tensor:
        """Project what a block's first norm gives."""
        keys = self.key(normed)
        return keys if self.key_norm is None else self.key_norm(keys)


class Parts(NamedTuple):
    """A block taken apart: adds ``scale(attention(norm(hidden)))``, then the same of the MLP."""

    norm: nn.Module
    scale: Callable[[Tensor], Tensor]
    norm_after: nn.Module
    mlp: nn.Module
    scale_after: Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Tower:
    """A vision tower's parts."""

    module: nn.Module  # holds embeddings and blocks
    blocks: nn.ModuleList | nn.Sequential
    has_class: bool  # the first token is a class token
    first: int  # tokens in front of the patches: class, distillation and register tokens

    @property
    def embeddings(self) -> nn.Module:
        return self.module.embeddings

    @property
    def patch_layer(self) -> nn.Module:
        """What turns pixels into the first vectors."""
        return _patch_layer(self.embeddings)

    @property
    def heads(self) -> int:
        return self.module.config.num_attention_heads

    @property
    def patch_px(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return _pair(self.module.config.patch_size)

    @property
    def image_px(self) -> tuple[int, int]:
        """Height and width of the pictures that the tower's positions were made for."""
        config = self.module.config
        if hasattr(config, "image_size"):
            return _pair(config.image_size)
        side = math.isqrt(config.num_patches)  # of SigLIP2, which takes any size
        return side * self.patch_px[0], side * self.patch_px[1]

    @property
    def fits_its_positions(self) -> bool:
        """Whether pictures of another size are taken as they are: any whole number of patches."""
        return "interpolate_pos_encoding" not in _parameters(type(self.embeddings))

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (rows, columns) = self.patch_px, pixel_values.shape[-2:]
        return rows // height, columns // width

    def embed(self, pixel_values: Tensor, **options: bool) -> Float[Tensor, "images tokens width"]:
        """Return hidden state 0, for pictures on the tower's device and in its type."""
        if "spatial_shapes" in _parameters(type(self.embeddings)):
            shape = torch.tensor(self.grid(pixel_values), device=pixel_values.device)
            return self.embeddings(
                _cut(pixel_values, self.patch_px), shape.expand(len(pixel_values), 2)
            )
        hidden = self.embeddings(pixel_values, **options)
        if hasattr(self.module, "pre_layrnorm"):  # CLIP's norm before the first block, spelled so
            hidden = self.module.pre_layrnorm(hidden)
        return hidden

    def run(self, block: nn.Module, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
        """Run one block, as it is."""
        taken, more = _parameters(type(block)), {}
        if "attention_mask" in taken:
            more["attention_mask"] = None
        if self.turns:
            more["position_embeddings"] = self._angles(grid, hidden)
        hidden = block(hidden, **more)
        return hidden[0] if isinstance(hidden, tuple) else hidden

    @property
    def turns(self) -> bool:
        """Whether queries and keys of patches are rotated by where they stand (RoPE)."""
        return hasattr(self.module, "rope_embeddings")

    def norm(self, block: nn.Module) -> nn.Module:
        """The norm in front of a block's attention."""
        return _only(block, NORMS)

    def attention(self, block: nn.Module) -> Attention:
        """The maps of a block's attention."""
        return _read_attention(_attention_of(block))

    def parts(self, block: nn.Module) -> Parts:
        """Take a block apart, for methods that change the tokens inside.

        ValueError if the block holds more than the parts, if it rotates what it compares, or if
        tokens other than the class token stand beside the patches.
        """
        whole = hasattr(block, "mlp") and self.attention(block).output is not None
        if self.turns or self.first > 1 or not whole:
            why = "rotate queries and keys" if self.turns else "see registers or hold other parts"
            raise ValueError(
                f"no method works inside the blocks of {type(self.module).__name__}, which {why}: "
                "choose one behind the encoder, such as tome"
            )
        scale, scale_after = (_scale(_only(block, names)) for names in SCALES)
        return Parts(self.norm(block), scale, _only(block, NORMS_AFTER), block.mlp, scale_after)

    def turned(
        self, vectors: Float[Tensor, "images places width"], grid: tuple[int, int]
    ) -> Float[Tensor, "images places width"]:
        """Rotate queries or keys as the tower does: those of patches, which stand last."""
        if not self.turns:
            return vectors
        cos, sin = self._angles(grid, vectors)
        front = vectors.shape[1] - len(cos)
        patches = vectors[:, front:].unflatten(-1, (self.heads, -1))
        left, right = patches.chunk(2, dim=-1)
        other = torch.cat([-right, left], dim=-1)
        patches = patches * cos[:, None] + other * sin[:, None]
        return torch.cat([vectors[:, :front], patches.flatten(-2)], dim=1)

    def _angles(self, grid: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [patches, depth]; the tower reads no more of a picture than size."""
        size = [side * patch for side, patch in zip(grid, self.patch_px, strict=True)]
        return self.module.rope_embeddings(like.new_zeros(1).expand(1, 1, *size))


def open_tower(vision_tower: nn.Module | Tower) -> Tower:
    """Find the embeddings and blocks of a tower, or of what it is wrapped in.

    Raises:
        ValueError: If a part is missing, or one is there whose share in attention is not known.
    """
    if isinstance(vision_tower, Tower):
        return vision_tower
    # A wrapper's own name for the tower does not matter: it is what holds embeddings of patches.
    module = next(filter(_holds_patches, vision_tower.modules()), vision_tower)
    try:
        return _read_tower(module)
    except _Unknown as error:
        raise ValueError(
            f"{type(vision_tower).__name__} is not built like a vision tower that is known here "
            f"({error}): pass CLIP's, SigLIP's, a DINO, ViT, DeiT or InternViT of transformers, "
            "or build Encoded yourself"
        ) from None


def _holds_patches(module: nn.Module) -> bool:
    return "embeddings" in module._modules and _patch_layer(module.embeddings) is not None


def _read_tower(module: nn.Module) -> Tower:
    blocks = _blocks_of(module)
    if not blocks or not _holds_patches(module):
        raise _Unknown("it has no embeddings of patches, or no blocks behind them")
    embeddings = module.embeddings
    taken = _parameters(type(embeddings))
    if lacking := _needed(taken) - {"pixel_values", "spatial_shapes"}:
        raise _Unknown(f"its embeddings also need {', '.join(sorted(lacking))}")
    _check_held(module, IN_TOWER, "it")
    for holder in (getattr(module, name, None) for name in HOLDERS):
        _check_held(holder, set(LISTS), "its encoder")
    turns = hasattr(module, "rope_embeddings")
    for block in dict.fromkeys(blocks):
        _check_block(block, turns, module.config)
    has_class = any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token"))
    registers = getattr(embeddings, "register_tokens", None)
    first = int(has_class) + int(hasattr(embeddings, "distillation_token"))
    first += 0 if registers is None else registers.shape[-2]
    return Tower(module, blocks, has_class, first)


def _blocks_of(module: nn.Module) -> nn.ModuleList | nn.Sequential | None:
    for holder in (*(getattr(module, name, None) for name in HOLDERS), module):
        for name in LISTS:
            if isinstance(found := getattr(holder, name, None), nn.ModuleList | nn.Sequential):
                return found
    return None


def _check_block(block: nn.Module, turns: bool, config: Any) -> None:
    """Refuse a block whose attention is read otherwise than it computes."""
    known = {"hidden_states", "attention_mask"} | ({"position_embeddings"} if turns else set())
    if lacking := _needed(_parameters(type(block))) - known:
        raise _Unknown(f"its blocks also need {', '.join(sorted(lacking))}")
    attention = _attention_of(block)
    if _only(block, NORMS) is None or attention is None:
        raise _Unknown("its blocks have no norm, or no queries, keys and values apart, behind it")
    _check_held(attention, IN_ATTENTION, "its attention")
    _check_held(block, IN_BLOCK, "its blocks")
    scale = getattr(attention, "scaling", getattr(attention, "scale", None))
    depth = config.hidden_size // config.num_attention_heads
    depth = getattr(attention, "head_dim", getattr(attention, "attention_head_size", depth))
    if scale is not None and not math.isclose(scale, depth**-0.5):
        raise _Unknown(f"its attention scales logits by {scale:g}, not 1 / sqrt({depth})")
    for norm in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)):
        weight = getattr(norm, "weight", None)
        if weight is not None and weight.numel() != config.hidden_size:
            raise _Unknown("its attention has a norm for each head")


def _check_held(module: nn.Module | None, known: set[str], whose: str) -> None:
    held = {} if module is None else dict(module.named_children())
    held |= {} if module is None else dict(module.named_parameters(recurse=False))
    if more := held.keys() - known:
        raise _Unknown(f"{whose} also has {', '.join(sorted(more))}")


def _attention_of(block: nn.Module) -> nn.Module | None:
    """The module that holds the three maps."""
    outer = _only(block, ("self_attn", "attention"))
    for found in (outer, getattr(outer, "attention", None)):
        if any(all(hasattr(found, name) for name in names) for names in MAPS):
            return found
    return None


def _read_attention(module: nn.Module) -> Attention:
    (names,) = (names for names in MAPS if all(hasattr(module, name) for name in names))
    norms = (getattr(module, name, None) for name in ("q_norm", "k_norm"))
    maps = (getattr(module, name) for name in names)
    return Attention(*maps, _only(module, OUTPUTS), *norms)


def _scale(found: nn.Module | Tensor | float | None) -> Callable[[Tensor], Tensor]:
    """Make the layer scale of a block a map, whichever way it is held."""
    if found is None:
        return lambda change: change
    return found if isinstance(found, nn.Module) else lambda change: found * change


def _patch_layer(embeddings: nn.Module | None) -> nn.Module | None:
    found = _only(embeddings, PATCH_LAYERS)
    return getattr(found, "projection", found)


def _only(module: nn.Module | None, names: tuple[str, ...]) -> Any:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


@functools.lru_cache(maxsize=256)
def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return what the forward pass of a module takes, by name."""
    taken = inspect.signature(kind.forward).parameters.values()
    return {own.name: own for own in taken if own.name != "self"}


def _needed(taken: dict[str, inspect.Parameter]) -> set[str]:
    return {
        name
        for name, own in taken.items()
        if own.default is own.empty and own.kind is own.POSITIONAL_OR_KEYWORD
    }


def _pair(side: Any) -> tuple[int, int]:
    return tuple(side) if isinstance(side, list | tuple) else (side, side)


def _cut(
    pixel_values: Float[Tensor, "images channels height width"], patch_px: tuple[int, int]
) -> Float[Tensor, "images patches values"]:
    """Cut pictures into patches, in raster order; the values of a pixel stay together."""
    (height, width), (rows, columns) = patch_px, pixel_values.shape[-2:]
    parts = pixel_values.unflatten(-1, (columns // width, width))
    parts = parts.unflatten(-3, (rows // height, height))  # [images channels rows h columns w]
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
