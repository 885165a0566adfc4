"""The kinds of operations: how many arithmetic operations, how many bytes.

``linear`` and ``attention`` are the two costly kinds; the rest is elementwise. Biases and norm
weights are not counted.
"""

from dataclasses import dataclass

from prumerge.roofline.hardware import Precision
from prumerge.roofline.shapes import LanguageShape, VisionShape

SOFTMAX = 5  # operations per score: largest, subtract, exponential, sum, divide


@dataclass(frozen=True)
class Operation:
    """One operation of a stage, for the whole batch.

    Args:
        name: What it is.
        operations: Arithmetic operations.
        weight_bytes: Bytes of weights read.
        activation_read_bytes: Bytes of activations read.
        activation_write_bytes: Bytes of activations written.
        cache_read_bytes: Bytes read from the KV cache.
        cache_write_bytes: Bytes written to the KV cache.
        repeats: How often it is done: once, or once per layer.
    """

    name: str
    operations: float | int
    weight_bytes: float | int = 0
    activation_read_bytes: float | int = 0
    activation_write_bytes: float | int = 0
    cache_read_bytes: float | int = 0
    cache_write_bytes: float | int = 0
    repeats: int = 1

    @property
    def traffic_bytes(self) -> float | int:
        """All bytes moved in one go."""
        return (
            self.weight_bytes
            + self.activation_read_bytes
            + self.activation_write_bytes
            + self.cache_read_bytes
            + self.cache_write_bytes
        )


def linear(
    name: str, inner: int, outer: int, rows: int, precision: Precision, cached: bool = False
) -> Operation:
    """Multiply ``rows`` vectors by a matrix; with ``cached`` the products go to the KV cache.

    Args:
        name: What it is.
        inner: Width of the vectors.
        outer: Width of the products.
        rows: Tokens of the batch.
        precision: Bits of weights, activations, cache.
        cached: Whether the products are keys or values that are kept.

    Returns:
        The operation, a multiply-add being two.
    """
    return Operation(
        name,
        2 * inner * outer * rows,
        weight_bytes=inner * outer * precision.weight,
        activation_read_bytes=inner * rows * precision.activation,
        activation_write_bytes=0 if cached else outer * rows * precision.activation,
        cache_write_bytes=outer * rows * precision.cache if cached else 0,
    )


def elementwise(
    name: str, per_value: float | int, values: int, precision: Precision, inputs: int = 1
) -> Operation:
    """Compute ``values`` numbers from ``inputs`` numbers each.

    Args:
        name: What it is.
        per_value: Operations for one number.
        values: Numbers written.
        precision: Bits of activations.
        inputs: Numbers read for one written.

    Returns:
        The operation.
    """
    size = values * precision.activation
    return Operation(
        name, per_value * values, activation_read_bytes=inputs * size, activation_write_bytes=size
    )


def attention(
    shape: LanguageShape | VisionShape,
    queries: int,
    keys: int,
    batch: int,
    precision: Precision,
    *,
    flash: bool,
    causal: bool,
) -> list[Operation]:
    """Let the last ``queries`` of ``keys`` tokens attend.

    Args:
        shape: Heads and their widths. A language model reads keys and values from its cache, a
            vision tower from its activations.
        queries: Tokens that attend, per sequence.
        keys: Tokens attended to, per sequence.
        batch: Sequences.
        precision: Bits of activations and cache.
        flash: One operation that never writes scores to memory, and reads keys and values once.
            Without it, scores are written, read, written and read again.
        causal: Count only scores of a token with itself and earlier ones.

    Returns:
        One operation with ``flash``; three without: products with the keys, softmax, weighted
        sums of the values.
    """
    pairs = queries * keys - causal * (queries * (queries - 1) // 2)
    scores = batch * shape.heads * pairs
    products = 2 * scores * shape.head_width
    score_bytes = scores * precision.activation
    query_bytes = batch * queries * shape.query_width * precision.activation
    key_values = batch * keys * shape.key_width
    cached = isinstance(shape, LanguageShape)
    cache_bytes = key_values * precision.cache if cached else 0
    loose_bytes = 0 if cached else key_values * precision.activation
    if flash:
        count = 2 * products + SOFTMAX * scores
        read = query_bytes + 2 * loose_bytes
        return [Operation("attention", count, 0, read, query_bytes, 2 * cache_bytes)]
    read = query_bytes + loose_bytes, score_bytes + loose_bytes
    return [
        Operation("query_key", products, 0, read[0], score_bytes, cache_bytes),
        elementwise("softmax", SOFTMAX, scores, precision),
        Operation("weighted_values", products, 0, read[1], query_bytes, cache_bytes),
    ]
