"""Tables for a reader, from the rows and answers of a comparison."""

import pandas as pd

from prumerge.evaluation.results import MAIN_METRICS
from prumerge.experiments.statistics import paired

CONSTANT = "constant answer"


def main_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the score that papers print of each benchmark; MME's is its perception part.

    Args:
        rows: Of :func:`prumerge.evaluation.comparison.compare`.

    Returns:
        One row per method and task; of POPE's splits only their mean. Where larger sets of the
        mini benchmarks are among the rows, these alone.
    """
    metrics = {(name, metrics[0]) for name, metrics in MAIN_METRICS.items()}
    printed = pd.MultiIndex.from_frame(rows[["benchmark", "metric"]]).isin(metrics)
    rows = rows[printed & ~rows["task"].str.contains("pope_[rpa]")]
    larger = rows["task"].str.endswith("_full")
    return rows[larger] if larger.any() else rows


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Show each method's scores with the bounds of their intervals, and the tokens it sent.

    Args:
        rows: Of :func:`main_scores`.

    Returns:
        A row per method and one for the best constant answer, a column per task.
    """
    rows = rows.assign(
        shown=[
            f"{value:.1f} ({low:.1f} to {high:.1f})"
            for value, low, high in zip(rows["value"], rows["low"], rows["high"], strict=True)
        ]
    )
    table = rows.pivot_table("shown", "label", "task", aggfunc="first", sort=False)
    sent = rows.groupby("label", sort=False)
    mean = (rows["tokens_mean"] * rows["items"]).groupby(rows["label"], sort=False).sum()
    mean /= sent["items"].sum()
    spread = zip(mean, sent["tokens_min"].min(), sent["tokens_max"].max(), strict=True)
    table.insert(0, "tokens", [f"{m:.0f} ({low:.0f} to {high:.0f})" for m, low, high in spread])
    constant = rows.groupby("task", sort=False)["constant"].max().map("{:.1f}".format)
    table.loc[CONSTANT] = pd.Series({"tokens": "0"} | constant.to_dict())
    return table.rename_axis(None).rename_axis(None, axis=1)


def losses(questions: pd.DataFrame, base: str = "full") -> pd.DataFrame:
    """Compare each method with another one, question by question.

    Args:
        questions: Of :func:`prumerge.evaluation.comparison.compare`.
        base: Method to compare with.

    Returns:
        One row per task and other method: ``mean`` difference of right answers in points of a
        hundred, with the bounds ``low`` and ``high``; pictures are drawn, with all questions
        about them. A negative mean is a loss.
    """
    right = questions.pivot_table("right", ["task", "picture", "item"], "label", sort=False)
    rows = []
    for task, own in right.groupby("task", sort=False):
        pictures = own.index.get_level_values("picture")
        for label in own.columns.drop(base):
            found = paired(own[label], own[base], pictures)
            points = {name: 100 * value for name, value in found._asdict().items()}
            rows.append({"task": task, "label": label} | points)
    return pd.DataFrame(rows)
