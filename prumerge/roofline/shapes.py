"""The sizes of a model that decide what it costs, of your own or read from a transformers config.

Llama-shaped means: gated feed-forward layers, RMS norms, rotary positions, full attention with as
many or fewer key-value heads than heads (grouped-query attention); in place of a feed-forward layer
perhaps a mixture of experts, all alike, of which a token passes some and no others. LLaVA-1.5's
Vicuna is; so are Llama 2 and 3, Mistral, Mixtral, Qwen 2 and 3, Qwen3-MoE.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prumerge.paths import folder_of


class _Heads:
    """Widths that follow from ``heads``, ``key_heads`` and ``head_width``."""

    @property
    def query_width(self) -> int:
        """Width of all queries of one token."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width of all keys of one token, and of all values."""
        return self.key_heads * self.head_width


@dataclass(frozen=True)
class LanguageShape(_Heads):
    """Sizes of a Llama-shaped language model; ``tied``: its output projection is the embedding.

    Without ``experts`` every layer is dense: its feed-forward layer has ``inner_width``, and every
    token passes it.
    """

    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    inner_width: int
    vocabulary: int
    tied: bool = False
    experts: int = 0  # of each layer that is not dense, with a router in front
    experts_per_token: int = 0
    expert_width: int = 0  # inner width of one
    dense: tuple[int, ...] = ()  # numbers of the layers without experts, where others have them

    @property
    def dense_layers(self) -> int:
        """Layers whose feed-forward layer every token passes."""
        if not self.experts:
            return self.layers
        return sum(0 <= layer < self.layers for layer in self.dense)

    def experts_read(self, tokens: int) -> float:
        """Return how many experts of a layer ``tokens`` tokens pass together, on average.

        Assumed is uniform routing: each token's choice is independent of the others', and every
        expert as likely as any other, which is what training balances them towards. Where some
        are chosen more often, or tokens choose alike, fewer are read, so this is the most.
        """
        return self.experts * (1 - (1 - self.experts_per_token / self.experts) ** tokens)


@dataclass(frozen=True)
class VisionShape(_Heads):
    """Sizes of a vision transformer: CLIP's unless the last fields say otherwise.

    ``layers`` count those ``attach`` leaves out too.
    """

    width: int
    layers: int
    heads: int
    inner_width: int
    patches: int  # of a picture, or of one tile or frame; 0 where ``at`` tells them (Qwen)
    patch_values: int  # colours x side x side
    class_tokens: int = 1  # 0 without a class token (SigLIP)
    selected: int = 1  # layers, or patches (InternVL), that the projector gets side by side
    registers: int = 0  # tokens that are no patches and have no position (DINOv2)
    gated: bool = False  # feed-forward layers are SwiGLU: two inner products, one gates the other
    layer_scale: bool = False  # a weight per value of what a block adds (DINOv2)
    norm_first: bool = True  # in front of the blocks, instead of biases of the patches (CLIP)
    towers: int = 1  # alike, each with weights of its own (Video-LLaVA: of pictures, of frames)
    # Qwen's: pictures of any size, rotary positions, a projector as wide inside as what it gets.
    merger: bool = False
    projectors: int = 1  # with those for the first layers of the language model (Qwen3-VL)
    positions: int | None = None  # learned ones; None is one per patch and class token
    patch_bias: bool = True  # where norm_first is not: patches have biases (not Qwen before 3)
    rms: bool = False  # norms have no biases (Qwen2.5-VL)
    window: int = 0  # edge in patches of windows that attention stays in, 0 without (Qwen2.5-VL)
    whole: tuple[int, ...] = ()  # numbers of the blocks whose attention does not
    grid: tuple[int, int] | None = None  # rows and columns of patches, where ``at`` told them

    @property
    def key_heads(self) -> int:
        return self.heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Tokens inside the tower: patches, class token, registers."""
        return self.patches + self.class_tokens + self.registers

    def at(self, grid: tuple[int, int] | None) -> "VisionShape":
        """Return the shape for pictures of ``grid`` rows and columns of patches.

        None is for towers whose pictures all have the same patches, everything else for the others;
        a ValueError tells which it is, and that patches are no whole squares to be merged.
        """
        if grid is None and self.merger:
            raise ValueError(
                "this tower takes pictures of any size: pass the patches of yours, "
                "grid=shown_by(model, size=(height, width)).grid"
            )
        if grid is None:
            return self
        if not self.merger:
            raise ValueError(
                f"grid={grid}: this tower reads {self.patches} patches of any picture; leave it out"
            )
        side = math.isqrt(self.selected)
        if min(grid) < 1 or any(edge % side for edge in grid):
            raise ValueError(
                f"grid={grid}: rows and columns of patches must be multiples of {side}, which are "
                "merged into a token"
            )
        return replace(self, patches=grid[0] * grid[1], grid=grid)


@dataclass(frozen=True)
class ModelShape:
    """A language model, and the vision tower and projector in front of it, if any."""

    name: str
    language: LanguageShape
    vision: VisionShape | None = None


_CLIP_LARGE = VisionShape(1024, 24, 16, 4096, patches=576, patch_values=3 * 14 * 14)
NAMED = {
    # LLaVA-1.5 on Vicuna 1.5, vocabulary as the paper's table has it. The checkpoints of
    # llava-hf pad it to 32064 rows.
    "7b": ModelShape("7b", LanguageShape(4096, 32, 32, 32, 128, 11008, 32000), _CLIP_LARGE),
    "13b": ModelShape("13b", LanguageShape(5120, 40, 40, 40, 128, 13824, 32000), _CLIP_LARGE),
}


_FIELDS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
_LANGUAGE_FIELDS = [*_FIELDS, "vocab_size", "rms_norm_eps"]
_VISION_FIELDS = [*_FIELDS, "image_size", "patch_size"]
_DINOV2_FIELDS = [field for field in _VISION_FIELDS if field != "intermediate_size"] + ["mlp_ratio"]
# Present in configs whose layers have several paths, a compressed cache, or a recurrent state.
_OTHER_KINDS = "n_routed_experts kv_lora_rank ssm_cfg mamba_d_state".split()
# Experts are all alike here, and nothing but a router stands beside them. Fields do not say so.
_MIXTURES = ("mixtral", "qwen3_moe", "qwen3_vl_moe_text", "granitemoe", "olmoe", "phimoe")
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
_CLASS_TOKENS |= {"dinov2": 1, "dinov2_with_registers": 1, "internvl_vision": 1}
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Models of pictures of any size; with ``_vision`` behind, their towers."""


