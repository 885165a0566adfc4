"""The operations of each stage, and by which convention they are counted.

``linear`` and ``attention`` are the two costly kinds; the rest is elementwise. Biases and norm
weights are not counted, nor sums of positions and of what Qwen3-VL adds in first layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

from prumerge.roofline.hardware import Precision
from prumerge.roofline.shapes import LanguageShape, VisionShape

SOFTMAX = 5  # operations per score: largest, subtract, exponential, sum, divide
ROTARY = 3  # operations per value: two products and their sum
GELU = 5  # per value: multiply, exponential, add, divide, multiply (the sigmoid form); SwiGLU too
LAYER_NORM = 7  # per value: sum, subtract, square, sum, divide, multiply, add
RMS_NORM = 4  # per value: square, sum, divide, multiply


@dataclass(frozen=True)
class Convention:
    """What is counted, and how; every peculiarity of a tool is one field, the usual its default."""

    name: str  # what rows show
    everything: bool = True  # embedding, rotary positions and the last norm too
    # With FlashAttention, skip scores of later tokens. Without it the whole square is computed and
    # masked, under either convention.
    causal: bool = True
    flash_attention: bool = True  # may be asked for
    norm_operations: int = RMS_NORM  # per value
    activation_operations: int = 5  # per value of the gated activation
    activation_at_hidden: bool = False  # as wide as the hidden state, not the feed-forward layer
    residual_inputs: int = 2  # operands that a residual sum reads
    head_operations: int = 2  # per weight of the output projection; 2 is a multiply-add
    head_weight_bytes: float | None = None  # of one of its weights; None takes the precision's
    head_rows_count: bool = True  # hidden states and logits once per sequence, not once in all


CONVENTIONS = {
    "complete": Convention("complete"),
    # LLM-Viewer (github.com/hahnyuan/LLM-Viewer) as of commit d903231, 11 March 2024: what the
    # paper's efficiency table was made with. Its output projection has 1-byte weights at every
    # precision, which was mended a week later.
    "llm-viewer": Convention(
        "llm-viewer",
        everything=False,
        causal=False,
        flash_attention=False,
        norm_operations=7,
        activation_operations=2,
        activation_at_hidden=True,
        residual_inputs=1,
        head_operations=1,
        head_weight_bytes=1.0,
        head_rows_count=False,
    ),
}


def find_convention(convention: Convention | str, flash_attention: bool = False) -> Convention:
    """Return a convention by name, or the convention given."""
    if not isinstance(convention, Convention):
        if convention not in CONVENTIONS:
            raise ValueError(f"unknown convention {convention!r}: there are {[*CONVENTIONS]}")
        convention = CONVENTIONS[convention]
    if flash_attention and not convention.flash_attention:
        raise ValueError(
            f"convention {convention.name!r} has no FlashAttention: pass flash_attention=False "
            "or convention='complete'"
        )
    return convention


_KINDS = "weight activation_read activation_write cache_read cache_write".split()
MOVED = tuple(f"{kind}_bytes" for kind in _KINDS)


@dataclass(frozen=True)
class Operation:
    """One operation of a stage, for the whole batch; ``repeats`` is 1, or one per layer."""

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
        return sum(getattr(self, name) for name in MOVED)


def linear(
    name: str, inner: int, outer: int, rows: int, precision: Precision, cached: bool = False
) -> Operation:
    """Multiply ``rows`` vectors by a matrix; with ``cached`` the products go to the KV cache."""
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
    """Compute ``values`` numbers from ``inputs`` numbers each."""
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

    A language model reads keys and values from its cache, a vision tower from its activations. With
    ``flash`` scores are never in memory, without it they are written, read, written and read again.
    ``causal`` counts only the scores of a token with itself and earlier ones.
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
    """
    rows = batch * queries
    hidden = rows * shape.width
    causal = convention.causal and flash_attention
    layer = [
        linear("query", shape.width, shape.query_width, rows, precision),
        linear("key", shape.width, shape.key_width, rows, precision, cached=True),
        linear("value", shape.width, shape.key_width, rows, precision, cached=True),
        *attention(shape, queries, keys, batch, precision, flash=flash_attention, causal=causal),
        linear("attention_output", shape.query_width, shape.width, rows, precision),
    ]
    turned = rows * (shape.query_width + shape.key_width)
    rotary = elementwise("rotary", ROTARY, turned, precision)
    norm = elementwise("norms", convention.norm_operations, hidden, precision)
    residual = elementwise("residuals", 1, hidden, precision, convention.residual_inputs)
    return [
        *(replace(each, repeats=shape.layers) for each in layer),
        *_feeding(shape, rows, precision, convention),
        *([replace(rotary, repeats=shape.layers)] if convention.everything else []),
        replace(norm, repeats=2 * shape.layers + convention.everything),
        replace(residual, repeats=2 * shape.layers),
        *_ends(shape, rows, batch, precision, convention),
    ]


def _feeding(shape, rows, precision, convention) -> list[Operation]:
    """Feed-forward layers that every token passes, and those that are mixtures of experts."""
    how, dense = (rows, precision, convention), shape.dense_layers
    mixed = shape.layers - dense
    plain = _gated(shape, shape.inner_width, *how) if dense else []
    experts = _experts(shape, *how) if mixed else []
    return [
        *(replace(each, repeats=dense) for each in plain),
        *(replace(each, repeats=mixed) for each in experts),
    ]


