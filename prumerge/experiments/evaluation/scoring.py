"""Prompts and scores of the tasks, by the harness's own functions, and how sure a score is.

Three things differ from lmms-eval 0.7.3. MME has its total as a metric, and a pair that a limit
cuts in half is no error. MMBench is matched offline, without writing into the working folder. POPE
is scored a second time, by the rule of LLaVA's own script.

Every score of the six benchmarks is a function of sums over questions, read off the harness's
aggregation, so it can be computed anew for questions drawn with replacement. Whole pictures are
drawn, with all questions about them.

Shapes
    questions   rows of :func:`prumerge.experiments.evaluation.results.questions_of`
    quantities  what a score adds up
    sets        sets of questions: all of them, or resampled ones
"""

import contextlib
import io
from collections import Counter
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from lmms_eval.tasks.mmbench import en_utils as mmbench
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.scienceqa import utils as scienceqa
from lmms_eval.tasks.textvqa import utils as textvqa

from prumerge.experiments.statistics import Interval, bounds, resampled_sums

Row = dict[str, Any]

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

YES_NO = ("yes", "no")
_ALREADY_PERCENT = ("gpt_eval_score",)
_CANDIDATES = 100  # a rarer truth is no better constant answer, and VQAv2 has over ten thousand


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


def mini_choice_text(row: Row, lmms_eval_specific_kwargs: Row | None = None) -> str:
    """Ask in the mini-LLaVA's words: ``which is it ? a . pink b . blue c . red d . green``."""
    choices = row["choices"] if "choices" in row else [row[letter] for letter in "ABCD"]
    listed = " ".join(f"{letter} . {o}" for letter, o in zip("abcd", choices, strict=True))
    return f"{row['question']} {listed}"


def mini_mmbench_process(row: Row, results: list[str]) -> Row:
    """Hand the answer to MMBench's scoring in capitals: the mini-LLaVA has no capital letters."""
    return mmbench_process(row, [results[0].upper()])


def mmbench_process(row: Row, results: list[str]) -> Row:
    """Hand the answer to MMBench's scoring; one published revision numbers questions by text."""
    return mmbench.mmbench_process_results(row | {"index": int(row["index"])}, results)


def place_of(answer: int | str) -> int:
    """Return the place of a choice, which some revisions name by its letter; -1 for neither."""
    text = str(answer).strip().upper()
    if len(text) == 1 and text in ascii_uppercase:
        return ascii_uppercase.index(text)
    return int(text) if text.isdecimal() else -1


def scienceqa_target(row: Row) -> str:
    """Return the letter of the right choice."""
    return scienceqa.sqa_doc_to_target(row | {"answer": place_of(row["answer"])})


def scienceqa_process(row: Row, results: list[str]) -> Row:
    """Score the letter of a choice."""
    return scienceqa.sqa_process_results(row | {"answer": place_of(row["answer"])}, results)


def first_sentence(said: str) -> str:
    """Read an answer to POPE as LLaVA's script does: no if its first sentence has no, No or not.

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
        "pope_neither": float(scored["pope_accuracy"]["prediction"] not in YES_NO),
    }


def mmbench_aggregate(results: list[Row]) -> float:
    """Score MMBench offline, in percent: all rotations of a question must be right."""
    # The evaluator prints a table of categories; rows are not its place.
    with contextlib.redirect_stdout(io.StringIO()):
        share, _, _ = mmbench.mmbench_evaluator.eval_result(results, eval_method="static")
    return 100.0 * float(share)


def mme_process(row: Row, results: list[str]) -> Row:
    """Score an answer for MME; perception and cognition apart, and again for their sum."""
    (part,) = (scored := mme.mme_process_results(row, results)).values()
    return scored | {"mme_total_score": part}


def mme_aggregate(results: list[Row]) -> float:
    """Sum MME's categories, at most 200 points each; pairs cut in half by a limit do not count."""
    asked = Counter((result["category"], result["question_id"]) for result in results)
    whole = [r for r in results if asked[r["category"], r["question_id"]] == 2]
    return float(mme.mme_aggregate_results(whole))


def common_answer(row: Row) -> str:
    """Return what most annotators of VQAv2 or TextVQA said, the first of equals."""
    said = [answer["answer"] if isinstance(answer, dict) else answer for answer in row["answers"]]
    return Counter(said).most_common(1)[0][0]