def read_shape(model: Any) -> ModelShape:
    """Read the sizes of a model.

    ``model`` is ``7b`` or ``13b`` for LLaVA-1.5, ``mini`` or ``pocket`` for an embedded one, a
    folder or hub id with a config, a config object of transformers (of a language model, or with
    ``text_config`` and ``vision_config``), or a :class:`ModelShape`. Layers with sliding windows
    count as full attention, which they are up to their window's length. No config, one that is not
    Llama-shaped (one with shared experts, for example), and a vision tower that is none of CLIP's,
    SigLIP's, InternViT, DINOv2's and Qwen's are ValueErrors. A DINOv2 takes pictures of any size;
    counted are those of the config's ``image_size``. The tower's shape is that of one tile or
    frame: :func:`prumerge.roofline.shown_by` says how many there are, and of a Qwen, whose pictures
    have any size too, their patches.

    Example:
        >>> read_shape("7b").language.key_width
        4096
    """
    if isinstance(found := read_config(model), ModelShape):
        return found
    named = model if isinstance(model, (str, Path)) else getattr(model, "name_or_path", "")
    return _shape(str(named) or type(model).__name__, found)


def read_config(model: Any) -> Any:
    """Return the config behind what :func:`read_shape` takes, or the :class:`ModelShape`."""
    if not isinstance(model, (str, Path)):
        return model
    return NAMED.get(str(model)) or _load_config(str(model))


def _load_config(name: str):
    folder = folder_of(name)
    source, _, revision = name.partition("@")
    if folder.is_dir():
        source, revision = str(folder), ""
    elif source.count("/") != 1:  # cannot be a hub id: asking the hub for it would take long
        raise _no_config(name)
    from transformers import AutoConfig  # takes seconds to import; names alone do not need it

    try:
        return AutoConfig.from_pretrained(source, revision=revision or None)
    except (OSError, ValueError) as error:
        raise _no_config(name) from error


def _no_config(name: str) -> ValueError:
    return ValueError(
        f"no config for model {name!r}: give one of {', '.join(NAMED)}, 'mini', a folder with a "
        "config.json, or a hub id owner/name@revision that can be reached"
    )


def _shape(name: str, config: Any) -> ModelShape:
    language = _language_shape(getattr(config, "text_config", config))
    # Of a model with a tower its own config says so, not that of its language model.
    language = replace(language, tied=bool(getattr(config, "tie_word_embeddings", language.tied)))
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return ModelShape(name, language)
    layer = getattr(config, "vision_feature_layer", -2)
    selected = len(layer) if isinstance(layer, (list, tuple)) else 1
    shape = _vision_shape(vision, selected)
    kind = getattr(config, "model_type", None)
    if kind == "video_llava":
        shape = replace(shape, towers=2)
    if kind == "internvl":  # the projector gets so many patches side by side
        shape = replace(shape, selected=int(1 / config.downsample_ratio) ** 2)
    return ModelShape(name, language, shape)


