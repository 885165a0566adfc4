"""How sure a benchmark's score is, and what a model that always says the same would score.

Every score of the six benchmarks is a function of sums over questions, so it can be computed anew
for questions drawn with replacement. Whole pictures are drawn, with all questions about them.

Shapes
    questions   rows of :func:`prumerge.evaluation.results.questions_of`
    quantities  what a score adds up
    sets        sets of questions: all of them, or resampled ones

Source: what the numbers are functions of is read off lmms-eval's aggregation of each benchmark.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from lmms_eval.tasks.mme.utils import eval_type_dict

from prumerge.experiments.statistics import Interval, bounds, resampled_sums

PERCENT = 100.0
_CANDIDATES = 100  # a rarer truth is no better constant answer, and VQAv2 has over ten thousand


def score(metric: str, questions: pd.DataFrame) -> float:
    """Score answers by one of the harness's metrics.

    Args:
        metric: Such as ``pope_f1_score``, as in ``prumerge.evaluation.results.MAIN_METRICS``.
        questions: Of one task, or of the tasks of a group whose scores are averaged.

    Returns:
        Percent, or points for MME; equal to the harness's own.
    """
    return float(_score(metric, _quantities(metric, questions).sum(axis=0)[None])[0])


def score_interval(metric: str, questions: pd.DataFrame, draws: int = 2000) -> Interval:
    """Return a score with the bounds between which 95 % of resampled scores lie.

    Args:
        metric: As in :func:`score`.
        questions: As in :func:`score`.
        draws: Resampled sets.

    Returns:
        Score and bounds. Pictures are drawn, so that questions about one stay together.
    """
    pictures = questions["task"] + " " + questions["picture"]
    sums = resampled_sums(_quantities(metric, questions), pictures, draws)
    return Interval(score(metric, questions), *bounds(_score(metric, sums)))


def best_constant(metric: str, questions: pd.DataFrame) -> tuple[str, float]:
    """Find the answer that scores best when it is given to every question.

    Args:
        metric: As in :func:`score`.
        questions: As in :func:`score`; only ``truth`` and what groups questions is read.

    Returns:
        Answer and score. Right means equal to ``truth``; the most frequent hundred are tried.
    """
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
        if kind in eval_type_dict:
            strata = strata.where(strata.isin(eval_type_dict[kind]))
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
        return PERCENT * _ratio(2 * hits, 2 * hits + false_yes + false_no).mean(axis=1)
    if metric.startswith("mme_"):
        right, answers, both, pairs = np.moveaxis(sums.reshape(len(sums), -1, 4), -1, 0)
        return PERCENT * (_ratio(right, answers) + _ratio(both, pairs)).sum(axis=1)
    right, asked = np.moveaxis(sums.reshape(len(sums), -1, 2), -1, 0)
    return PERCENT * _ratio(right, asked).mean(axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    # No question of a kind was drawn, or none was answered with yes: the harness gives 0 too.
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
