"""Measured scores of LLaVA-1.5 beside the numbers printed for it; nothing else is comparable."""

import re
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from prumerge.experiments.evaluation.scoring import benchmark_of
from prumerge.experiments.printed import read_printed
from prumerge.mini.styles import STYLES

COLUMNS = {
    "vqav2": "VQAv2",
    "scienceqa": "ScienceQA",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "mme": "MME",
    "mmbench": "MMBench",
}
"""Columns of the printed tables by benchmark."""

PRINTED_METRICS = {
    "exact_match": "accuracy",
    "pope_f1_score": "mean F1",
    "mme_perception_score": "perception",
    "mme_total_score": "total",
    "gpt_eval_score": "circular accuracy",
}
"""Names by the harness's metric. MME is printed as its perception part, never as the total."""

_OTHER_SPLITS = {"prumerge_vqav2_val": "measured on val, printed for test-dev"}
_NOT_PRINTED = ("prumerge_textvqa_val",)  # without OCR tokens in the prompt, unlike in print
_ROWS = {"full": "", "plain": " + PruMerge", "plus": " + PruMerge+"}
_LORA = "tuned (LoRA)"


def size_of(model: str) -> str | None:
    """Return which LLaVA-1.5 a model is, ``7B`` or ``13B``, or None for any other.

    Example:
        >>> size_of("llava-hf/llava-1.5-7b-hf@main"), size_of("mini"), size_of("random-7b")
        ('7B', None, None)
    """
    found = re.search(r"llava-(?:v)?1\.5-(7|13)b", model.lower())
    return f"{found[1]}B" if found else None


def titles(tasks: Iterable[str]) -> dict[str, str]:
    """Name each task by its benchmark; those that share one keep their own names.

    Example:
        >>> titles(["mini_vqav2_full", "prumerge_mme"])
        {'mini_vqav2_full': 'mini VQAv2', 'prumerge_mme': 'MME'}
    """
    named = {}
    for task in dict.fromkeys(tasks):
        style = task.partition("_")[0]
        drawn = f"{style} " if style in STYLES else ""
        named[task] = drawn + COLUMNS.get(benchmark_of(task), task)
    shared = [title for title, count in Counter(named.values()).items() if count > 1]
    return {task: task if title in shared else title for task, title in named.items()}


def beside_printed(rows: pd.DataFrame) -> pd.DataFrame:
    """Put printed numbers beside the measured ones of a comparison's rows, one row for each pair.

    ``printed_model`` is ``stock``, ``tuned (LoRA)`` or ``training-free``, as all that is measured
    with a stock checkpoint is; ``note`` says where the questions are others; ``printed`` is NaN
    where there is none. A row of another model than LLaVA-1.5 is a ValueError.
    """
    others = [model for model in rows["model"].unique() if size_of(model) is None]
    if others:
        raise ValueError(
            f"{others[0]!r} is no LLaVA-1.5: no printed number may stand beside its scores"
        )
    kept = rows[rows["metric"].isin(PRINTED_METRICS)]
    # POPE's splits are averaged before they are printed.
    kept = kept[~kept["task"].str.contains("pope_")]
    found = pd.DataFrame([line for _, row in kept.iterrows() for line in _lines(row)])
    return found.reset_index(drop=True)


def _lines(row: pd.Series) -> list[dict]:
    measured = {"label": row["label"], "task": row["task"]}
    measured |= {"metric": PRINTED_METRICS[row["metric"]], "measured": row["value"]}
    measured |= {"low": row["low"], "high": row["high"]}
    numbers = _printed(row) or [{"printed": float("nan"), "printed_model": "", "table": ""}]
    note = {"note": _OTHER_SPLITS.get(row["task"], "")}
    return [measured | number | note for number in numbers]


def _printed(row: pd.Series) -> list[dict]:
    if pd.notna(row["budget"]) or row["metric"] == "mme_total_score" or row["task"] in _NOT_PRINTED:
        return []
    kind = {"full": "full", "release": "plain", "paper": "plain", "prumerge": "plain"}
    kind |= {"release+": "plus", "paper+": "plus", "prumerge+": "plus"}
    name, size = kind.get(row["method"]), size_of(row["model"])
    if name is None:
        return []
    printed = [_cell("table_1_main_results", f"LLaVA-1.5 {size}{_ROWS[name]}", row["benchmark"])]
    printed[0]["printed_model"] = "stock" if name == "full" else _LORA
    if name == "plain" and size == "7B":
        printed.append(_cell("table_6_training", "training-free", row["benchmark"]))
        printed[1]["printed_model"] = "training-free"
    return [number for number in printed if "printed" in number]


def _cell(table: str, line: str, benchmark: str) -> dict:
    """Find a printed number with the table it stands in; none of them all where it is missing."""
    numbers = read_printed(table)
    own = numbers[(numbers["row"] == line) & (numbers["column"] == COLUMNS[benchmark])]
    return {} if own.empty else {"printed": own["value"].item(), "table": own["table"].item()}
