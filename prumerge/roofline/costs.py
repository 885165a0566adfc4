"""Time and memory of a prompt on a card, as tidy rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from prumerge.roofline.hardware import Hardware, Precision, find_hardware, find_precision
from prumerge.roofline.operations import (
    MOVED,
    Convention,
    Operation,
    find_convention,
    language_operations,
    layered_operations,
    projector_operations,
    vision_operations,
)
from prumerge.roofline.shapes import LanguageShape, ModelShape, VisionShape, read_shape

COUNTED = ("operations", *MOVED, "traffic_bytes")


def timed(operation: Operation, card: Hardware, precision: Precision) -> dict[str, Any]:
    """Return an operation as a row, all its repeats together."""
    computing = operation.operations / card.peak_per_s(precision)
    moving = operation.traffic_bytes / card.bandwidth_bytes_per_s
    row = {"operation": operation.name, "repeats": operation.repeats}
    row |= {name: getattr(operation, name) * operation.repeats for name in COUNTED}
    row["time_ms"] = 1e3 * operation.repeats * max(computing, moving)
    row["intensity_per_byte"] = operation.operations / operation.traffic_bytes
    row["bound"] = "compute" if computing > moving else "memory"
    return row


def summed(
    operations: Iterable[Operation], card: Hardware, precision: Precision
) -> dict[str, float | int]:
    """Add up operations that are done one after another."""
    rows = [timed(operation, card, precision) for operation in operations]
    total = {name: sum(row[name] for row in rows) for name in (*COUNTED, "time_ms")}
    computing = sum(row["time_ms"] for row in rows if row["bound"] == "compute")
    return total | {"compute_bound_share": computing / total["time_ms"]}


def check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or count != int(count) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")


def several(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple, range, pd.Series)) else [value]


@dataclass(frozen=True)
class _Case:
    """One combination of arguments, names resolved."""

    shape: ModelShape
    card: Hardware
    precision: Precision
    convention: Convention
    flash_attention: bool
    batch: int
    prompt_tokens: int
    visual_tokens: int

    def columns(self) -> dict[str, Any]:
        """What identifies a row."""
        row = {"model": self.shape.name, "hardware": self.card.name}
        row |= {"precision": self.precision.name, "convention": self.convention.name}
        shared = ("flash_attention", "batch", "prompt_tokens", "visual_tokens")
        return row | {field: getattr(self, field) for field in shared}

    def language(self, queries: int, keys: int) -> list[Operation]:
        """Operations of the language model for the last ``queries`` of ``keys`` tokens."""
        how = (self.precision, self.convention, self.flash_attention)
        return language_operations(self.shape.language, queries, keys, self.batch, *how)


def estimate_costs(
    model: Any,
    prompt_tokens: int | Sequence[int],
    hardware: Hardware | str | Sequence = "H100",
    precision: Precision | str | Sequence = "fp16",
    batch: int | Sequence[int] = 1,
    flash_attention: bool | Sequence[bool] = False,
    *,
    text_tokens: int | None = None,
    pictures: int = 1,
    grid: tuple[int, int] | None = None,
    new_tokens: int = 1,
    vision_layers: int | None = None,
    convention: Convention | str = "complete",
) -> pd.DataFrame:
    """Estimate every stage of answering a batch of equal prompts.

    Arguments that may be sequences are crossed; what is unknown or impossible is a ValueError.

    Args:
        model: What :func:`read_shape` takes: ``7b``, ``13b``, a folder, a hub id, a config.
        prompt_tokens: Tokens of one prompt, visual tokens included.
        precision: ``fp16``, ``int8``, ``int4`` (weights, activations and cache alike), ``w4a16``
            (weights alone), or bits of your own.
        batch: Prompts answered together. Weights are read once for all of them.
        flash_attention: Whether scores stay out of memory.
        text_tokens: How many of the prompt's tokens are text; the rest are visual tokens, which
            pass the projector. None leaves vision tower and projector out.
        pictures: Pictures per prompt that the vision tower encodes, whatever is kept of them.
        grid: Rows and columns of patches of each, where the tower takes any number (Qwen), as
            :func:`prumerge.roofline.shown_by` says; pass its ``tiles`` as ``pictures``.
        new_tokens: Tokens generated. Prefill gives the first, each further one takes a decoding
            step, so 1 has no row for decode.
        vision_layers: Blocks of the vision tower that run; None runs all, as transformers does.
        convention: ``complete``, or ``llm-viewer`` for what the paper's tool counts; that one
            knows no mixture of experts. Of such a model those experts are read that
            :meth:`prumerge.roofline.LanguageShape.experts_read` says.

    Returns:
        One row per combination and stage: ``operations`` (a multiply-add is two), bytes by kind,
        ``traffic_bytes``, ``time_ms``, and ``compute_bound_share``, the part of that time spent
        in operations that wait for arithmetic and not for memory.

    Example:
        >>> rows = estimate_costs("7b", 80, "V100", convention="llm-viewer")
        >>> rows[["stage", "time_ms"]].round(2).values.tolist()
        [['prefill', 15.39]]
    """
    check_counts(pictures=pictures, new_tokens=new_tokens)
    shape = read_shape(model)
    rows = []
    lists = map(several, (hardware, precision, flash_attention, batch, prompt_tokens))
    for combination in product(*lists):
        case = _case(shape, *combination, text_tokens=text_tokens, convention=convention)
        for stage, operations in _stages(case, pictures, grid, new_tokens, vision_layers):
            row = case.columns() | {"new_tokens": new_tokens, "stage": stage}
            rows.append(row | summed(operations, case.card, case.precision))
    return pd.DataFrame(rows)


def estimate_prefill(
    model: Any,
    layer_tokens: Sequence[int],
    hardware: Hardware | str = "H100",
    precision: Precision | str = "fp16",
    batch: int = 1,
    flash_attention: bool = False,
    *,
    convention: Convention | str = "complete",
) -> dict[str, float | int]:
    """Estimate the prefill of prompts that lose tokens between the layers of the language model.

    ``layer_tokens`` are the tokens of one prompt that each layer reads, text included, one number
    per layer (else ValueError); the rest is as in :func:`estimate_costs`, whose measures of one
    stage come back. Choosing what to drop is not counted.

    Example:
        >>> every, dropped = [104] * 32, [616] * 2 + [69] * 30    # 64 or 63 visual tokens a layer
        >>> costs = [estimate_prefill("7b", tokens) for tokens in (every, dropped)]
        >>> [round(cost["operations"] / 1e12, 2) for cost in costs]
        [1.35, 1.35]
    """
    check_counts(batch=batch, **{f"tokens of layer {n}": c for n, c in enumerate(layer_tokens)})
    language, flash = read_shape(model).language, bool(flash_attention)
    if len(layer_tokens) != language.layers:
        raise ValueError(
            f"layer_tokens has {len(layer_tokens)} numbers, the model {language.layers} layers"
        )
    card, bits = find_hardware(hardware), find_precision(precision)
    how = batch, bits, find_convention(convention, flash), flash
    return summed(layered_operations(language, layer_tokens, *how), card, bits)


def list_operations(
    model: Any,
    prompt_tokens: int,
    hardware: Hardware | str = "H100",
    precision: Precision | str = "fp16",
    batch: int = 1,
    flash_attention: bool = False,
    *,
    stage: str = "prefill",
    convention: Convention | str = "complete",
) -> pd.DataFrame:
    """List the operations of the language model one by one, all layers together.

    ``stage`` is ``prefill``, or ``decode`` for the first step after the prompt; the rest is as in
    :func:`estimate_costs`. Columns: ``operation``, ``repeats``, operations, bytes by kind,
    ``traffic_bytes``, ``time_ms``, ``intensity_per_byte`` (operations per byte) and ``bound``:
    ``compute`` where arithmetic takes longer than memory, else ``memory``.
    """
    if stage not in ("prefill", "decode"):
        raise ValueError(f"unknown stage {stage!r}: there are prefill and decode")
    how = (hardware, precision, flash_attention, batch, prompt_tokens)
    case = _case(read_shape(model), *how, text_tokens=None, convention=convention)
    pair = (prompt_tokens, prompt_tokens) if stage == "prefill" else (1, prompt_tokens + 1)
    operations = case.language(*pair)
    return pd.DataFrame([timed(each, case.card, case.precision) for each in operations])


def _case(shape, hardware, precision, flash_attention, batch, tokens, text_tokens, convention):
    check_counts(batch=batch, prompt_tokens=tokens)
    visual_tokens = 0 if text_tokens is None else tokens - text_tokens
    if not 0 <= visual_tokens <= tokens:
        limits = f"in a prompt of {tokens} tokens; it must be 0 to {tokens}"
        raise ValueError(f"text_tokens={text_tokens} {limits}")
    if visual_tokens and shape.vision is None:
        remedy = "leave text_tokens out, or name a LLaVA"
        raise ValueError(f"{shape.name} has no vision tower; {remedy}")
    how = find_hardware(hardware), find_precision(precision)
    how += find_convention(convention, flash_attention), bool(flash_attention)
    return _Case(shape, *how, int(batch), int(tokens), int(visual_tokens))


def _stages(case: _Case, pictures: int, grid, new_tokens: int, vision_layers) -> Iterator:
    vision, tokens = case.shape.vision, case.prompt_tokens
    if case.visual_tokens:
        vision = vision.at(grid)
        layers = vision.layers if vision_layers is None else vision_layers
        if not 1 <= layers <= vision.layers:
            raise ValueError(f"vision_layers must be 1 to {vision.layers}, got {vision_layers}")
        encoded, how = pictures * case.batch, (case.precision, case.flash_attention)
        yield "vision_tower", vision_operations(vision, encoded, *how, layers)
        how = case.shape.language, case.visual_tokens * case.batch, case.precision
        yield "projector", projector_operations(vision, *how)
    yield "prefill", case.language(tokens, tokens)
    if new_tokens > 1:
        steps = [case.language(1, tokens + step) for step in range(1, new_tokens)]
        yield "decode", [operation for step in steps for operation in step]


def language_weights(shape: LanguageShape) -> int:
    """Count the weights of a Llama-shaped language model, all experts' too.

    Not counted is what Llama has none of, less than one weight in ten thousand: biases (Qwen 2),
    norms of queries and keys (Qwen 3).

    Example:
        >>> from prumerge.roofline import NAMED
        >>> language_weights(NAMED["7b"].language)
        6738415616
    """
    projections = 2 * shape.width * (shape.query_width + shape.key_width)
    feeding = shape.dense_layers * 3 * shape.width * shape.inner_width
    experts = shape.experts * (3 * shape.width * shape.expert_width + shape.width)  # and router
    feeding += (shape.layers - shape.dense_layers) * experts
    ends = shape.vocabulary * shape.width * (1 if shape.tied else 2) + shape.width
    return shape.layers * (projections + 2 * shape.width) + feeding + ends


def vision_weights(shape: VisionShape, outer: int) -> int:
    """Count the weights of a vision tower and of the projector behind it, biases included.

    Not counted is what no feature passes: SigLIP's pooling head, DINOv2's mask token; nor, of a few
    thousand weights, a newline and a norm in the projector.
    """
    width, inner = shape.width, shape.inner_width
    products, norm = (1 + shape.gated) * inner, width * (1 if shape.rms else 2)
    block = 4 * (width * width + width) + width * (products + inner) + products + width + 2 * norm
    block += 2 * width * shape.layer_scale
    own = shape.class_tokens + shape.registers
    places = shape.patches + shape.class_tokens if shape.positions is None else shape.positions
    tower = shape.layers * block + width * (shape.patch_values + places + own)
    tower += norm + (norm if shape.norm_first else width * shape.patch_bias)
    given = width * shape.selected
    middle = given if shape.merger else outer
    projector = middle * (given + 1) + outer * (middle + 1)
    further = (shape.projectors - 1) * (projector + 2 * given)  # with norms of their own
    return tower * shape.towers + projector + further


def weight_bytes(model: Any, precision: Precision | str = "fp16") -> float:
    """Return the size of all weights, as if all had the precision's bits, with vision tower."""
    shape = read_shape(model)
    weights = language_weights(shape.language)
    if shape.vision is not None:
        weights += vision_weights(shape.vision, shape.language.width)
    return weights * find_precision(precision).weight


