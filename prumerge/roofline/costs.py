"""Stages as tidy rows: what a prompt costs on a card."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from prumerge.roofline.arguments import check_counts, several
from prumerge.roofline.configs import read_shape
from prumerge.roofline.conventions import Convention, find_convention
from prumerge.roofline.hardware import Hardware, Precision, find_hardware, find_precision
from prumerge.roofline.operations import Operation
from prumerge.roofline.shapes import ModelShape
from prumerge.roofline.stages import language_operations, projector_operations, vision_operations
from prumerge.roofline.times import summed, timed


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
        names = (self.shape.name, self.card.name, self.precision.name, self.convention.name)
        row = dict(zip(("model", "hardware", "precision", "convention"), names, strict=True))
        for field in ("flash_attention", "batch", "prompt_tokens", "visual_tokens"):
            row[field] = getattr(self, field)
        return row

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
    new_tokens: int = 1,
    vision_layers: int | None = None,
    convention: Convention | str = "complete",
) -> pd.DataFrame:
    """Estimate every stage of answering a batch of equal prompts.

    Arguments that may be sequences are crossed with one another.

    Args:
        model: What :func:`read_shape` takes: ``7b``, ``13b``, a folder, a hub id, a config.
        prompt_tokens: Tokens of one prompt, visual tokens included.
        hardware: Card by name, or one with figures of your own.
        precision: ``fp16``, ``int8``, ``int4`` (weights, activations and cache alike), ``w4a16``
            (weights alone), or bits of your own.
        batch: Prompts answered together. Weights are read once for all of them.
        flash_attention: Whether scores stay out of memory.
        text_tokens: How many of the prompt's tokens are text; the rest are visual tokens, which
            pass the projector. None leaves vision tower and projector out.
        pictures: Pictures per prompt that the vision tower encodes, whatever is kept of them.
        new_tokens: Tokens generated. Prefill gives the first, each further one takes a decoding
            step, so 1 has no row for decode.
        vision_layers: Blocks of the vision tower that run; None runs all, as transformers does.
        convention: ``complete``, or ``llm-viewer`` for what the paper's tool counts.

    Returns:
        One row per combination and stage: ``operations`` (a multiply-add is two), bytes by kind,
        ``traffic_bytes``, ``time_ms``, and ``compute_bound_share``, the part of that time spent
        in operations that wait for arithmetic and not for memory.

    Raises:
        ValueError: If a name is unknown, a count is below 1, the text is longer than the prompt,
            or a picture is asked of a model without vision tower.

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
        for stage, operations in _stages(case, pictures, new_tokens, vision_layers):
            row = case.columns() | {"new_tokens": new_tokens, "stage": stage}
            rows.append(row | summed(operations, case.card, case.precision))
    return pd.DataFrame(rows)


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
    """List the operations of the language model one by one.

    Args:
        model: See :func:`estimate_costs`.
        prompt_tokens: See :func:`estimate_costs`.
        hardware: See :func:`estimate_costs`.
        precision: See :func:`estimate_costs`.
        batch: See :func:`estimate_costs`.
        flash_attention: See :func:`estimate_costs`.
        stage: ``prefill``, or ``decode`` for the first step after the prompt.
        convention: See :func:`estimate_costs`.

    Returns:
        One row per operation, all layers together, with the columns of
        :func:`prumerge.roofline.times.timed`.

    Raises:
        ValueError: As :func:`estimate_costs`, and if the stage is unknown.
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
        raise ValueError(
            f"text_tokens={text_tokens} in a prompt of {tokens} tokens; it must be 0 to {tokens}"
        )
    if visual_tokens and shape.vision is None:
        raise ValueError(
            f"{shape.name} has no vision tower; leave text_tokens out, or name a LLaVA"
        )
    return _Case(
        shape,
        find_hardware(hardware),
        find_precision(precision),
        find_convention(convention, flash_attention),
        bool(flash_attention),
        int(batch),
        int(tokens),
        int(visual_tokens),
    )


def _stages(
    case: _Case, pictures: int, new_tokens: int, vision_layers: int | None
) -> Iterator[tuple[str, list[Operation]]]:
    vision, tokens = case.shape.vision, case.prompt_tokens
    if case.visual_tokens:
        layers = vision.layers if vision_layers is None else vision_layers
        if not 1 <= layers <= vision.layers:
            raise ValueError(f"vision_layers must be 1 to {vision.layers}, got {vision_layers}")
        encoded, how = pictures * case.batch, (case.precision, case.flash_attention)
        yield "vision_tower", vision_operations(vision, encoded, *how, layers)
        projected = case.visual_tokens * case.batch
        language = case.shape.language
        yield "projector", projector_operations(vision, language, projected, case.precision)
    yield "prefill", case.language(tokens, tokens)
    if new_tokens > 1:
        steps = [case.language(1, tokens + step) for step in range(1, new_tokens)]
        yield "decode", [operation for step in steps for operation in step]
