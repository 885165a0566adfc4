"""One method, or several, on the same questions: scores, every answer, tables and speed."""

import io
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import datasets  # noqa: F401  lmms_eval imported first prints of a circular import
import pandas as pd
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager
from loguru import logger
from tenacity import RetryError
from tqdm import tqdm

from prumerge.experiments.arguments import named_values
from prumerge.experiments.evaluation.answering import Answerer
from prumerge.experiments.evaluation.beside import titles
from prumerge.experiments.evaluation.harness import PruMergeLlava, no_bar
from prumerge.experiments.evaluation.memory import reset_peak
from prumerge.experiments.evaluation.mini_tasks import BENCHMARKS, drawn_file
from prumerge.experiments.evaluation.options import FIELDS, read
from prumerge.experiments.evaluation.results import merge_into, questions_of, rows_of
from prumerge.experiments.evaluation.scoring import (
    MAIN_METRICS,
    best_constant,
    score_interval,
)
from prumerge.experiments.evaluation.tasks import (
    drawn_for,
    is_local,
    parts_of,
    take_inventory,
    task_manager,
    tasks_named,
)
from prumerge.experiments.statistics import paired, significance
from prumerge.experiments.sweeps import handling
from prumerge.mini.styles import style_of
from prumerge.models.preprocessing import open_picture
from prumerge.settings import suggestion

COMPARED = (
    "full",
    "release",
    "release+",
    "paper",
    "paper+",
    "paper-literal",
    "tuned-handling",
    "release@64",
    "tuned-handling@64",
    "tuned@64",
    "top_k@64:positions=original",
    "divprune@64:positions=original",
)
"""Full tokens; PruMerge and PruMerge+ as released and as written; the released tokens as all tokens
are sent, in raster order at their own position ids; and with 64 tokens, so handled, two rivals."""

CONSTANT = "constant answer"
NEW_TOKENS = 6  # as the mini tasks allow
NO_PICTURES = Namespace(process_with_media=False, output_path=None)
"""Tells the harness, in its command line's terms, not to decode each picture again to score."""


