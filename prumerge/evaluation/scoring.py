"""Prompts and scores of the tasks, by the harness's own functions.

Four things differ from lmms-eval 0.7.3. Questions are checked when a task is loaded, so that a
wrong or incomplete file is told before any is asked. MME has its total as a metric, and a pair that
a limit cuts in half is no error. MMBench is matched offline, without writing into the working
folder. POPE is scored a second time, by the rule of LLaVA's own script.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from string import ascii_uppercase
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

PUBLISHED = {
    "vqav2": 214_354,
    "scienceqa": 2_017,
    "textvqa": 5_000,
    "pope": 3_000,
    "mme": 2_374,
    "mmbench": 4_329,
}
"""Questions that the publishers state, of the split that is asked; POPE's, of each of its three."""

_YES_NO = ("yes", "no")


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


def check(benchmark: str, rows: Dataset, published: bool = False) -> Dataset:
    """Refuse a data set that scoring would stumble over.

    Args:
        benchmark: Whose columns are expected.
        rows: One split.
        published: Whether it must have the number of questions in ``PUBLISHED``.

    Returns:
        The same rows.

    Raises:
        ValueError: Naming the missing columns, how many questions are missing, or the first item
            whose answer cannot be scored.
    """
    check_columns(benchmark, rows.column_names)
    if published:
        check_number(benchmark, len(rows))
    kept = set(rows.column_names) & {"answer", "answers", "choices", "index", *"ABCDE"}
    for number, row in enumerate(rows.select_columns(sorted(kept))):
        if fault := _fault(benchmark, row):
            raise ValueError(f"{benchmark}, item {number}: {fault}, it cannot be scored")
    return rows


def check_number(benchmark: str, found: int) -> None:
    """Refuse another number of questions than ``PUBLISHED``.

    Raises:
        ValueError: Naming both numbers.
    """
    if found != PUBLISHED[benchmark]:
        raise ValueError(
            f"the data set of {benchmark} has {found} questions here, {PUBLISHED[benchmark]} are "
            "published: a part is missing, or it is another one"
        )


def _fault(benchmark: str, row: Row) -> str | None:
    """Say what keeps a question's answer from being scored; None where nothing does."""
    column = "answers" if benchmark in ("vqav2", "textvqa") else "answer"
    answer = row[column]
    if answer in (None, "", []):
        return f"{column} is empty"
    if benchmark in ("pope", "mme") and answer.lower().strip(" .") not in _YES_NO:
        return f"{column} is {answer!r}, not yes or no"
    if benchmark == "scienceqa" and not 0 <= _place(answer) < len(row["choices"]):
        return f"{column} is {answer!r}, none of its {len(row['choices'])} choices"
    if benchmark == "mmbench":
        options = [o for o in "ABCDE" if row.get(o) not in (None, "", "nan")]
        if answer not in options:
            return f"{column} is {answer!r}, none of {', '.join(options)}"
        if not str(row["index"]).isdecimal():
            return f"index is {row['index']!r}, no whole number"
    return None


def _place(answer: int | str) -> int:
    """Return the place of a choice, which some revisions name by its letter; -1 for neither."""
    text = str(answer).strip().upper()
    if len(text) == 1 and text in ascii_uppercase:
        return ascii_uppercase.index(text)
    return int(text) if text.isdecimal() else -1


def _checker(benchmark: str, published: bool = False) -> Callable[[Dataset], Dataset]:
    def process_docs(rows: Dataset) -> Dataset:
        return check(benchmark, rows, published)

    return process_docs


vqav2_check = _checker("vqav2")
scienceqa_check = _checker("scienceqa")
textvqa_check = _checker("textvqa")
pope_check = _checker("pope")
mme_check = _checker("mme")
mmbench_check = _checker("mmbench")
vqav2_published = _checker("vqav2", published=True)
scienceqa_published = _checker("scienceqa", published=True)
textvqa_published = _checker("textvqa", published=True)
pope_published = _checker("pope", published=True)
mme_published = _checker("mme", published=True)
mmbench_published = _checker("mmbench", published=True)


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
    return mmbench_process(row, [results[0].upper()])


def mmbench_process(row: Row, results: list[str]) -> Row:
    """Hand the answer to MMBench's scoring; one published revision numbers questions by text."""
    return mmbench.mmbench_process_results(row | {"index": int(row["index"])}, results)


def scienceqa_target(row: Row) -> str:
    """Return the letter of the right choice."""
    return scienceqa.sqa_doc_to_target(row | {"answer": _place(row["answer"])})


def scienceqa_process(row: Row, results: list[str]) -> Row:
    """Score the letter of a choice."""
    return scienceqa.sqa_process_results(row | {"answer": _place(row["answer"])}, results)


def first_sentence(said: str) -> str:
    """Read an answer to POPE as LLaVA's own script does.

    Args:
        said: Answer.

    Returns:
        ``no`` if the first sentence has the word "no", "No" or "not", ``yes`` for all else.

    Source: LLaVA, ``llava/eval/eval_pope.py``.

    Example:
        >>> first_sentence("Yes, there is."), first_sentence("There is no dog."), first_sentence("")
        ('yes', 'no', 'yes')
    """
    words = said.split(".")[0].replace(",", "").split(" ")
    return "no" if {"no", "No", "not"} & set(words) else "yes"


def pope_process(row: Row, results: list[str]) -> Row:
    """Score an answer for POPE, as lmms-eval does and by the rule of :func:`first_sentence`."""
    scored = pope.pope_process_results(row, results)
    read = pope.pope_process_results(row, [first_sentence(results[0].strip())])
    return scored | {
        "pope_llava_f1_score": read["pope_f1_score"],
        "pope_llava_accuracy": read["pope_accuracy"],
        "pope_neither": float(scored["pope_accuracy"]["prediction"] not in _YES_NO),
    }


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
textvqa_text = textvqa.textvqa_doc_to_text
pope_text = pope.pope_doc_to_text
pope_accuracy = pope.pope_aggregate_accuracy
pope_precision = pope.pope_aggregate_precision
pope_recall = pope.pope_aggregate_recall
pope_f1 = pope.pope_aggregate_f1_score
pope_yes_ratio = pope.pope_aggregate_yes_ratio
mme_text = mme.mme_doc_to_text
mmbench_text = mmbench.mmbench_doc_to_text