def _gated(shape, inner, rows, precision, convention) -> list[Operation]:
    """A gated feed-forward layer, or an expert, of ``inner`` width."""
    wide = shape.width if convention.activation_at_hidden else inner
    return [
        linear("gate", shape.width, inner, rows, precision),
        linear("up", shape.width, inner, rows, precision),
        elementwise("activation", convention.activation_operations, rows * wide, precision, 2),
        linear("down", inner, shape.width, rows, precision),
    ]


def _experts(shape, rows, precision, convention) -> list[Operation]:
    """A mixture of experts: each token passes some, and the weights of all that any passes move."""
    if not convention.everything:
        raise ValueError(
            f"convention {convention.name!r} knows no mixture of experts: pass "
            "convention='complete'"
        )
    each, read = shape.experts_per_token, shape.experts_read(rows)
    passed = _gated(shape, shape.expert_width, rows * each, precision, convention)
    return [
        linear("router", shape.width, shape.experts, rows, precision),
        elementwise("routing", SOFTMAX, rows * shape.experts, precision),
        *(
            replace(part, name=f"expert_{part.name}", weight_bytes=read * part.weight_bytes)
            for part in passed
        ),
        elementwise("mixing", 2 * each, rows * shape.width, precision, each),
    ]


def layered_operations(
    shape: LanguageShape,
    tokens: Sequence[int],
    batch: int,
    precision: Precision,
    convention: Convention,
    flash_attention: bool,
) -> list[Operation]:
    """List the operations of a prefill whose layers read ``tokens`` of each prompt, one by one.

    The embedding reads as many as the first layer, norm and logits behind the layers as many as the
    last one.
    """

    def listed(layers: int, count: int, first: int = 0) -> list[Operation]:
        how = batch, precision, convention, flash_attention
        part = replace(shape, layers=layers, dense=tuple(number - first for number in shape.dense))
        return language_operations(part, count, count, *how)

    ends = {each.name: each.repeats for each in listed(0, tokens[-1]) if each.repeats}
    operations = [each for each in listed(0, tokens[0]) if each.name == "embedding"]
    operations += [e for e in listed(0, tokens[-1]) if e.name in ends and e.name != "embedding"]
    first = 0
    for count, layers in groupby(tokens):
        number = len(list(layers))
        for each in listed(number, count, first):
            repeats = each.repeats - ends.get(each.name, 0)
            if repeats:
                operations.append(replace(each, repeats=repeats))
        first += number
    return operations


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
    """List the operations from pixels to the features of a layer."""
    rows, hidden = pictures * shape.tokens, pictures * shape.tokens * shape.width
    norm = elementwise("norms", RMS_NORM if shape.rms else LAYER_NORM, hidden, precision)
    residual = elementwise("residuals", 1, hidden, precision, inputs=2)
    up = linear("up", shape.width, shape.inner_width, rows, precision)
    inner_products = [replace(up, name="gate"), up] if shape.gated else [up]
    read = [
        linear(name, shape.width, shape.width, rows, precision)
        for name in ("query", "key", "value")
    ]
    attended = [
        replace(each, repeats=repeats)
        for tokens, number, repeats in _attending(shape, layers)
        for each in attention(
            shape, tokens, tokens, pictures * number, precision, flash=flash_attention, causal=False
        )
    ]
    written = [
        linear("attention_output", shape.width, shape.width, rows, precision),
        *inner_products,
        elementwise("activation", GELU, rows * shape.inner_width, precision, len(inner_products)),
        linear("down", shape.inner_width, shape.width, rows, precision),
        *([elementwise("layer_scale", 1, 2 * hidden, precision)] if shape.layer_scale else []),
        *([elementwise("rotary", ROTARY, 2 * hidden, precision)] if shape.merger else []),
    ]
    patches = linear(
        "patch_embedding", shape.patch_values, shape.width, pictures * shape.patches, precision
    )
    further = shape.projectors if shape.merger else shape.norm_first
    return [
        patches,
        *(replace(each, repeats=layers) for each in read),
        *attended,
        *(replace(each, repeats=layers) for each in written),
        replace(norm, repeats=2 * layers + further),
        replace(residual, repeats=2 * layers),
    ]


def _attending(shape: VisionShape, layers: int) -> list[tuple[int, int, int]]:
    """Tokens that attend to each other, their groups in a picture, and the blocks that do so."""
    if not shape.window:
        return [(shape.tokens, 1, layers)]
    whole = sum(number < layers for number in shape.whole)
    cut = [((shape.window, n // shape.window), (n % shape.window, 1)) for n in shape.grid]
    windows = [(a * b, n * m, layers - whole) for (a, n), (b, m) in product(*cut)]
    found = [(shape.tokens, 1, whole), *windows]
    return [each for each in found if all(each)]


def projector_operations(
    vision: VisionShape, language: LanguageShape, tokens: int, precision: Precision
) -> list[Operation]:
    """List the operations of the projector: two linear layers, a GELU between.

    The norm in front of Qwen's counts as the tower's: it is of all patches, whatever is kept.
    """
    inner, outer = vision.width * vision.selected, language.width
    middle = inner if vision.merger else outer
    once = [
        linear("projector_in", inner, middle, tokens, precision),
        elementwise("projector_activation", GELU, tokens * middle, precision),
        linear("projector_out", middle, outer, tokens, precision),
    ]
    return [replace(each, repeats=vision.projectors) for each in once]