def kv_cache_bytes(
    model: Any, tokens: int, batch: int = 1, precision: Precision | str = "fp16"
) -> float:
    """Return the size of the KV cache: a key and a value per layer and token.

    Example:
        >>> kv_cache_bytes("7b", tokens=1) / 2**20     # MiB for each visual token kept
        0.5
    """
    shape = read_shape(model).language
    return 2 * shape.layers * shape.key_width * tokens * batch * find_precision(precision).cache


def estimate_memory(
    model: Any,
    prompt_tokens: int | Sequence[int],
    precision: Precision | str | Sequence = "fp16",
    batch: int | Sequence[int] = 1,
    flash_attention: bool | Sequence[bool] = False,
    *,
    new_tokens: int = 1,
) -> pd.DataFrame:
    """Estimate what must be in memory at once while a batch of prompts is answered.

    One row per combination of the arguments, which are as in :func:`estimate_costs`:
    ``weight_bytes``, ``kv_cache_bytes`` of the prompt and all but the last of ``new_tokens``,
    ``activation_bytes`` during prefill, and their sum ``footprint_bytes``.

    Live activations are the larger of two moments of a layer: in attention the residual stream,
    queries, their result and (without FlashAttention) scores before and after the softmax; in the
    feed-forward layer the residual stream, its normed copy, both inner products and the gated one,
    in a mixture of experts those of all experts of a token. The vision tower's own, which are gone
    by then, are not counted.
    """
    shape = read_shape(model)
    rows = []
    lists = map(several, (precision, flash_attention, batch, prompt_tokens))
    for name, flash, prompts, tokens in product(*lists):
        check_counts(new_tokens=new_tokens, batch=prompts, prompt_tokens=tokens)
        bits = find_precision(name)
        parts = {
            "weight_bytes": weight_bytes(shape, bits),
            "kv_cache_bytes": kv_cache_bytes(shape, tokens + new_tokens - 1, prompts, bits),
            "activation_bytes": _live_values(shape, tokens, flash) * prompts * bits.activation,
        }
        setting = {"model": shape.name, "precision": bits.name, "flash_attention": flash}
        setting |= {"batch": prompts, "prompt_tokens": tokens, "new_tokens": new_tokens}
        rows.append(setting | parts | {"footprint_bytes": sum(parts.values())})
    return pd.DataFrame(rows)


def _live_values(shape: ModelShape, tokens: int, flash: bool) -> int:
    language = shape.language
    scores = 0 if flash else 2 * language.heads * tokens * tokens
    attending = tokens * (language.width + 2 * language.query_width) + scores
    inner = language.inner_width if language.dense_layers else 0
    inner = max(inner, language.experts_per_token * language.expert_width)
    feeding = tokens * (2 * language.width + 3 * inner)
    return max(attending, feeding)
