"""How many questions per second a method answers against another, in one run.

Methods take turns, so that what else the machine does meets both.
"""

import io
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd

from prumerge.evaluation.answering import Answerer
from prumerge.evaluation.comparison import method_of
from prumerge.evaluation.memory import reset_peak
from prumerge.evaluation.mini_tasks import BENCHMARKS, path_of
from prumerge.evaluation.options import read
from prumerge.preprocessing import open_picture

NEW_TOKENS = 6  # as the mini tasks allow


def take_turns(
    labels: Sequence[str] = ("full", "release"),
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
    questions: int = 16,
    rounds: int = 3,
    **arguments: Any,
) -> pd.DataFrame:
    """Measure the batched evaluation of mini questions.

    Args:
        labels: Methods, as :func:`prumerge.evaluation.comparison.method_of` reads them.
        benchmarks: Whose questions; TextVQA's ask once about each picture, MME's eight times.
        questions: Of each benchmark, from the first on.
        rounds: Times that all questions are asked; after each batch another method's turn comes.
            A batch of each warms up first.
        **arguments: Of the model: ``pretrained``, ``device``, ``batch_size`` and so on.

    Returns:
        One row per benchmark, method and turn: ``benchmark``, ``label``, ``turn``,
        ``questions_per_picture``, ``visual_tokens`` (mean) and ``images_per_s``, the questions
        with their pictures answered per second, preparation included.

    Raises:
        ValueError: If an argument is not possible.
    """
    options = {label: read(arguments | method_of(label)) for label in labels}
    batch = options[labels[0]].batch_size
    reset_peak(arguments.get("device") or "cpu")  # an earlier model may hold on to itself
    answerer = Answerer(options[labels[0]], arguments.get("device") or "cpu")
    rows = []
    for benchmark in benchmarks:
        table = pd.read_parquet(path_of(benchmark)).iloc[:questions]
        pictures = [open_picture(io.BytesIO(i["bytes"])) for i in table["image"]]
        prompts = [answerer.prompt(question) for question in table["question"]]
        repeats = len(table) / table["image_id"].nunique()
        batches = [slice(start, start + batch) for start in range(0, len(prompts), batch)]
        for turn, chosen in enumerate([batches[0], *batches * rounds]):
            for label in labels:
                answerer.method = options[label].reducer()
                found = _answer(answerer, pictures[chosen], prompts[chosen])
                named = {"benchmark": benchmark, "label": label, "turn": turn}
                rows.append(named | {"questions_per_picture": repeats} | found)
    measured = pd.DataFrame(rows)
    return measured[measured["turn"] > 0].reset_index(drop=True)


def ratios(measured: pd.DataFrame, label: str, base: str = "full") -> pd.Series:
    """Return how many times faster one method is than another.

    Args:
        measured: Of :func:`take_turns`.
        label: The faster one.
        base: The other.

    Returns:
        By benchmark, the median over the turns of the ratio within a turn. Last, as ``together``,
        the ratio of the seconds for a question of each benchmark.
    """
    speeds = measured.pivot_table("images_per_s", ["benchmark", "turn"], "label", sort=False)
    found = (speeds[label] / speeds[base]).groupby("benchmark", sort=False).median()
    seconds = (1 / speeds).groupby("benchmark").median().sum()
    return pd.concat([found, pd.Series({"together": seconds[base] / seconds[label]})])


def _answer(answerer: Answerer, pictures: list, prompts: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    given = answerer.answer(pictures, prompts, {"max_new_tokens": NEW_TOKENS})
    seconds = time.perf_counter() - started
    tokens = sum(answer.visual_tokens for answer in given)
    return {"visual_tokens": tokens / len(given), "images_per_s": len(given) / seconds}
