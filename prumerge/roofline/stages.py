"""The operations of each stage, in order: vision tower, projector, language model."""

from dataclasses import replace

from prumerge.roofline.conventions import Convention
from prumerge.roofline.hardware import Precision
from prumerge.roofline.operations import Operation, attention, elementwise, linear
from prumerge.roofline.shapes import LanguageShape, VisionShape

ROTARY = 3  # operations per value: two products and their sum
GELU = 5  # per value: multiply, exponential, add, divide, multiply (the sigmoid form)
LAYER_NORM = 7  # per value: sum, subtract, square, sum, divide, multiply, add


def language_operations(
    shape: LanguageShape,
    queries: int,
    keys: int,
    batch: int,
    precision: Precision,
    convention: Convention,
    flash_attention: bool,
) -> list[Operation]:
    """List the operations that take ``queries`` new tokens of each sequence to one's logits.

    Prefill has as many queries as keys; a decoding step has one query, and keys that include its
    own. Logits are computed for the last position alone, as generation does.

    Args:
        shape: Sizes of the language model.
        queries: New tokens per sequence.
        keys: Tokens per sequence that they attend to, themselves included.
        batch: Sequences.
        precision: Bits of weights, activations, cache.
        convention: What is counted.
        flash_attention: Whether scores stay out of memory.

    Returns:
        The operations, those of a layer with their repeats.
    """
    rows = batch * queries
    hidden = rows * shape.width
    inner = shape.width if convention.activation_at_hidden else shape.inner_width
    causal = convention.causal and flash_attention
    layer = [
        linear("query", shape.width, shape.query_width, rows, precision),
        linear("key", shape.width, shape.key_width, rows, precision, cached=True),
        linear("value", shape.width, shape.key_width, rows, precision, cached=True),
        *attention(shape, queries, keys, batch, precision, flash=flash_attention, causal=causal),
        linear("attention_output", shape.query_width, shape.width, rows, precision),
        linear("gate", shape.width, shape.inner_width, rows, precision),
        linear("up", shape.width, shape.inner_width, rows, precision),
        elementwise("activation", convention.activation_operations, rows * inner, precision, 2),
        linear("down", shape.inner_width, shape.width, rows, precision),
    ]
    if convention.everything:
        turned = rows * (shape.query_width + shape.key_width)
        layer.append(elementwise("rotary", ROTARY, turned, precision))
    norm = elementwise("norms", convention.norm_operations, hidden, precision)
    residual = elementwise("residuals", 1, hidden, precision, convention.residual_inputs)
    return [
        *(replace(each, repeats=shape.layers) for each in layer),
        replace(norm, repeats=2 * shape.layers + convention.everything),
        replace(residual, repeats=2 * shape.layers),
        *_ends(shape, rows, batch, precision, convention),
    ]


def _ends(shape, rows, batch, precision, convention) -> list[Operation]:
    """Embedding and output projection."""
    weight = precision.weight
    written = rows * shape.width * precision.activation
    embedding = Operation("embedding", 0, rows * shape.width * weight, 0, written)
    head_weight = convention.head_weight_bytes or weight
    head_rows = batch if convention.head_rows_count else 1
    head = Operation(
        "logits",
        convention.head_operations * shape.width * shape.vocabulary * batch,
        weight_bytes=shape.width * shape.vocabulary * head_weight,
        activation_read_bytes=head_rows * shape.width * precision.activation,
        activation_write_bytes=head_rows * shape.vocabulary * precision.activation,
    )
    return [embedding, head] if convention.everything else [head]


def vision_operations(
    shape: VisionShape, pictures: int, precision: Precision, flash_attention: bool, layers: int
) -> list[Operation]:
    """List the operations from pixels to the features of a layer.

    Args:
        shape: Sizes of the vision tower.
        pictures: Pictures in the batch.
        precision: Bits of weights and activations.
        flash_attention: Whether scores stay out of memory.
        layers: Blocks that are run.

    Returns:
        The operations, those of a block with their repeats.
    """
    rows, hidden = pictures * shape.tokens, pictures * shape.tokens * shape.width
    norm = elementwise("norms", LAYER_NORM, hidden, precision)
    residual = elementwise("residuals", 1, hidden, precision, inputs=2)
    block = [
        linear("query", shape.width, shape.width, rows, precision),
        linear("key", shape.width, shape.width, rows, precision),
        linear("value", shape.width, shape.width, rows, precision),
        *attention(
            shape, shape.tokens, shape.tokens, pictures, precision,
            flash=flash_attention, causal=False,
        ),
        linear("attention_output", shape.width, shape.width, rows, precision),
        linear("up", shape.width, shape.inner_width, rows, precision),
        elementwise("activation", GELU, rows * shape.inner_width, precision),
        linear("down", shape.inner_width, shape.width, rows, precision),
    ]  # fmt: skip
    patches = linear(
        "patch_embedding", shape.patch_values, shape.width, pictures * shape.patches, precision
    )
    return [
        patches,
        *(replace(each, repeats=layers) for each in block),
        replace(norm, repeats=2 * layers + 1),
        replace(residual, repeats=2 * layers),
    ]


def projector_operations(
    vision: VisionShape, language: LanguageShape, tokens: int, precision: Precision
) -> list[Operation]:
    """List the operations of LLaVA-1.5's projector: two linear layers, a GELU between.

    Args:
        vision: Sizes of the vision tower.
        language: Sizes of the language model.
        tokens: Visual tokens of the batch, after the reduction.
        precision: Bits of weights and activations.

    Returns:
        The operations.
    """
    inner, outer = vision.width * vision.selected, language.width
    return [
        linear("projector_in", inner, outer, tokens, precision),
        elementwise("projector_activation", GELU, tokens * outer, precision),
        linear("projector_out", outer, outer, tokens, precision),
    ]
