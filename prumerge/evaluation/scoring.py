"""Prompts and scores of the tasks, by the harness's own functions.

Three things differ from lmms-eval 0.7.3. Columns are checked when a task is loaded, so that a wrong
file is told before any question is asked. MME has its total as a metric, and a pair that a limit
cuts in half is no error. MMBench is matched offline, without writing into the working folder.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from lmms_eval.tasks.mmbench import en_utils as mmbench
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.scienceqa import utils as scienceqa
from lmms_eval.tasks.textvqa import utils as textvqa
from lmms_eval.tasks.vqav2 import utils as vqav2

Row = dict[str, Any]

COLUMNS = {
    "vqav2": ("image", "question", "answers", "question_id"),
    "scienceqa": ("image", "question", "choices", "answer", "hint"),
    "textvqa": ("image", "question", "answers", "question_id", "ocr_tokens"),
    "pope": ("image", "question", "answer", "question_id"),
    "mme": ("image", "question", "answer", "question_id", "category"),
    "mmbench": (
        *("image", "question", "answer", "index", "hint", "category", "L2-category", "source"),
        *("split", "A", "B"),
    ),
}
"""Columns that the harness reads."""

_ANSWER = {"scienceqa": "answer", "pope": "answer", "mme": "answer", "mmbench": "answer"}


def check_columns(benchmark: str, found: Sequence[str]) -> None:
    """Refuse a data set without the columns that scoring reads.

    Raises:
        ValueError: Naming the missing ones.
    """
    missing = [name for name in COLUMNS[benchmark] if name not in found]
    if missing:
        raise ValueError(
            f"the data set of {benchmark} lacks {', '.join(missing)}; it has {', '.join(found)}"
        )


def check(benchmark: str, rows: Dataset) -> Dataset:
    """Refuse a data set that scoring would stumble over.

    Args:
        benchmark: Whose columns are expected.
        rows: One split.

    Returns:
        The same rows.

    Raises:
        ValueError: Naming the missing columns, or the first item without an answer.
    """
    check_columns(benchmark, rows.column_names)
    column = _ANSWER.get(benchmark, "answers")
    for number, answer in enumerate(rows.select_columns([column])):
        if answer[column] in (None, "", []):
            raise ValueError(f"{benchmark}, item {number}: {column} is empty, it cannot be scored")
    return rows


def _checker(benchmark: str) -> Callable[[Dataset], Dataset]:
    def process_docs(rows: Dataset) -> Dataset:
        return check(benchmark, rows)

    return process_docs


vqav2_check = _checker("vqav2")
scienceqa_check = _checker("scienceqa")
textvqa_check = _checker("textvqa")
pope_check = _checker("pope")
mme_check = _checker("mme")
mmbench_check = _checker("mmbench")


def mini_choice_text(row: Row, lmms_eval_specific_kwargs: Row | None = None) -> str:
    """Ask a multiple-choice question in the mini-LLaVA's words.

    Args:
        row: Of ScienceQA, with ``choices``, or of MMBench, with ``A`` to ``D``.
        lmms_eval_specific_kwargs: Not used.

    Returns:
        Such as ``what colour is the 4 ? a . pink b . blue c . green d . white``.
    """
    choices = row["choices"] if "choices" in row else [row[letter] for letter in "ABCD"]
    listed = " ".join(f"{letter} . {o}" for letter, o in zip("abcd", choices, strict=True))
    return f"{row['question']} {listed}"


def mini_mmbench_process(row: Row, results: list[str]) -> Row:
    """Hand the answer to MMBench's scoring in capitals: the mini-LLaVA has no capital letters."""
    return mmbench.mmbench_process_results(row, [results[0].upper()])


def mmbench_aggregate(results: list[Row]) -> float:
    """Score MMBench offline: all rotations of a question must be right.

    Args:
        results: One per asked rotation.

    Returns:
        Percent of questions.
    """
    # The evaluator prints a table of categories; rows are not its place.
    with contextlib.redirect_stdout(io.StringIO()):
        share, _, _ = mmbench.mmbench_evaluator.eval_result(results, eval_method="static")
    return 100.0 * float(share)


def mme_process(row: Row, results: list[str]) -> Row:
    """Score an answer for MME; perception and cognition apart, and again for their sum."""
    (part,) = (scored := mme.mme_process_results(row, results)).values()
    return scored | {"mme_total_score": part}


def mme_aggregate(results: list[Row]) -> float:
    """Sum MME's categories; with a limit, pairs of which only one question was asked are left out.

    Args:
        results: One per question.

    Returns:
        Points, at most 200 per category.
    """
    asked = Counter((result["category"], result["question_id"]) for result in results)
    whole = [r for r in results if asked[r["category"], r["question_id"]] == 2]
    return float(mme.mme_aggregate_results(whole))


def common_answer(row: Row) -> str:
    """Return what most annotators of VQAv2 or TextVQA said, the first of equals."""
    said = [answer["answer"] if isinstance(answer, dict) else answer for answer in row["answers"]]
    return Counter(said).most_common(1)[0][0]


def vqav2_process(row: Row, results: list[str]) -> Row:
    """Score an answer by VQA accuracy."""
    return vqav2.vqav2_process_results_val(row, results)


def textvqa_process(row: Row, results: list[str]) -> Row:
    """Score an answer by VQA accuracy, without the submission file."""
    return {"exact_match": textvqa.textvqa_process_results(row, results)["exact_match"]}


image = vqav2.vqav2_doc_to_visual
vqav2_text = vqav2.vqav2_doc_to_text
scienceqa_image = scienceqa.sqa_doc_to_visual
scienceqa_text = scienceqa.sqa_doc_to_text
scienceqa_target = scienceqa.sqa_doc_to_target
scienceqa_process = scienceqa.sqa_process_results
textvqa_text = textvqa.textvqa_doc_to_text
pope_text = pope.pope_doc_to_text
pope_process = pope.pope_process_results
pope_accuracy = pope.pope_aggregate_accuracy
pope_precision = pope.pope_aggregate_precision
pope_recall = pope.pope_aggregate_recall
pope_f1 = pope.pope_aggregate_f1_score
pope_yes_ratio = pope.pope_aggregate_yes_ratio
mme_text = mme.mme_doc_to_text
mmbench_text = mmbench.mmbench_doc_to_text
mmbench_process = mmbench.mmbench_process_results
