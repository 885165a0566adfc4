"""What the harness returns, as tables: a row per score, a row per question."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

from prumerge.evaluation.effort import Effort, summary
from prumerge.evaluation.harness import PruMergeLlava
from prumerge.evaluation.memory import peak_mib
from prumerge.evaluation.mini_tasks import CIRCLE
from prumerge.evaluation.requests import PICTURE_COLUMNS
from prumerge.provenance import provenance
from prumerge.settings import Settings

MAIN_METRICS = {
    "vqav2": ("exact_match",),
    "scienceqa": ("exact_match",),
    "textvqa": ("exact_match",),
    "pope": ("pope_f1_score", "pope_accuracy"),
    "mme": ("mme_perception_score", "mme_cognition_score", "mme_total_score"),
    "mmbench": ("gpt_eval_score",),
}
"""Metrics that become rows, by benchmark; the first is the one that papers print."""

LLAVA = {"pope_f1_score": "pope_llava_f1_score", "pope_accuracy": "pope_llava_accuracy"}
"""The same scores of POPE, with answers read as LLaVA's own script does."""

_ALREADY_PERCENT = ("gpt_eval_score",)


def benchmark_of(task: str) -> str | None:
    """Return which of the six benchmarks a task mirrors, or None.

    Example:
        >>> benchmark_of("prumerge_textvqa_val_ocr"), benchmark_of("mini_pope")
        ('textvqa', 'pope')
    """
    return next((name for name in MAIN_METRICS if f"_{name}" in task), None)


def value_of(metric: str, value: float) -> tuple[float, str]:
    """Return a score as papers print it, with its unit.

    Example:
        >>> value_of("exact_match", 0.5), value_of("mme_total_score", 1862.0)
        ((50.0, 'percent'), (1862.0, 'points'))
    """
    if metric.startswith("mme_"):
        return value, "points"
    return value * (1.0 if metric in _ALREADY_PERCENT else 100.0), "percent"


def rows_of(results: dict[str, Any], model: PruMergeLlava) -> list[dict[str, Any]]:
    """Turn the harness's results into rows.

    Args:
        results: As ``simple_evaluate`` returns them.
        model: What answered.

    Returns:
        One row per task and metric; groups such as ``prumerge_pope`` have rows of their own, with
        the numbers of tokens over all their tasks. POPE's rows have two columns more:
        ``value_llava``, the score where answers are read as LLaVA's own script does, and
        ``neither``, the percentage of answers that are neither yes nor no.
    """
    constant = {"limit": results["config"]["limit"]} | parameters_of(model)
    efforts = model.efforts
    groups = results.get("group_subtasks", {})
    rows = []
    for task, scores in results["results"].items():
        benchmark = benchmark_of(task)
        parts = groups.get(task) or [task]
        effort = summary([efforts[part] for part in parts if part in efforts])
        for metric in MAIN_METRICS.get(benchmark, ()):
            value = scores.get(f"{metric},none")
            if isinstance(value, int | float):
                value, unit = value_of(metric, float(value))
                named = {"task": task, "benchmark": benchmark, "metric": metric}
                named |= {"value": value, "unit": unit} | _read_otherwise(metric, scores)
                rows.append(named | effort | constant)
    return rows


def _read_otherwise(metric: str, scores: dict[str, Any]) -> dict[str, float]:
    if metric not in LLAVA:
        return {}
    value, neither = (float(scores[f"{name},none"]) for name in (LLAVA[metric], "pope_neither"))
    return {"value_llava": value_of(metric, value)[0], "neither": 100.0 * neither}


def parameters_of(model: PruMergeLlava) -> dict[str, Any]:
    """Return everything that a score depends on, as plain values by column."""
    options, identity = model.options, model.answerer.identity
    settings = identity["settings"] or dict.fromkeys(f.name for f in dataclasses.fields(Settings))
    device = str(model.device)
    came_from = provenance(device)
    return {
        "model": options.pretrained,
        "weights": identity["weights"],
        "adapter": identity["adapter"],
        "method": options.method,
        **settings,
        "do_pad": options.do_pad,
        "conversation": options.conversation,
        "batch_size": options.batch_size,
        "dtype": identity["dtype"],
        "processes": model.world_size,
        "peak_mib": peak_mib(device),
        **came_from,
        "lmms_eval": version("lmms-eval"),
    }


COLUMNS = ["task", "item", "picture", "unit", "category", "truth", "said", "right", "tokens"]


def questions_of(results: Mapping[str, Any], efforts: Mapping[str, Effort]) -> pd.DataFrame:
    """Turn the harness's samples into rows.

    Args:
        results: As ``simple_evaluate`` returns them, with samples.
        efforts: By task, what its answers took.

    Returns:
        One row per question of the six benchmarks, by task and item: ``picture`` names what it
        is about; ``unit`` what is scored as one (a pair of MME, the rotations of an MMBench
        question, else the question); ``category`` is MME's; ``truth`` and ``said`` are answers;
        ``right`` is the harness's score of the answer, 0 to 1; ``tokens`` visual tokens.
    """
    rows = [
        _row(task, sample) | {"tokens": efforts[task].visual_tokens[sample["doc_id"]]}
        for task, samples in results["samples"].items()
        if benchmark_of(task)
        for sample in samples
    ]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["task", "item"], ignore_index=True)


def _row(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    benchmark, doc, item = benchmark_of(task), sample["doc"], sample["doc_id"]
    unit, category, said = item, "", sample["filtered_resps"][0]
    if benchmark == "mme":
        scored = sample["mme_total_score"]
        unit, category, right = doc["question_id"], doc["category"], scored["score"]
    elif benchmark == "pope":
        said, right = (sample["pope_accuracy"][name] for name in ("prediction", "score"))
    elif benchmark == "mmbench":
        scored = sample["gpt_eval_score"]
        unit, said = scored["index"] % CIRCLE, scored["prediction"]
        answers, one = {scored["index"]: scored["answer"]}, pd.DataFrame([scored])
        right = mmbench_evaluator.eval_sub_data(one, answers, static_only=True)
    else:
        right = sample["exact_match"]
    picture = next((doc[name] for name in PICTURE_COLUMNS if name in doc), unit)
    named = {"task": task, "item": item, "picture": str(picture), "unit": str(unit)}
    truth = str(sample["target"])
    return named | {"category": category, "truth": truth, "said": said, "right": float(right)}