def textvqa_process(row: Row, results: list[str]) -> Row:
    """Score an answer by VQA accuracy, without the submission file."""
    return {"exact_match": textvqa.textvqa_process_results(row, results)["exact_match"]}


def score(metric: str, questions: pd.DataFrame) -> float:
    """Score a task, or a group by its tasks' mean, as the harness does: percent, points for MME."""
    return float(_score(metric, _quantities(metric, questions).sum(axis=0)[None])[0])


def score_interval(metric: str, questions: pd.DataFrame, draws: int = 2000) -> Interval:
    """Return a score with the bounds between which 95 % of resampled scores lie."""
    pictures = questions["task"] + " " + questions["picture"]
    sums = resampled_sums(_quantities(metric, questions), pictures, draws)
    return Interval(score(metric, questions), *bounds(_score(metric, sums)))


def best_constant(metric: str, questions: pd.DataFrame) -> tuple[str, float]:
    """Find the truth, of the hundred most frequent, that scores best as every answer."""
    best, highest = "", -np.inf
    # One at a time: of hundreds of thousands of questions no second copy has to be held.
    for said in questions["truth"].value_counts(sort=False).nlargest(_CANDIDATES).index:
        right = (questions["truth"] == said).astype(float)
        value = score(metric, questions.assign(said=said, right=right))
        if value > highest:
            best, highest = said, value
    return best, highest


def _quantities(metric: str, questions: pd.DataFrame) -> Float[np.ndarray, "questions quantities"]:
    """Take apart what a metric adds up; scores that are averaged stand side by side."""
    right, said, truth = (questions[name] for name in ("right", "said", "truth"))
    if metric == "pope_f1_score":
        yes = said == "yes"
        kinds = [yes & (truth == "yes"), yes & (truth == "no"), (said == "no") & (truth == "yes")]
        columns, strata = [kind.astype(float) for kind in kinds], questions["task"]
    elif metric.startswith("mme_"):
        columns, strata = _of_pairs(questions), questions["category"]
        kind = metric.removeprefix("mme_").removesuffix("_score").capitalize()
        if kind in mme.eval_type_dict:
            strata = strata.where(strata.isin(mme.eval_type_dict[kind]))
    elif metric == "gpt_eval_score":
        columns, strata = _of_rotations(questions), questions["task"]
    else:
        columns, strata = [right, pd.Series(1.0, questions.index)], questions["task"]
    values = np.stack(columns, axis=1)
    return np.concatenate(
        [
            values * (strata == name).to_numpy()[:, None]
            for name in sorted(strata.dropna().unique())
        ],
        axis=1,
    )


def _of_pairs(questions: pd.DataFrame) -> list[pd.Series]:
    """MME: right answers, answers, pairs all right, pairs; halves of pairs are left out."""
    pairs = questions.groupby(["task", "category", "unit"])
    whole = (pairs["right"].transform("size") == 2).astype(float)
    first = (pairs.cumcount() == 0) * whole
    return [
        questions["right"] * whole,
        whole,
        first * (pairs["right"].transform("sum") == 2),
        first,
    ]


def _of_rotations(questions: pd.DataFrame) -> list[pd.Series]:
    """MMBench: questions right in all rotations, questions."""
    rotations = questions.groupby(["task", "unit"])
    first = (rotations.cumcount() == 0).astype(float)
    return [first * (rotations["right"].transform("min") == 1), first]


def _score(metric: str, sums: Float[np.ndarray, "sets quantities"]) -> Float[np.ndarray, " sets"]:
    if metric == "pope_f1_score":
        hits, false_yes, false_no = np.moveaxis(sums.reshape(len(sums), -1, 3), -1, 0)
        return 100.0 * _ratio(2 * hits, 2 * hits + false_yes + false_no).mean(axis=1)
    if metric.startswith("mme_"):
        right, answers, both, pairs = np.moveaxis(sums.reshape(len(sums), -1, 4), -1, 0)
        return 100.0 * (_ratio(right, answers) + _ratio(both, pairs)).sum(axis=1)
    right, asked = np.moveaxis(sums.reshape(len(sums), -1, 2), -1, 0)
    return 100.0 * _ratio(right, asked).mean(axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    # No question of a kind was drawn, or none was answered with yes: the harness gives 0 too.
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