def _language_shape(config: Any) -> LanguageShape:
    kind = getattr(config, "model_type", None) or type(config).__name__
    missing = [field for field in _LANGUAGE_FIELDS if not getattr(config, field, None)]
    other = [field for field in _OTHER_KINDS if getattr(config, field, None)]
    layers = set(getattr(config, "layer_types", None) or ())
    other += sorted(layers - {"full_attention", "sliding_attention"})
    experts = _mixture(config)
    if experts and kind not in _MIXTURES:
        other.append(f"experts unlike those of {', '.join(_MIXTURES)}")
    # transformers' plan for several GPUs lists the matrices of a layer: without a gate, not three.
    plan = getattr(config, "base_model_tp_plan", None) or {}
    if any(".mlp." in name for name in plan) and not any("gate" in name for name in plan):
        missing.append("gated feed-forward layers")
    if missing or other:
        reason = f"it has no {', '.join(missing)}" if missing else f"it has {', '.join(other)}"
        raise ValueError(
            f"config {kind!r} is not Llama-shaped: {reason}; pass the config of a Llama-shaped "
            "model, or ModelShape(...) with sizes of your own"
        )
    heads = config.num_attention_heads
    return LanguageShape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        inner_width=config.intermediate_size,
        vocabulary=config.vocab_size,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        **experts,
    )


def _mixture(config: Any) -> dict[str, Any]:
    """Return a shape's fields about experts, {} where no layer has some."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    skipped = getattr(config, "mlp_only_layers", None) or ()
    step = getattr(config, "decoder_sparse_step", None) or 1
    layers = range(getattr(config, "num_hidden_layers", None) or 0)
    dense = tuple(i for i in layers if i in skipped or (i + 1) % step)
    if not experts or len(dense) == len(layers):
        return {}
    width = getattr(config, "moe_intermediate_size", None)
    return {
        "experts": experts,
        "experts_per_token": getattr(config, "num_experts_per_tok", 0),
        "expert_width": width or getattr(config, "intermediate_size", None),
        "dense": dense,
    }


def _vision_shape(config: Any, selected: int) -> VisionShape:
    kind = getattr(config, "model_type", None)
    if kind and kind.removesuffix("_vision") in QWEN:
        return _qwen_shape(config)
    dinov2 = kind in ("dinov2", "dinov2_with_registers")
    fields = _DINOV2_FIELDS if dinov2 else _VISION_FIELDS
    missing = [field for field in fields if not getattr(config, field, None)]
    if kind not in _CLASS_TOKENS or missing:
        raise ValueError(
            f"vision tower {kind!r} is none of {', '.join([*_CLASS_TOKENS, *QWEN])}; pass "
            "text_config alone for the language model's costs, or ModelShape(...) with sizes of "
            "your own"
        )
    height, width = sides(config.image_size)
    rows, columns = sides(config.patch_size)
    return VisionShape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        inner_width=_dinov2_inner_width(config) if dinov2 else config.intermediate_size,
        patches=(height // rows) * (width // columns),
        patch_values=getattr(config, "num_channels", 3) * rows * columns,
        class_tokens=_CLASS_TOKENS[kind],
        selected=selected,
        registers=getattr(config, "num_register_tokens", 0),
        gated=dinov2 and config.use_swiglu_ffn,
        layer_scale=dinov2 or kind == "internvl_vision",
        norm_first=kind == "clip_vision_model",
    )


def _qwen_shape(config: Any) -> VisionShape:
    first, second = (config.model_type.startswith(f"qwen{name}_vl") for name in ("2", "2_5"))
    width = config.embed_dim if first else config.hidden_size
    side = config.spatial_merge_size
    return VisionShape(
        width=width,
        layers=config.depth,
        heads=config.num_heads,
        inner_width=int(width * config.mlp_ratio) if first else config.intermediate_size,
        patches=0,
        patch_values=config.in_channels * config.temporal_patch_size * config.patch_size**2,
        class_tokens=0,
        selected=side**2,
        gated=second,
        norm_first=False,
        merger=True,
        projectors=1 + len(getattr(config, "deepstack_visual_indexes", ())),
        positions=getattr(config, "num_position_embeddings", 0),
        patch_bias=not (first or second),
        rms=second,
        window=config.window_size // side // config.patch_size * side if second else 0,
        whole=tuple(config.fullatt_block_indexes) if second else (),
    )


def sides(edge: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width, of which one number gives both."""
    return (edge, edge) if isinstance(edge, int) else (edge[0], edge[1])


def _dinov2_inner_width(config: Any) -> int:
    """Return the inner width: of SwiGLU two thirds of an MLP's, in whole eights."""
    inner = int(config.hidden_size * config.mlp_ratio)
    return (int(inner * 2 / 3) + 7) // 8 * 8 if config.use_swiglu_ffn else inner
