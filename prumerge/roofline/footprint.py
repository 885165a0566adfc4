"""What must be in memory at once: weights, KV cache, live activations."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd

from prumerge.roofline.arguments import check_counts, several
from prumerge.roofline.configs import read_shape
from prumerge.roofline.hardware import Precision, find_precision
from prumerge.roofline.shapes import LanguageShape, ModelShape, VisionShape


def language_weights(shape: LanguageShape) -> int:
    """Count the weights of a Llama-shaped language model, norms and embedding included.

    Args:
        shape: Sizes of the language model.

    Returns:
        Number of weights. Biases, which Llama has none of, are left out.

    Example:
        >>> from prumerge.roofline import NAMED
        >>> language_weights(NAMED["7b"].language)
        6738415616
    """
    projections = 2 * shape.width * (shape.query_width + shape.key_width)
    layer = projections + 3 * shape.width * shape.inner_width + 2 * shape.width
    ends = shape.vocabulary * shape.width * (1 if shape.tied else 2) + shape.width
    return shape.layers * layer + ends


def vision_weights(shape: VisionShape, outer: int) -> int:
    """Count the weights of a CLIP vision tower and of the projector behind it.

    Args:
        shape: Sizes of the vision tower.
        outer: Width of the language model.

    Returns:
        Number of weights, biases included.
    """
    width, inner = shape.width, shape.inner_width
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    embedding = width * (shape.patch_values + shape.tokens + shape.class_tokens)
    tower = shape.layers * block + embedding + 4 * width
    return tower + outer * (width * shape.selected + 1) + outer * (outer + 1)


def weight_bytes(model: Any, precision: Precision | str = "fp16") -> float:
    """Return the size of all weights, vision tower and projector included.

    Args:
        model: What :func:`read_shape` takes.
        precision: Bits of a weight; all weights count as having them.

    Returns:
        Bytes.
    """
    shape = read_shape(model)
    weights = language_weights(shape.language)
    if shape.vision is not None:
        weights += vision_weights(shape.vision, shape.language.width)
    return weights * find_precision(precision).weight


def kv_cache_bytes(
    model: Any, tokens: int, batch: int = 1, precision: Precision | str = "fp16"
) -> float:
    """Return the size of the KV cache: a key and a value per layer and token.

    Args:
        model: What :func:`read_shape` takes.
        tokens: Tokens in the cache per sequence.
        batch: Sequences.
        precision: Bits of a key or value.

    Returns:
        Bytes.

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

    Arguments that may be sequences are crossed with one another. Live activations are the larger
    of two moments of a layer: in attention the residual stream, queries, their result and (without
    FlashAttention) scores before and after the softmax; in the feed-forward layer the residual
    stream, its normed copy, both inner products and the gated one. The vision tower's own, which
    are gone by then, are not counted.

    Args:
        model: See :func:`prumerge.roofline.estimate_costs`.
        prompt_tokens: See :func:`prumerge.roofline.estimate_costs`.
        precision: See :func:`prumerge.roofline.estimate_costs`.
        batch: See :func:`prumerge.roofline.estimate_costs`.
        flash_attention: See :func:`prumerge.roofline.estimate_costs`.
        new_tokens: Tokens generated; the cache holds all but the last of them.

    Returns:
        One row per combination: ``weight_bytes``, ``kv_cache_bytes`` at the end of the answer,
        ``activation_bytes`` during prefill, and their sum ``footprint_bytes``.

    Raises:
        ValueError: If a name is unknown or a count is below 1.
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
    feeding = tokens * (2 * language.width + 3 * language.inner_width)
    return max(attending, feeding)
