"""What the harness returns as tables, a row per score and one per question; and both as files."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

from prumerge.experiments.evaluation.harness import PICTURE_COLUMNS, Effort, PruMergeLlava, summary
from prumerge.experiments.evaluation.memory import peak_mib
from prumerge.experiments.evaluation.mini_tasks import CIRCLE
from prumerge.experiments.evaluation.scoring import LLAVA, MAIN_METRICS, benchmark_of, value_of
from prumerge.experiments.rows import provenance, read_csv, write_csv
from prumerge.paths import RESULTS, written_whole
from prumerge.settings import Settings

COLUMNS = ["task", "item", "picture", "unit", "category", "truth", "said", "right", "tokens"]

EVALUATION = RESULTS / "evaluation"
"""Folders of committed comparisons, named after model and size of the questions."""

ALIKE = ("weights", "adapter", "do_pad", "conversation", "dtype")
"""What all rows of a comparison share."""

FIRST = ["label", "task", "benchmark", "metric", "value", "low", "high", "unit", "constant"]


def rows_of(results: dict[str, Any], model: PruMergeLlava) -> list[dict[str, Any]]:
    """Turn what ``simple_evaluate`` returned into one row per task and metric.

    Groups such as ``prumerge_pope`` have rows of their own, over all their tasks. POPE's have also
    ``value_llava``, the score where answers are read as LLaVA's own script does, and ``neither``,
    the percentage of answers that are neither yes nor no.
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


def questions_of(results: Mapping[str, Any], efforts: Mapping[str, Effort]) -> pd.DataFrame:
    """Turn the harness's samples into one row per question of the six benchmarks, by task and item.

    ``picture`` names what it is about; ``unit`` what is scored as one (a pair of MME, the rotations
    of an MMBench question, else the question); ``category`` is MME's; ``truth`` and ``said`` are
    answers; ``right`` is the harness's score of the answer, 0 to 1; ``tokens`` visual tokens.
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


def read_results(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a comparison as ``compare`` returns it, by path or name in ``data/results/evaluation``.

    ValueError if there is none, or a file of it cannot be read.
    """
    place = EVALUATION / folder  # an absolute path stays as it is
    if not (place / "rows.csv").exists():
        raise ValueError(
            f"{folder} holds no rows.csv: make one with "
            f"python -m prumerge.evaluation --compare --save {place}"
        )
    try:
        rows = read_csv(place / "rows.csv")
        return rows, pd.read_parquet(place / "questions.parquet")
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are among them
        raise ValueError(
            f"the comparison in {folder} cannot be read ({error}): remove that folder, and "
            "compare again"
        ) from error


def merge_into(folder: Path, rows: pd.DataFrame, questions: pd.DataFrame) -> None:
    """Put results of one model into a folder, in place of those of the same methods and tasks.

    Each file is complete or as it was; a ValueError where results stay that cannot be compared.
    """
    if (folder / "rows.csv").exists():
        before, asked = read_results(folder.resolve())
        done = set(zip(rows["label"], rows["task"], strict=True))
        done |= set(zip(questions["label"], questions["task"], strict=True))
        left = before[~_named(before, done)]
        _require_alike(folder, left, rows)
        rows = pd.concat([left, rows], ignore_index=True) if len(left) else rows
        questions = pd.concat([asked[~_named(asked, done)], questions], ignore_index=True)
    rows = rows[FIRST + [name for name in rows.columns if name not in FIRST]]
    small = {"item": "int32", "tokens": "int16", "right": "float32"}
    small |= dict.fromkeys(["label", "task", "picture", "unit", "category", "truth"], "category")
    with written_whole(folder / "questions.parquet") as partial:
        questions.astype(small).to_parquet(partial, compression="zstd")
    write_csv(rows, folder / "rows.csv")


def _require_alike(folder: Path, left: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Refuse rows that were measured otherwise than those beside which they would stand."""
    both = pd.concat([left, rows])
    found = {name: {"none" if pd.isna(v) else str(v) for v in both[name]} for name in ALIKE}
    for task, items in both.groupby("task")["items"]:
        if task in set(rows["task"]):
            found[f"number of questions of {task}"] = set(map(str, items))
    for name, values in found.items():
        if len(values) > 1:
            raise ValueError(
                f"{folder} holds results of another {name} ({' and '.join(sorted(values))}): move "
                "it away and repeat the command, or save elsewhere; kept answers are not asked anew"
            )


def _named(table: pd.DataFrame, done: set[tuple[str, str]]) -> pd.Series:
    pairs = zip(table["label"], table["task"], strict=True)
    return pd.Series([pair in done for pair in pairs], index=table.index, dtype=bool)
