"""A grid of cases on one model, as rows in a file that a stopped run goes on from."""

import dataclasses
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prumerge.limits import suggestion
from prumerge.methods import names
from prumerge.provenance import provenance
from prumerge.timing.clock import measure, peak_mib
from prumerge.timing.peaks import measure_peaks
from prumerge.timing.stages import FULL, STAGES, Case, prompts, stages
from prumerge.timing.subjects import Subject

IDENTITY = (
    "model weights layers vision_layers dtype attention method budget batch text_tokens "
    "device torch transformers prumerge"
).split()
"""Columns that say whether a case has been timed already; its output lengths count too."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cases to time: budgets, batches and attention implementations crossed with one another.

    Args:
        method: What reduces where the budget is smaller than the picture.
        budgets: Visual tokens per picture. At least as many as the picture has: the stock model.
        batches: Prompts answered together.
        new_tokens: Output lengths.
        attention: Implementations: ``sdpa``, ``eager``, ``flash_attention_2`` (CUDA).
        text_tokens: Text tokens of a prompt.
        repeats: Timed calls of each stage.
        warm_ups: Untimed calls before them.
        memory: Whether each stage is called once more to see what it holds.

    Raises:
        ValueError: If a list is empty, a number is below 1, or the method is unknown.
    """

    method: str = "prumerge+"
    budgets: tuple[int, ...] = (576, 144, 64, 32)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    new_tokens: tuple[int, ...] = (8, 64)
    attention: tuple[str, ...] = ("sdpa",)
    text_tokens: int = 40
    repeats: int = 5
    warm_ups: int = 1
    memory: bool = True

    def __post_init__(self) -> None:
        for name in ("budgets", "batches", "new_tokens"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {list(values)}")
        if not self.attention:
            raise ValueError("attention must name at least one implementation, such as sdpa")
        if self.method not in names():
            raise ValueError(f"unknown method {self.method!r}: {suggestion(self.method, names())}")
        for name in ("text_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def cases(self, patches: int) -> Iterator[tuple[str, Case]]:
        """Cross everything: all batches of one kind in a row, small ones first."""
        for attention, budget, batch in product(
            self.attention, dict.fromkeys(min(budget, patches) for budget in self.budgets),
            sorted(self.batches),
        ):  # fmt: skip
            method, budget = (FULL, None) if budget == patches else (self.method, budget)
            yield attention, Case(method, budget, batch, self.text_tokens, self.new_tokens)


def time_grid(subject: Subject, grid: Grid, path: Path | None = None) -> pd.DataFrame:
    """Time every case of a grid, stage by stage.

    Args:
        subject: The model.
        grid: What is crossed.
        path: CSV file of rows. Cases found there are not timed again; each new case is added
            when all of its stages are timed, so that a stopped run loses one case at most.

    Returns:
        All rows of the file, or those timed where there is none. ``median_ms`` with quartiles
        and minimum, ``peak_mib`` a stage holds beyond what was there, ``visual_tokens`` sent per
        picture. Where memory runs out at a batch, that is said on stderr and the larger batches
        of the same kind are left out; the rows before it stay.

    Raises:
        ValueError: If an attention implementation cannot run here.
    """
    for attention in grid.attention:
        subject.use_attention(attention)
    rows = pd.read_csv(path) if path is not None and path.exists() else pd.DataFrame()
    too_large: dict[tuple, int] = {}
    peaks: dict[str, float] = {}
    for attention, case in grid.cases(subject.patches):
        kind = (attention, case.budget)
        if case.batch > too_large.get(kind, case.batch):
            continue
        constant = parameters_of(subject, attention, case)
        if is_timed(rows, constant, case):
            continue
        subject.use_attention(attention)
        peaks = peaks or measure_peaks(subject.device, subject.model.dtype)
        try:
            fresh = time_case(subject, case, grid, constant | peaks)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            too_large[kind] = case.batch
            _tell(subject, case, attention, path)
            continue
        rows = pd.concat([rows, pd.DataFrame(fresh)], ignore_index=True)
        if path is not None:
            write_rows(rows, path)
    return rows


def time_case(
    subject: Subject, case: Case, grid: Grid, constant: dict[str, Any]
) -> list[dict[str, Any]]:
    """Time the stages of one case; return a row for each."""
    rows = []
    for stage, new_tokens, call in stages(subject, case):
        spread = measure(call, subject.device, grid.repeats, grid.warm_ups)
        found = {"stage": stage, "new_tokens": new_tokens, **dataclasses.asdict(spread)}
        held = peak_mib(call, subject.device) if grid.memory else None
        rows.append(constant | found | {"peak_mib": held})
    return rows


def parameters_of(subject: Subject, attention: str, case: Case) -> dict[str, Any]:
    """Return the columns that all rows of a case share."""
    tokens = subject.patches if case.budget is None else case.budget
    return {
        "model": subject.name,
        "weights": subject.weights,
        "layers": subject.model.config.text_config.num_hidden_layers,
        "vision_layers": subject.model.config.vision_config.num_hidden_layers,
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "attention": attention,
        "method": case.method,
        "budget": tokens,
        "batch": case.batch,
        "text_tokens": case.text_tokens,
        "prompt_tokens": prompts(subject, case).shape[1] - subject.patches + tokens,
        **provenance(subject.device),
    }


def is_timed(rows: pd.DataFrame, constant: dict[str, Any], case: Case) -> bool:
    """Say whether rows hold a case with all its output lengths."""
    if rows.empty:
        return False
    same = pd.concat([rows[name] == constant[name] for name in IDENTITY], axis=1).all(axis=1)
    whole = rows[same & (rows["stage"] == STAGES[-1])]
    return set(case.new_tokens) <= set(whole["new_tokens"])


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write rows to a CSV file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    rows.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
    partial.replace(path)


def ran_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that a tensor did not fit, on a GPU or on a CPU."""
    told = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in told


def _tell(subject: Subject, case: Case, attention: str, path: Path | None) -> None:
    if subject.device.startswith("cuda"):
        torch.cuda.empty_cache()
    tokens = subject.patches if case.budget is None else case.budget
    kept = f"the rows before it are in {path}" if path is not None else "the rows before it stay"
    print(
        f"out of memory: batch {case.batch} with {tokens} visual tokens ({attention}) does not fit "
        f"{subject.device}; larger batches are left out, {kept}",
        file=sys.stderr,
    )
