"""The README's tables: each function reads committed rows and returns lines of Markdown."""

import pandas as pd

from prumerge.evaluation.saved import read_results
from prumerge.evaluation.tables import main_scores, score_table
from prumerge.experiments.statistics import compare, interval
from prumerge.finetuning import arms
from prumerge.markdown import markdown_table, percent
from prumerge.paths import MINI
from prumerge.sweeps.tables import read_sweep_rows


def mini_scores() -> list[str]:
    """Return how the mini-LLaVA answers each family of questions, beside the best constant."""
    scores = pd.read_csv(MINI / "scores.csv")
    table = pd.DataFrame({"family of questions": scores["family"]})
    table["right with all tokens"] = scores["correct"].map(percent)
    table["best constant answer"] = scores["best_constant"].map(percent)
    return markdown_table(table)


def leaderboard(budget: int = 64) -> list[str]:
    """Return every method at one budget on the mini-LLaVA, best first, tested against PruMerge.

    The first row is what all tokens answer.
    """
    rivals = read_sweep_rows("rivals")
    pictures, base = rivals.questions["picture"], "prumerge"
    scores = rivals.where(budget=budget).scores("method")
    table = compare(scores, pictures, base)
    every = rivals.where(method="all").scores("method")["all"]
    ahead = every.mean() - scores[base].mean()
    rows = [_standing("all 576 tokens", *interval(every, pictures), ahead, "-")]
    for name, found in table.iterrows():
        beyond = "yes" if found["p_holm"] < 0.05 else "no"
        told = (found["difference"], beyond) if name != base else (None, "-")
        rows.append(_standing(name, *found[["accuracy", "low", "high"]], *told))
    columns = ["method", "right", "95 % interval", f"points against `{base}`", "beyond chance"]
    return markdown_table(pd.DataFrame(rows, columns=columns))


def _standing(
    name: str, mean: float, low: float, high: float, ahead: float | None, beyond: str
) -> list[str]:
    apart = "-" if ahead is None else f"{100 * ahead:+.1f}"
    return [name, f"{100 * mean:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", apart, beyond]


def evaluation() -> list[str]:
    """Return the mini-LLaVA's scores on its six benchmarks by method, with intervals."""
    table = score_table(main_scores(read_results("mini")[0])).fillna("")
    return markdown_table(table.rename_axis("method").reset_index())


def tuning_arms() -> list[str]:
    """Return the arms of notebook 09: tokens sent, untuned beside tuned, means over the seeds."""
    answers = pd.read_csv(arms.ROWS / "answers.csv")
    right = 100 * answers.pivot_table("correct", "question", ["tokens", "tuned"])
    rows = [
        [tokens, *(_with_interval(right[tokens, tuned]) for tuned in (False, True))]
        for tokens in arms.TOKENS
    ]
    return markdown_table(pd.DataFrame(rows, columns=["visual tokens", "untuned", "tuned alike"]))


def _with_interval(values: pd.Series) -> str:
    return "{:.1f} % ({:.1f} to {:.1f})".format(*interval(values))
