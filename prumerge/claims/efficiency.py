"""Table 2: what fewer tokens save on paper, rebuilt, and what was measured beside it."""

from functools import partial

import pandas as pd

from prumerge import roofline
from prumerge.claims.judging import (
    FAILS,
    HOLDS,
    PART,
    Cell,
    Claim,
    Evidence,
    Finding,
    Missing,
    all_or_some,
    at_most,
    computed,
    model_name,
    pair,
)
from prumerge.experiments.printed import reads_as
from prumerge.experiments.timing.stages import FULL
from prumerge.experiments.timing.tables import STATED

GROUP = "Table 2"
FILE = "table_2_efficiency"
REBUILT = (700, 70)
"""Prompt tokens at which the table comes out; notebook 07 tries every length."""

COLUMNS = ("operations", "prefill time", "total memory", "storing activation")
UNITS = dict(zip(COLUMNS, ("T", "ms", "GB", "GB"), strict=True))
MODELS = ("7B FP16", "7B INT4", "13B FP16", "13B INT4")


def tool(model: str, tokens: tuple[int, int]) -> pd.DataFrame:
    """Return what the paper's tool gives for a full and a reduced prompt, in the table's units.

    ``model`` is the table's word, such as ``7B INT4``; it divides INT4's operations by 4.
    """
    name, precision = model.lower().split()
    rows = roofline.estimate_costs(name, tokens, "V100", precision, convention="llm-viewer")
    columns = rows[["operations", "time_ms", "traffic_bytes", "activation_write_bytes"]]
    units = [4e12 if precision == "int4" else 1e12, 1, 1e9, 1e9]
    return columns.div(units).set_axis(COLUMNS, axis=1)


def cells(model: str, column: str) -> tuple[Cell, Cell]:
    """Name the printed numbers for all tokens and for few."""
    return pair(FILE, model, f"{model} + PruMerge", column)


def as_printed(model: str, column: str, tokens: tuple[int, int]) -> list[bool]:
    """Say for all tokens and for few whether the tool gives what is printed."""
    rows = zip(tool(model, tokens)[column], cells(model, column), strict=True)
    return [reads_as(value, cell.read()["printed"]) for value, cell in rows]


def saved(model: str, column: str, evidence: Evidence) -> Finding:
    """Judge a pair of cells: right at the lengths stated, at others, or at none."""
    right, elsewhere = (all(as_printed(model, column, each)) for each in (STATED, REBUILT))
    full, few = tool(model, STATED)[column]
    ratio = float(full / few)
    verdict = HOLDS if right else PART if elsewhere else FAILS
    found = f"{full:.3g} / {few:.3g} = {ratio:.1f} at the lengths stated; "
    found += "both as printed at {} and {}" if elsewhere else "not both at {} and {}"
    return computed(verdict, found.format(*REBUILT), ratio)


def lengths(evidence: Evidence) -> Finding:
    """Count the cells that come out at the lengths stated, and at those that fit."""
    cases = [(model, column) for model in MODELS for column in COLUMNS]
    counts = {
        tokens: sum(sum(as_printed(*case, tokens)) for case in cases)
        for tokens in (STATED, REBUILT)
    }
    found = "; ".join(f"{right} of 32 cells at {a} and {b}" for (a, b), right in counts.items())
    share = counts[STATED] / max(counts.values())
    return computed(at_most(-share, -1, -0.5), found)


def memory(evidence: Evidence) -> Finding:
    """Compare the column with what must be in memory at once."""
    full, few = roofline.estimate_memory("7b", STATED)["footprint_bytes"] / 1e9
    ratio = float(full / few)
    found = f"{full:.1f} and {few:.1f} GB are needed ({ratio:.2f} times); "
    found += "the column is bytes moved"
    return computed(at_most(-ratio, -1.6, -1.3), found, ratio)


def int4(evidence: Evidence) -> Finding:
    """Look whether INT4 is slower for the full prompt, which is what the table says."""
    half, quarter = (tool(name, STATED)["prefill time"].iloc[0] for name in ("7B FP16", "7B INT4"))
    found = f"{quarter:.0f} and {half:.0f} ms at {STATED[0]} tokens: in the tool INT4 has "
    found += "the INT8 peak, which is lower than FP16's there"
    return computed(all_or_some(int(quarter > half), 1), found, float(quarter / half))