def evaluate(
    tasks: Sequence[str] = ("mini",),
    limit: int | None = None,
    folders: Sequence[str | Path] = (),
    **arguments: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Evaluate one model with one method on tasks; return rows and all that the harness returns.

    The answer to each question is in its ``samples``; ``efforts``, what answers took, is added. On
    any process but the first: an empty table and {}. ``folders`` hold task files of your own.
    """
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    manager = task_manager(*folders)
    names = tasks_named(drawn_for(tasks, read(arguments).pretrained), manager, limit)
    parts = [part for name in names for part in parts_of(name, manager)]
    # Files here are looked at before a model is loaded; what is on the hub may still be fetched.
    if wrong := _unreadable([part for part in parts if is_local(part, manager)], manager):
        raise ValueError(wrong)
    model = PruMergeLlava(**arguments)
    try:
        with mock.patch.object(evaluator, "tqdm", no_bar):
            results = evaluator.simple_evaluate(
                model=model,
                tasks=names,
                task_manager=manager,
                limit=limit,
                batch_size=model.batch_size,
                bootstrap_iters=0,
                log_samples=True,
                cli_args=NO_PICTURES,
            )
    except (ImportError, RetryError) as error:
        # What the harness makes of a ValueError about PRUMERGE_DATA, or about a data set.
        if isinstance(error, ImportError) and not isinstance(error.__cause__, ValueError):
            raise
        cause = error.__cause__
        told = _unreadable(parts, manager) or f"{type(cause).__name__}: {cause}"
        raise ValueError(told) from error
    model.gather()
    if results is None:
        return pd.DataFrame(), {}
    results["efforts"] = model.efforts
    table = pd.DataFrame(rows_of(results, model))
    place = {name: number for number, name in enumerate(names)}
    return table.sort_values("task", key=lambda tasks: tasks.map(place), kind="stable"), results


def _unreadable(parts: Sequence[str], manager: TaskManager) -> str:
    """Name the tasks whose questions cannot be read, with the remedies; "" if all can."""
    found = [take_inventory(part, manager) for part in parts]
    return "\n".join(f"{own.task}: {own.note}" for own in found if not own.ready)


def method_of(label: str) -> dict[str, Any]:
    """Read a method, its budget per picture (tokens, or a share below 1) and other settings.

    Example:
        >>> method_of("paper+"), method_of("top_k@64:positions=original")
        ({'method': 'paper+'}, {'positions': 'original', 'method': 'top_k', 'budget': 64})
    """
    name, colon, pairs = label.partition(":")
    method, sign, budget = name.partition("@")
    try:
        settings = named_values(pairs.split(",")) if colon else {}
    except ValueError as error:
        raise ValueError(f"{label!r}: {error}") from None
    known = [field for field in FIELDS if field != "budget"]  # that one stands behind @
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{label!r}: no setting {setting!r}: {suggestion(setting, known)}")
    settings["method"] = method
    if sign:
        try:
            settings["budget"] = float(budget) if "." in budget else int(budget)
        except ValueError:
            raise ValueError(f"{label!r} names no budget: write such as {method}@64") from None
    return settings


def compare(
    labels: Sequence[str] = COMPARED,
    tasks: Sequence[str] = ("mini",),
    limit: int | None = None,
    save: str | Path | None = None,
    **arguments: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate one model with several methods on some tasks.

    Args:
        labels: Methods, such as ``release@64`` or ``release@64:order=raster``; ``full`` sends all.
        tasks: Names; ``mini``, ``mini_full`` or ``real`` for all six. The first two are drawn in
            the scenes that the model was trained on.
        limit: Questions per task, from the first on; None asks all.
        save: Folder for ``rows.csv`` and ``questions.parquet``, written after each method; rows
            there of other methods or tasks are kept.
        **arguments: Of ``Options``: ``pretrained``, ``batch_size`` and so on, the same for all
            methods; with ``answers=FOLDER`` a killed comparison goes on.

    Returns:
        One row per method, task and metric: ``label`` is the method, ``low`` and ``high`` bound the
        score, ``constant`` is what ``constant_answer``, given to every question, scores. And the
        table of :func:`prumerge.experiments.evaluation.results.questions_of` with ``label``. On any
        process but the first of several: two empty tables.

    Raises:
        ValueError: If a name, a setting or a data set is wrong; all methods are checked first. If
            rows in the folder are of other weights, settings or numbers of questions.
        RuntimeError: If items cannot be answered; all others are by then.
    """
    methods = {label: method_of(label) for label in labels}
    for chosen in methods.values():
        read(arguments | chosen)
    tables, asked = [], []
    for label in tqdm(methods, unit="method"):
        rows, results = evaluate(tasks, limit, **arguments, **methods[label])
        if not results:
            continue
        questions = questions_of(results, results["efforts"]).assign(label=label)
        rows = judged(rows, questions, results.get("group_subtasks", {})).assign(label=label)
        asked.append(questions)
        tables.append(rows)
        if save:
            merge_into(Path(save), rows, questions)
    if not tables:
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(tables, ignore_index=True), pd.concat(asked, ignore_index=True)


def judged(
    rows: pd.DataFrame, questions: pd.DataFrame, groups: dict[str, Sequence[str]]
) -> pd.DataFrame:
    """Add to one method's scores how sure they are and what the best constant answer scores."""
    added = []
    for task, metric in zip(rows["task"], rows["metric"], strict=True):
        own = questions[questions["task"].isin(groups.get(task) or [task])]
        _, low, high = score_interval(metric, own)
        answer, constant = best_constant(metric, own)
        added.append({"low": low, "high": high, "constant": constant, "constant_answer": answer})
    return rows.assign(**pd.DataFrame(added, index=rows.index))


def main_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the score that papers print of each benchmark; MME's is its perception part.

    Of POPE's splits only the mean stays; where ``_full`` mini sets are among the rows, they alone.
    """
    metrics = {(name, metrics[0]) for name, metrics in MAIN_METRICS.items()}
    printed = pd.MultiIndex.from_frame(rows[["benchmark", "metric"]]).isin(metrics)
    rows = rows[printed & ~rows["task"].str.contains("pope_[rpa]")]
    larger = rows["task"].str.endswith("_full")
    return rows[larger] if larger.any() else rows


def score_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Show :func:`main_scores` with intervals, a row per method, a column per benchmark.

    Before them: visual tokens, and handling, as labels need not repeat it. The last row is the best
    constant answer's.
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
    # The stock model, which has no settings, sends every token at its own place.
    used = rows.groupby("label", sort=False)[list(handling.COLUMNS)].first().fillna(handling.EQUAL)
    table.insert(1, "order, positions", [handling.told(row) for row in used.to_dict("records")])
    constant = rows.groupby("task", sort=False)["constant"].max().map("{:.1f}".format)
    table.loc[CONSTANT] = pd.Series({"tokens": "0", "order, positions": "-"} | constant.to_dict())
    table = table.rename(columns=titles(rows["task"]), index=without_handling)
    return table.rename_axis(None).rename_axis(None, axis=1)


def without_handling(label: str) -> str:
    """Return a label without its order and positions, for tables that have a column for them.

    Example:
        >>> without_handling("top_k@64:positions=original"), without_handling("ats:seed=1")
        ('top_k@64', 'ats:seed=1')
    """
    method, _, pairs = label.partition(":")
    rest = [p for p in pairs.split(",") if p and p.partition("=")[0] not in handling.COLUMNS]
    return ":".join([method, *([",".join(rest)] if rest else [])])


def losses(questions: pd.DataFrame, base: str = "full") -> pd.DataFrame:
    """Compare each method with ``base``, question by question, in one row per task and method.

    ``mean`` is the difference of right answers in points of a hundred, negative for a loss, between
    the bounds ``low`` and ``high``; ``p``, not corrected for the number of tests, that chance alone
    explains it. Pictures are drawn, or their signs flipped, with all questions about them.
    """
    right = questions.pivot_table("right", ["task", "picture", "item"], "label", sort=False)
    rows = []
    for task, own in right.groupby("task", sort=False):
        pictures = own.index.get_level_values("picture")
        for label in own.columns.drop(base):
            found = paired(own[label], own[base], pictures)
            points = {name: 100 * value for name, value in found._asdict().items()}
            level = significance(own[label], own[base], pictures)
            rows.append({"task": task, "label": label} | points | {"p": level})
    return pd.DataFrame(rows)


def take_turns(
    labels: Sequence[str] = ("full", "release"),
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
    questions: int = 16,
    rounds: int = 3,
    **arguments: Any,
) -> pd.DataFrame:
    """Measure the batched evaluation of mini questions, methods in turns.

    After each batch another method's turn comes: what else the machine does meets all of them.

    Args:
        labels: Methods, as for :func:`compare`.
        benchmarks: Whose questions; TextVQA's ask once about each picture, MME's eight times.
        questions: Of each benchmark, from the first on.
        rounds: Times that all questions are asked. A batch of each method warms up first.
        **arguments: Of ``Options``: ``pretrained``, ``device``, ``batch_size`` and so on.

    Returns:
        One row per benchmark, method and turn; ``visual_tokens`` is a mean, ``images_per_s`` counts
        questions with their pictures answered per second, preparation included.
    """
    options = {label: read(arguments | method_of(label)) for label in labels}
    batch = options[labels[0]].batch_size
    reset_peak(arguments.get("device") or "cpu")  # an earlier model may hold on to itself
    answerer = Answerer(options[labels[0]], arguments.get("device") or "cpu")
    style = style_of(answerer.model).name
    rows = []
    for benchmark in benchmarks:
        table = pd.read_parquet(drawn_file(benchmark, style=style)).iloc[:questions]
        pictures = [open_picture(io.BytesIO(i["bytes"])) for i in table["image"]]
        prompts = [answerer.prompt(question) for question in table["question"]]
        repeats = len(table) / table["image_id"].nunique()
        batches = [slice(start, start + batch) for start in range(0, len(prompts), batch)]
        for turn, chosen in enumerate([batches[0], *batches * rounds]):
            for label in labels:
                answerer.options = options[label]
                found = _answer(answerer, pictures[chosen], prompts[chosen])
                named = {"benchmark": benchmark, "label": label, "turn": turn}
                rows.append(named | {"questions_per_picture": repeats} | found)
    measured = pd.DataFrame(rows)
    return measured[measured["turn"] > 0].reset_index(drop=True)


def ratios(measured: pd.DataFrame, label: str, base: str = "full") -> pd.Series:
    """Return how many times faster ``label`` is than ``base`` in rows of :func:`take_turns`.

    By benchmark, and last, as ``together``, by the seconds for a question of each. Of either the
    quickest turn counts: what else the machine does can only slow a turn down.
    """
    speeds = measured.pivot_table("images_per_s", "benchmark", "label", "max", sort=False)
    seconds = (1 / speeds).sum()
    together = pd.Series({"together": seconds[base] / seconds[label]})
    return pd.concat([speeds[label] / speeds[base], together])


def _answer(answerer: Answerer, pictures: list, prompts: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    given = answerer.answer(pictures, prompts, {"max_new_tokens": NEW_TOKENS})
    seconds = time.perf_counter() - started
    tokens = sum(answer.visual_tokens for answer in given)
    return {"visual_tokens": tokens / len(given), "images_per_s": len(given) / seconds}
