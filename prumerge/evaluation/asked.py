"""What became of every question: one row each, from what the harness returns."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

from prumerge.evaluation.effort import Effort
from prumerge.evaluation.mini_tasks import CIRCLE
from prumerge.evaluation.requests import PICTURE_COLUMNS
from prumerge.evaluation.rows import benchmark_of

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