def slip(evidence: Evidence) -> Finding:
    """Compare the cell with a quarter of the FP16 cell, as in the other rows of INT4."""
    fp16, int4, activation = (
        Cell(FILE, f"7B {precision} + PruMerge", column)
        for precision, column in (("FP16", COLUMNS[0]), ("INT4", COLUMNS[0]), ("FP16", COLUMNS[3]))
    )
    quarter, printed = fp16.value / 4, int4.read()["printed"]
    found = f"a quarter of FP16's is {quarter:.2f}; "
    found += f"FP16's activation cell reads {activation.read()['printed']}"
    return computed(all_or_some(int(reads_as(quarter, printed)), 1), found, quarter / int4.value)


def measured(stage: str, evidence: Evidence) -> Finding:
    """Compare the time measured with all tokens and with the fewest with the prefill printed."""
    rows = evidence.table("timing", "*", "make timing")
    rows = rows[(rows["stage"] == stage) & (rows["attention"] == "sdpa")]
    case = ["model", "device", "batch"]
    longest = rows["new_tokens"].isna() | rows["new_tokens"].eq(
        rows.groupby(case)["new_tokens"].transform("max")
    )
    times = rows[longest].pivot_table("median_ms", case, "budget")
    full = rows[rows["method"] == FULL]["budget"].max()
    if full not in times or len(times.columns) < 2:
        raise Missing("no rows of all and of few tokens yet: make timing")
    fewest = times.drop(columns=full).bfill(axis=1).iloc[:, 0]
    ratios = (times[full] / fewest).dropna().rename(index=model_name, level="model")
    found = "; ".join(
        f"{name}, {device.split(' (')[0]}: {own.min():.1f} to {own.max():.1f}"
        for (name, device), own in ratios.groupby(level=["model", "device"], sort=False)
    )
    printed = _TIME[0].value / _TIME[1].value
    verdicts = [at_most(-ratio, -0.8 * printed, -1.2) for ratio in ratios]
    verdict = verdicts[0] if len(set(verdicts)) == 1 else PART
    models = ratios.index.unique("model")
    return Finding(verdict, f"{found} times, over the batches", " and ".join(models))


_TIME = cells("7B FP16", "prefill time")
CLAIMS = (
    *(
        Claim(f"2-{model.replace(' ', '-')}-{column.split()[0]}", GROUP,
              f"{model}: {column} {'fall' if column == 'operations' else 'falls'} as printed.",
              "Table 2", partial(saved, model, column), cells(model, column),
              f"{{}} to {{}} {UNITS[column]}")
        for model in MODELS
        for column in COLUMNS
    ),
    Claim("2-lengths", GROUP, "Prompts have 576 + 40 tokens, reduced to about 40 + 40.",
          "text of Table 2", lengths, (), f"{STATED[0]} and {STATED[1]}"),
    Claim("2-memory", GROUP, "The memory needed falls as much as this column.",
          "Table 2, 7B FP16", memory, cells("7B FP16", "total memory"), "{} to {} GB"),
    Claim("2-int4-slower", GROUP, "INT4 takes longer than FP16 for the full prompt.", "Table 2, 7B",
          int4, (Cell(FILE, "7B INT4", "prefill time"), _TIME[0]), "{} against {} ms"),
    Claim("2-slip", GROUP, "7B INT4 with PruMerge needs this many operations.", "Table 2", slip,
          (Cell(FILE, "7B INT4 + PruMerge", "operations"),), "{} T"),
    Claim("2-measured-prefill", GROUP, "Prefill is faster on a machine, not only on paper.",
          "Table 2, 7B FP16", partial(measured, "prefill"), _TIME, "{} to {} ms"),
    Claim("2-measured-answer", GROUP, "A whole answer is faster by as much.",
          "Table 2, not counted", partial(measured, "whole"), _TIME, "{} to {} ms"),
)  # fmt: skip
