"""Table 2: what fewer tokens save on paper, rebuilt, and what was measured beside it."""

from functools import partial

import pandas as pd

from prumerge import roofline
from prumerge.claims.evidence import Evidence, Missing, model_name
from prumerge.claims.judging import COST, FAILS, HOLDS, OURS, PART, Cell, Claim, Finding, pair
from prumerge.claims.rules import all_or_some, at_most, computed
from prumerge.experiments.printed import reads_as
from prumerge.experiments.timing.stages import FULL
from prumerge.experiments.timing.tables import STATED

FILE = "table_2_efficiency"
THREADS = "https://github.com/42Shawn/LLaVA-PruMerge/issues"
"""Where users of the release ask."""

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


CASES = tuple((model, column) for model in MODELS for column in COLUMNS)


def saved() -> pd.DataFrame:
    """Return each pair of cells, a row by ``model`` and ``column``, beside the tool's numbers.

    ``printed_full``, ``printed_few`` and ``printed_ratio`` are the table's; ``full``, ``few`` and
    ``ratio`` the tool's at the lengths stated. ``stated`` and ``rebuilt`` say whether both numbers
    of a pair come out at those lengths, and at :data:`REBUILT`.
    """
    rows = []
    for case in CASES:
        first, second = (cell.value for cell in cells(*case))
        full, few = tool(case[0], STATED)[case[1]]
        right = [all(as_printed(*case, tokens)) for tokens in (STATED, REBUILT)]
        rows.append((*case, first, second, first / second, full, few, full / few, *right))
    names = ["model", "column", "printed_full", "printed_few", "printed_ratio"]
    names += ["full", "few", "ratio", "stated", "rebuilt"]
    return pd.DataFrame(rows, columns=names).set_index(["model", "column"])


def falls_as_printed(evidence: Evidence) -> Finding:
    """Count pairs of cells that come out at the lengths stated; others can make it hold in part."""
    table = saved()
    stated, rebuilt = int(table["stated"].sum()), int(table["rebuilt"].sum())
    verdict = HOLDS if stated == len(table) else PART if stated or rebuilt else FAILS
    less = (table["ratio"] < table["printed_ratio"]).sum()
    found = f"{stated} of {len(table)} pairs come out at the lengths stated, {rebuilt} at "
    found += f"{REBUILT[0]} and {REBUILT[1]}; as stated {less} save less than printed"
    return computed(verdict, found)


def lengths(evidence: Evidence) -> Finding:
    """Count the cells that come out at the lengths stated, and at those that fit."""
    counts = {
        tokens: sum(sum(as_printed(*case, tokens)) for case in CASES)
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
    Claim("2-cells", COST, "Operations, prefill time and the two columns of bytes fall as printed.",
          "Table 2", falls_as_printed, tuple(cell for case in CASES for cell in cells(*case)),
          "; ".join(f"{model}: " + ", ".join(f"{{}} to {{}} {UNITS[column]}" for column in COLUMNS)
                    for model in MODELS)),
    Claim("2-lengths", COST, "Prompts have 576 + 40 tokens, reduced to about 40 + 40.",
          f"text of Table 2, asked about in {THREADS}/4", lengths, (),
          f"{STATED[0]} and {STATED[1]}"),
    Claim("2-memory", COST, "The memory needed falls as much as this column.",
          "Table 2, 7B FP16", memory, cells("7B FP16", "total memory"), "{} to {} GB"),
    Claim("2-int4-slower", COST, "INT4 takes longer than FP16 for the full prompt.", "Table 2, 7B",
          int4, (Cell(FILE, "7B INT4", "prefill time"), _TIME[0]), "{} against {} ms"),
    Claim("2-slip", COST, "7B INT4 with PruMerge needs this many operations.", "Table 2", slip,
          (Cell(FILE, "7B INT4 + PruMerge", "operations"),), "{} T"),
    Claim("2-measured-prefill", COST, "Prefill is faster on a machine, not only on paper.",
          "Table 2, 7B FP16", partial(measured, "prefill"), _TIME, "{} to {} ms"),
    Claim("2-measured-answer", COST, "A whole answer is faster by as much.",
          "Table 2, not counted", partial(measured, "whole"), _TIME, "{} to {} ms", OURS),
)  # fmt: skip
