"""A grid of cases on one model, as rows in a file that a stopped run goes on from."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prumerge.provenance import provenance
from prumerge.timing.grid import Grid
from prumerge.timing.peaks import measure_peaks
from prumerge.timing.stages import STAGES, Case, prompts
from prumerge.timing.subjects import Subject
from prumerge.timing.tables import KIND, read_file
from prumerge.timing.turns import ran_out_of_memory, time_in_turns

IDENTITY = [*KIND, "vision_layers", "torch", "transformers", "prumerge"]
"""Columns that say whether a case has been timed already; its output lengths count too."""


def time_grid(subject: Subject, grid: Grid, path: Path | None = None) -> pd.DataFrame:
    """Time every case of a grid, stage by stage, the budgets of a batch in turns.

    Args:
        subject: The model.
        grid: What is crossed.
        path: CSV file of rows. Cases found there are not timed again, unless an output length is
            missing or a version has changed: then all rows of the case are replaced. The file
            grows when a batch is done, so that a stopped run loses one batch at most.

    Returns:
        All rows of the file, or those timed where there is none. ``median_ms`` with quartiles
        and minimum, ``peak_mib`` a stage holds beyond what was there. Where memory runs out, that
        is said on stderr, the rows of the batch before it get the batch that did not fit as
        ``out_of_memory_at``, and the larger batches of that budget are left out, also next time.

    Raises:
        ValueError: If an attention implementation cannot run here.
    """
    for attention in grid.attention:
        subject.use_attention(attention)
    rows = read_file(path) if path is not None and path.exists() else pd.DataFrame()
    peaks: dict[str, float] = {}
    for attention in grid.attention:
        subject.use_attention(attention)
        fitting = grid.cases(subject.patches)
        for batch in grid.batch_sizes():
            cases = [dataclasses.replace(case, batch=batch) for case in fitting]
            constants = {case: parameters_of(subject, attention, case) for case in cases}
            cases = [case for case in cases if fits(rows, constants[case])]
            wanted = [case for case in cases if not is_timed(rows, constants[case], case)]
            if there := len(cases) - len(wanted):
                print(f"batch {batch}, {attention}: {there} cases are timed already", flush=True)
            if wanted:
                peaks = peaks or _peaks(subject)
                found = time_in_turns(subject, wanted, grid)
                rows = _add(rows, {c: constants[c] | peaks for c in wanted}, found)
                cases = [case for case in cases if found.get(case, True)]
                _keep(rows, path, [constants[c] for c in wanted if not found[c]])
            if not (fitting := cases):
                break
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


def same_rows(rows: pd.DataFrame, constant: dict[str, Any], columns: Sequence[str]) -> pd.Series:
    """Say for each row whether it agrees with a case in these columns."""
    same = pd.Series(True, index=rows.index)
    for name in columns:
        same &= rows[name] == constant[name]
    return same


def is_timed(rows: pd.DataFrame, constant: dict[str, Any], case: Case) -> bool:
    """Say whether rows hold a case with all its output lengths."""
    if rows.empty:
        return False
    whole = rows[same_rows(rows, constant, IDENTITY) & (rows["stage"] == STAGES[-1])]
    return set(case.new_tokens) <= set(whole["new_tokens"])


def fits(rows: pd.DataFrame, constant: dict[str, Any]) -> bool:
    """Say whether no smaller batch of the same kind, nor this one, ran out of memory before."""
    if rows.empty:
        return True
    same = same_rows(rows, constant, [name for name in IDENTITY if name != "batch"])
    return not (rows.loc[same, "out_of_memory_at"] <= constant["batch"]).any()


def _add(rows: pd.DataFrame, constants: dict[Case, dict], found: dict) -> pd.DataFrame:
    """Put new rows in the place of older ones of the same cases, and note where memory ended."""
    for case, stages in found.items():
        constant = constants[case]
        if stages:
            older = rows if rows.empty else rows[~same_rows(rows, constant, KIND)]
            fresh = [constant | {"out_of_memory_at": np.nan} | row for row in stages]
            rows = pd.concat([older, pd.DataFrame(fresh)], ignore_index=True)
        elif not rows.empty:
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    rows.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
    partial.replace(path)
