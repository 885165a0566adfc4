"""Cases timed in turns: each answers once, then each again, so that a drift meets all of them.

Timed one after another, what else a machine does in the meantime would look like an effect of the
budget.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from prumerge.timing.clock import Spread, elapsed_ms, peak_mib
from prumerge.timing.grid import Grid
from prumerge.timing.stages import Answering, Case
from prumerge.timing.subjects import Subject

Observe = Callable[[str, int | None, Callable[[], Any]], Any]
"""Gets a stage's name, its output length where it matters, and its call; returns what it gives."""
Found = dict[tuple[str, int | None], list[float]]
"""What was measured, by stage and output length."""


@torch.no_grad()
def answer_in_stages(
    answering: Answering, observe: Observe, new_tokens: Sequence[int] | None = None
) -> None:
    """Answer once, stage by stage, each stage going on from what the one before it gave.

    Args:
        answering: Model and case.
        observe: Called for each of ``timing.stages.STAGES``. Whatever it measures, it calls the
            stage's call once and returns the result.
        new_tokens: Output lengths; None takes the case's.
    """
    new_tokens = new_tokens or answering.case.new_tokens
    pixels = observe("preprocess", None, answering.preprocess)
    made = observe("encode", None, partial(answering.encode, pixels))
    if answering.method is not None:
        made = observe("reduce", None, partial(answering.method, made))
    state = observe("prefill", None, partial(answering.prefill, made))
    for length in new_tokens:
        if length > 1:
            observe("decode", length, partial(answering.decode, state, length))
    del pixels, made, state  # they would stand beside those of the whole answer
    for length in new_tokens:
        observe("whole", length, partial(answering.whole, length))


def time_in_turns(
    subject: Subject, cases: Sequence[Case], grid: Grid
) -> dict[Case, list[dict[str, Any]] | None]:
    """Time the stages of cases of one batch.

    Args:
        subject: The model.
        cases: What is asked; each answers once untimed for every warm-up, then once for every
            repeat, then once for every output length to see what it holds: the cache keeps room
            for tokens decoded before, in which others would seem to take no memory.
        grid: How often.

    Returns:
        For each case a row per stage, with what was measured; None where memory ran out, which
        ends the case's turns and no other's.
    """
    times: dict[Case, Found] = {case: {} for case in cases}
    held: dict[Case, Found] = {case: {} for case in cases}
    clock, scales = (partial(call, device=subject.device) for call in (elapsed_ms, peak_mib))
    rounds = [(None, times, None)] * grid.warm_ups + [(clock, times, None)] * grid.repeats
    rounds += [(scales, held, (length,)) for length in grid.new_tokens if grid.memory]
    answering: dict[Case, Answering] = {}
    told = f"batch {cases[0].batch}"
    for (measured, found, lengths), case in tqdm(
        list(itertools.product(rounds, cases)), told, unit=" answers"
    ):
        if case in times:
            try:
                if case not in answering:
                    answering[case] = Answering(subject, case)
                answer_in_stages(answering[case], _observer(measured, found[case]), lengths)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                del times[case]
    return {case: _rows(times[case], held[case]) if case in times else None for case in cases}


def _observer(measured: Callable[..., float] | None, found: Found) -> Observe:
    """Return what watches a stage, and notes what is measured; None measures nothing."""
    if measured is None:
        return lambda stage, new_tokens, call: call()

    def observe(stage: str, new_tokens: int | None, call: Callable[[], Any]) -> Any:
        given = []
        value = measured(lambda: given.append(call()))
        found.setdefault((stage, new_tokens), []).append(value)
        return given.pop()

    return observe


def _rows(times: Found, held: Found) -> list[dict[str, Any]]:
    """Make a row of each stage."""
    return [
        {"stage": stage, "new_tokens": new_tokens, **dataclasses.asdict(Spread.of(times_ms))}
        | {"peak_mib": max(held.get((stage, new_tokens), [None]))}
        for (stage, new_tokens), times_ms in times.items()
    ]


def ran_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that a tensor did not fit, on a GPU or on a CPU."""
    told = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in told
