"""An evaluation in one call: model and method by name, tasks by name, rows back."""

import sys
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

from prumerge.evaluation.harness import PruMergeLlava
from prumerge.evaluation.inventory import is_local, parts_of, take_inventory
from prumerge.evaluation.mini_tasks import BENCHMARKS, path_of
from prumerge.evaluation.results import rows_of
from prumerge.settings import suggestion

TASKS = Path(__file__).parent / "tasks"
MINI = tuple(f"mini_{name}" for name in BENCHMARKS)
REAL = (
    "prumerge_vqav2_val",
    "prumerge_scienceqa_img",
    "prumerge_textvqa_val",
    "prumerge_textvqa_val_ocr",
    "prumerge_pope",
    "prumerge_mme",
    "prumerge_mmbench_en_dev",
)

SETS = {"mini": MINI, "mini_full": tuple(f"{name}_full" for name in MINI), "real": REAL}
"""Names that stand for all six benchmarks."""

NO_PICTURES = Namespace(process_with_media=False, output_path=None)
"""Tells the harness, in its command line's terms, not to decode each picture again to score."""


def task_manager(*folders: str | Path) -> TaskManager:
    """Collect the tasks of this package, and of folders of your own.

    Args:
        *folders: With task files.

    Returns:
        A manager without the harness's built-in tasks, whose names would win over ours.

    Raises:
        ValueError: If two files define a task of the same name.
    """
    owners: dict[str, str] = {}
    for folder in (TASKS, *folders):
        for name in TaskManager("ERROR", str(folder), include_defaults=False).all_tasks:
            if name in owners:
                raise ValueError(f"task {name!r} is in {owners[name]} and in {folder}: rename one")
            owners[name] = str(folder)
    included = [str(folder) for folder in (TASKS, *folders)]
    return TaskManager("ERROR", included, include_defaults=False)


def tasks_named(names: Sequence[str], manager: TaskManager, limit: int | None = None) -> list[str]:
    """Check task names; ``mini``, ``mini_full`` and ``real`` stand for all six.

    Raises:
        ValueError: If a task is unknown, its file of questions is not drawn yet, or fewer than one
            question of each is wanted.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; without it all are asked")
    chosen: list[str] = []
    for name in names:
        chosen += SETS.get(name, (name,))
    for name in chosen:
        if name not in manager.all_tasks:
            raise ValueError(f"unknown task {name!r}: {suggestion(name, manager.all_tasks)}")
        benchmark = name.removeprefix("mini_").removesuffix("_full")
        size = "full" if name.endswith("_full") else "lite"
        if name.startswith("mini_") and not path_of(benchmark, size).exists():
            raise ValueError(
                f"the questions of {name} are not drawn yet: "
                f"python -m prumerge.evaluation.mini_tasks {size}"
            )
    return list(dict.fromkeys(chosen))


def evaluate(
    tasks: Sequence[str] = ("mini",),
    limit: int | None = None,
    folders: Sequence[str | Path] = (),
    **arguments: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Evaluate one model with one method on some tasks.

    Args:
        tasks: Names of tasks; ``mini`` or ``real`` for all six.
        limit: Questions per task, from the first on; None asks all.
        folders: With task files of your own.
        **arguments: Of :class:`prumerge.evaluation.harness.PruMergeLlava`: ``pretrained``,
            ``method``, ``budget``, ``batch_size``, ``answers`` and so on.

    Returns:
        The rows, and all that the harness returns, with the answer to each question under
        ``samples``; what answers took is added under ``efforts``. On any process but the first
        of several: an empty table and {}.

    Raises:
        ValueError: If a name, a setting or a data set is wrong.
        RuntimeError: If items cannot be answered; all others are by then.
    """
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    manager = task_manager(*folders)
    names = tasks_named(tasks, manager, limit)
    parts = [part for name in names for part in parts_of(name, manager)]
    # Files here are looked at before a model is loaded; what is on the hub may still be fetched.
    if wrong := _unreadable([part for part in parts if is_local(part, manager)], manager):
        raise ValueError(wrong)
    model = PruMergeLlava(**arguments)
    try:
        # Scoring takes a moment; its bars would show even where TQDM_DISABLE is set.
        with mock.patch.object(evaluator, "tqdm", _no_bar):
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


def _no_bar(*arguments: Any, **options: Any) -> tqdm:
    return tqdm(*arguments, **options | {"disable": True})
