"""The README's tables: each function reads committed rows and returns lines of Markdown."""

import pandas as pd

from prumerge.evaluation.saved import read_results
from prumerge.evaluation.tables import main_scores, score_table
from prumerge.finetuning import arms
from prumerge.intervals import interval
from prumerge.markdown import markdown_table, percent
from prumerge.paths import MINI
from prumerge.sweeps.comparison import compare
from prumerge.sweeps.tables import read_sweep_rows


def mini_scores() -> list[str]:
    """Return how the mini-LLaVA answers each family of questions, beside the best constant."""
    scores = pd.read_csv(MINI / "scores.csv")
    table = pd.DataFrame({"family of questions": scores["family"]})
    table["right with all tokens"] = scores["correct"].map(percent)
    table["best constant answer"] = scores["best_constant"].map(percent)
    return markdown_table(table)


def leaderboard(budget: int = 64) -> list[str]:
    """Return every method at one budget on the mini-LLaVA, best first, tested against PruMerge."""
    rivals = read_sweep_rows("rivals")
    scores = rivals.where(budget=budget).scores("method")
    table = 100 * compare(scores, rivals.questions["picture"], "prumerge")
    apart, chance = table["difference"].map("{:+.1f}".format), table["p_holm"] >= 5
    return markdown_table(
        pd.DataFrame(
            {
                "method": table.index,
                "right": table["accuracy"].map("{:.1f} %".format),
                "95 % interval": [
                    f"{low:.1f} to {high:.1f}"
                    for low, high in zip(table["low"], table["high"], strict=True)
                ],
                "points against `prumerge`": apart.where(table.index != "prumerge", "-"),
                "beyond chance (Holm)": chance.map({True: "no", False: "yes"}).where(
                    table.index != "prumerge", "-"
                ),
            }
        )
    )


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
