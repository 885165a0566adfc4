"""The efficiency table of the README: what is printed, what its lengths give, what was measured."""

from pathlib import Path

import pandas as pd

from prumerge import roofline
from prumerge.markdown import markdown_table
from prumerge.printed import read_printed
from prumerge.timing.stages import FULL
from prumerge.timing.tables import MODEL, TIMING, answer_times, read_rows

STATED = (616, 80)
"""Prompt tokens that the paper states: 40 of text, and 576 or about 40 visual ones."""


def efficiency_table(folder: Path = TIMING) -> list[str]:
    """Write the table in Markdown: how many times less, by source.

    Args:
        folder: Where timing rows are.

    Returns:
        Lines for ``prumerge.readme``. Measured are the smallest budget against all visual tokens,
        at the smallest and the largest batch that both were timed at, with the longest answer.
    """
    lines = [_printed(), _computed(), *_measured(read_rows(folder))]
    names = ["LLaVA-1.5-7B in FP16, unless said", "prompt tokens", "operations", "prefill"]
    table = pd.DataFrame(lines, columns=[*names, "whole answer"]).fillna("-")
    return markdown_table(table)


def _times(ratio: float, word: str = "less") -> str:
    return f"{ratio:.1f} times {word}"


def _printed() -> tuple:
    values = read_printed("table_2_efficiency").set_index(["row", "column"])["value"]
    full, reduced = values.loc["7B FP16"], values.loc["7B FP16 + PruMerge"]
    ratios = full / reduced
    operations, prefill = ratios["operations"], ratios["prefill time"]
    name = "printed: a roofline of one V100 (it comes out at 700 and 70 tokens)"
    return name, "616 and 80 stated", _times(operations, "fewer"), _times(prefill), None


def _computed() -> tuple:
    rows = roofline.estimate_costs("7b", STATED, "V100", convention="llm-viewer")
    ratios = rows[["operations", "time_ms"]].iloc[0] / rows[["operations", "time_ms"]].iloc[1]
    name = "the same arithmetic at the lengths stated"
    lengths = f"{STATED[0]} and {STATED[1]}"
    return name, lengths, _times(ratios["operations"], "fewer"), _times(ratios["time_ms"]), None


def _measured(rows: pd.DataFrame) -> list[tuple]:
    rows = rows[rows["attention"] == "sdpa"]
    lines = []
    for _, own in rows.groupby(MODEL, sort=False):
        full = own[own["method"] == FULL]
        small = own[own["budget"] == own["budget"].min()]
        both = sorted(set(full["batch"]) & set(small["batch"]))
        for batch in dict.fromkeys([both[0], both[-1]] if len(both) else []):
            lines.append(_compared(*(part[part["batch"] == batch] for part in (full, small))))
    return lines


def _compared(full: pd.DataFrame, small: pd.DataFrame) -> tuple:
    longest = int(max(set(full["new_tokens"].dropna()) & set(small["new_tokens"].dropna())))
    before, after = (
        answer_times(part).xs(longest, level="new_tokens").iloc[0] for part in (full, small)
    )
    row = full.iloc[0]
    model = "mini-LLaVA" if row["model"] == "mini" else str(row["model"]).removesuffix("-random")
    if row["weights"] == "random":
        model += f" shape, {row['layers']} layers of random weights"
    batch = f"batch {row['batch']}"
    name = f"measured: {model}, {row['dtype']}, {_device(row['device'])}, {batch}"
    lengths = f"{row['prompt_tokens']} and {small.iloc[0]['prompt_tokens']}"
    prefill = before["prefill"] / after["prefill"]
    whole = f"{_times(before['whole'] / after['whole'])} ({longest} tokens)"
    return name, lengths, None, _times(prefill), whole


def _device(name: str) -> str:
    """A CPU's entry without its architecture: ``CPU (x86_64, 2 threads)`` is ``CPU, 2 threads``."""
    kind, _, rest = name.partition(" (")
    return f"{kind}, {rest.rstrip(')').rpartition(', ')[2]}" if rest else name
