"""A grid of cases on one model, timed in turns, as rows in a file that a stopped run goes on from.

Of a batch each case answers once, then each again: timed one after another, what else a machine
does in the meantime would look like an effect of the budget.
"""

import dataclasses
import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from prumerge.experiments.rows import provenance, write_csv
from prumerge.experiments.timing.clock import Spread, elapsed_ms, peak_mib
from prumerge.experiments.timing.peaks import measure_peaks
from prumerge.experiments.timing.stages import (
    FULL,
    STAGES,
    Answering,
    Case,
    Subject,
    answering_of,
)
from prumerge.experiments.timing.tables import KIND, read_file
from prumerge.methods import names
from prumerge.settings import suggestion

IDENTITY = [*KIND, "vision_layers", "torch", "transformers", "prumerge"]
"""Columns that say whether a case has been timed already; its output lengths count too."""
NOTED = ["stage", "new_tokens", "out_of_memory_at"]
"""Columns beside them by which rows are looked up, and so there from the first."""

Observe = Callable[[str, int | None, Callable[[], Any]], Any]
"""Gets a stage's name, its output length where it matters, and its call; returns what it gives."""
Found = defaultdict[tuple[str, int | None], list[float]]
"""What was measured, by stage and output length."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cases to time: budgets, batches and implementations of attention crossed with one another.

    ``budgets`` are visual tokens per picture; as many as it has or more is the stock model.
    ``attention`` is ``sdpa``, ``eager`` or ``flash_attention_2`` (CUDA). ``text_tokens`` count the
    opening one. ``pictures`` stand in each prompt, ``budgets`` being of one of them. ``memory``
    calls each stage first to see what it holds, in place of ``warm_ups``. A case is not repeated
    any more once its repeats took ``most_s`` seconds. ``until_full`` doubles the largest batch
    until memory runs out, for each budget by itself: meant for a GPU, since a CPU's system may end
    the process instead of saying no.
    """

    method: str = "prumerge+"
    budgets: tuple[int, ...] = (576, 144, 64, 32)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    new_tokens: tuple[int, ...] = (8, 64)
    attention: tuple[str, ...] = ("sdpa",)
    text_tokens: int = 40
    pictures: int = 1
    repeats: int = 5
    most_s: float = math.inf
    warm_ups: int = 1
    memory: bool = True
    until_full: bool = False

    def __post_init__(self) -> None:
        for name in ("budgets", "batches", "new_tokens"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {list(values)}")
        if not self.attention:
            raise ValueError("attention must name at least one implementation, such as sdpa")
        if self.method not in names():
            raise ValueError(f"unknown method {self.method!r}: {suggestion(self.method, names())}")
        for name in ("text_tokens", "pictures", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def batch_sizes(self) -> Iterator[int]:
        """Yield the batches, small ones first; with ``until_full`` doubled without end.

        Example:
            >>> from itertools import islice
            >>> list(islice(Grid(batches=(4, 1), until_full=True).batch_sizes(), 4))
            [1, 4, 8, 16]
        """
        yield from sorted(set(self.batches))
        batch = max(self.batches)
        while self.until_full:
            batch *= 2
            yield batch

    def cases(self, patches: int) -> list[Case]:
        """Return a case of one prompt for each budget, in their order; the stock model once."""
        budgets = dict.fromkeys(min(budget, patches) for budget in self.budgets)
        how = {name: getattr(self, name) for name in ("text_tokens", "new_tokens", "pictures")}
        return [
            Case(**how) if budget == patches else Case(self.method, budget, **how)
            for budget in budgets
        ]


def time_grid(subject: Subject, grid: Grid, path: Path | None = None) -> pd.DataFrame:
    """Time every case of a grid, stage by stage, the budgets of a batch in turns; return all rows.

    Cases in the CSV file ``path`` are not timed again, unless an output length is missing or a
    version has changed: then all rows of the case are replaced. The file grows when a batch is
    done. ``peak_mib`` is beyond what was there. Where memory runs out, the rows of the batch before
    it get the batch that did not fit as ``out_of_memory_at``, and the larger batches of that budget
    are left out, also next time. ValueError tells if an attention implementation cannot run here.
    """
    for attention in grid.attention:
        subject.use_attention(attention)
    there = path is not None and path.exists()
    rows = read_file(path) if there else pd.DataFrame(columns=[*IDENTITY, *NOTED])
    peaks: dict[str, float] = {}
    for attention in grid.attention:
        subject.use_attention(attention)
        fitting = grid.cases(subject.patches)
        for batch in grid.batch_sizes():
            cases = [dataclasses.replace(case, batch=batch) for case in fitting]
            constants = {case: parameters_of(subject, attention, case) for case in cases}
            cases = [case for case in cases if fits(rows, constants[case])]
            wanted = [case for case in cases if not is_timed(rows, constants[case], case)]
            if done := len(cases) - len(wanted):
                print(f"batch {batch}, {attention}: {done} cases are timed already", flush=True)
            if wanted:
                peaks = peaks or _peaks(subject)
                found = time_in_turns(subject, wanted, grid)
                rows = _add(rows, {c: constants[c] | peaks for c in wanted}, found)
                cases = [case for case in cases if found.get(case, True)]
                _keep(rows, path, [constants[c] for c in wanted if not found[c]])
            if not (fitting := cases):
                break
    return rows


@torch.no_grad()
def answer_in_stages(
    answering: Answering, observe: Observe, new_tokens: Sequence[int] | None = None
) -> None:
    """Answer once: ``observe`` gets each stage as a call, calls it once and returns its result."""
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
    """Time cases of one batch: for each a row per stage, or None where memory ran out.

    What a stage holds is asked for each output length by itself: the cache keeps room for tokens
    decoded before, in which others would seem to take no memory.
    """
    warm, times, held = ({case: defaultdict(list) for case in cases} for _ in range(3))
    clock, scales = (partial(call, device=subject.device) for call in (elapsed_ms, peak_mib))
    rounds = [(scales, held, (length,)) for length in grid.new_tokens if grid.memory]
    rounds = rounds or [(clock, warm, None)] * grid.warm_ups
    rounds += [(clock, times, None)] * grid.repeats
    answering: dict[Case, Answering] = {}
    told = f"batch {cases[0].batch}"
    for (measured, found, lengths), case in tqdm(
        list(itertools.product(rounds, cases)), told, unit=" answers"
    ):
        spent_s = sum(map(sum, times.get(case, {}).values())) / 1e3
        if case in times and (found is not times or spent_s < grid.most_s):
            try:
                if case not in answering:
                    answering[case] = answering_of(subject, case)
                answer_in_stages(answering[case], _observer(measured, found[case]), lengths)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                del times[case]
    return {case: _rows(times[case], held[case]) if case in times else None for case in cases}


def _observer(measured: Callable[..., float], found: Found) -> Observe:
    """Return what watches a stage, and notes what is measured."""

    def observe(stage: str, new_tokens: int | None, call: Callable[[], Any]) -> Any:
        given = []
        found[stage, new_tokens].append(measured(lambda: given.append(call())))
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


def parameters_of(subject: Subject, attention: str, case: Case) -> dict[str, Any]:
    """Return the columns that all rows of a case share."""
    tokens = subject.patches if case.budget is None else case.budget
    slots = subject.shown.slots if case.method == FULL else tokens
    vision = subject.model.config.vision_config
    return {
        "model": subject.name,
        "weights": subject.weights,
        "layers": subject.model.config.text_config.num_hidden_layers,
        "vision_layers": getattr(vision, "num_hidden_layers", getattr(vision, "depth", None)),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "attention": attention,
        "method": case.method,
        "budget": tokens,
        "batch": case.batch,
        "text_tokens": case.text_tokens,
        "pictures": case.pictures,
        "prompt_tokens": case.text_tokens + case.pictures * slots,
        **provenance(subject.device),
    }


def same_rows(rows: pd.DataFrame, constant: dict[str, Any], columns: Sequence[str]) -> np.ndarray:
    """Say for each row whether it agrees with a case in these columns."""
    return np.logical_and.reduce([rows[name] == constant[name] for name in columns])


def is_timed(rows: pd.DataFrame, constant: dict[str, Any], case: Case) -> bool:
    """Say whether rows hold a case with all its output lengths."""
    whole = rows[same_rows(rows, constant, IDENTITY) & (rows["stage"] == STAGES[-1])]
    return set(case.new_tokens) <= set(whole["new_tokens"])


def fits(rows: pd.DataFrame, constant: dict[str, Any]) -> bool:
    """Say whether no smaller batch of the same kind, nor this one, ran out of memory before."""
    same = same_rows(rows, constant, [name for name in IDENTITY if name != "batch"])
    return not (rows.loc[same, "out_of_memory_at"] <= constant["batch"]).any()


def _add(rows: pd.DataFrame, constants: dict[Case, dict], found: dict) -> pd.DataFrame:
    """Put new rows in the place of older ones of the same cases, and note where memory ended."""
    for case, stages in found.items():
        constant = constants[case]
        if stages:
            older = rows[~same_rows(rows, constant, KIND)]
            fresh = pd.DataFrame([constant | {"out_of_memory_at": np.nan} | row for row in stages])
            rows = pd.concat([older, fresh], ignore_index=True) if len(older) else fresh
        else:
            kind = same_rows(rows, constant, [name for name in KIND if name != "batch"])
            smaller = kind & (rows["batch"] < constant["batch"])
            last = smaller & (rows["batch"] == rows.loc[smaller, "batch"].max())
            rows.loc[last, "out_of_memory_at"] = constant["batch"]
    return rows


def _keep(rows: pd.DataFrame, path: Path | None, too_large: list[dict[str, Any]]) -> None:
    """Write the rows, and tell which cases did not fit."""
    if path is not None and not rows.empty:
        write_rows(rows, path)
    kept = f"the rows before it are in {path}" if path is not None else "the rows before it stay"
    for case in too_large:
        print(
            f"out of memory: batch {case['batch']} with {case['budget']} visual tokens "
            f"({case['attention']}) does not fit {case['device']}; larger batches are left out, "
            f"{kept}",
            file=sys.stderr,
        )


def _peaks(subject: Subject) -> dict[str, float]:
    """Measure the device's peaks; NaN where what the model leaves is too small for that."""
    try:
        return measure_peaks(subject.device, subject.model.dtype)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
    print("out of memory: peaks are not measured, so rows have no roofline", file=sys.stderr)
    return {"peak_gflop_per_s": np.nan, "bandwidth_gb_per_s": np.nan}


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write rows to a CSV file, complete or not at all."""
    write_csv(rows, path, float_format="%.6g")
