"""Whether the questions of a task are here, in the form in which scoring reads them.

Files are found as a run finds them, by the task's own file and the ``datasets`` library; nothing is
fetched, and no question is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import config as library
from datasets import load_dataset_builder
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from prumerge.evaluation.rows import benchmark_of
from prumerge.evaluation.scoring import check_columns
from prumerge.evaluation.sources import OWNER, REPOSITORIES, command

PUBLISHED = {
    "prumerge_vqav2_val": 214_354,
    "prumerge_scienceqa_img": 2_017,
    "prumerge_textvqa_val": 5_000,
    "prumerge_textvqa_val_ocr": 5_000,
    "prumerge_pope_random": 3_000,
    "prumerge_pope_popular": 3_000,
    "prumerge_pope_adversarial": 3_000,
    "prumerge_mme": 2_374,
    "prumerge_mmbench_en_dev": 4_329,
}
"""Questions of each real task, as published."""


@dataclass(frozen=True)
class Inventory:
    """What is here of a task's questions.

    Attributes:
        task: Name of the task.
        items: Questions here, else as published; None where neither is known.
        note: Where they are, or what is wrong and what to do.
        ready: Whether a run can read them.
    """

    task: str
    items: int | None
    note: str
    ready: bool


def parts_of(task: str, manager: TaskManager) -> list[str]:
    """Return the tasks that a group averages, or the task itself."""
    if manager.task_index[task]["type"] != "group":
        return [task]
    return load_yaml_config(manager.task_index[task]["yaml_path"])["task"]


def take_inventory(task: str, manager: TaskManager) -> Inventory:
    """Look for the questions of one task.

    Args:
        task: No group.
        manager: That knows it.

    Returns:
        What is here. Files are checked for the split and the columns that the task needs.
    """
    try:
        config = load_yaml_config(manager.task_index[task]["yaml_path"])
        items, place = _questions(config, benchmark_of(task))
    except ImportError as error:  # what lmms-eval makes of a data set that `sources` does not find
        return Inventory(task, PUBLISHED.get(task), str(error.__cause__ or error), ready=False)
    except (OSError, ValueError) as error:
        reason, name = " ".join(str(error).split()), Path(config["dataset_path"]).name
        remedy = f": {command(name)}" if name in REPOSITORIES.values() else ""
        return Inventory(task, PUBLISHED.get(task), reason + remedy, ready=False)
    return Inventory(task, items, f"{items} questions in {place}", ready=True)


def _questions(config: dict[str, Any], benchmark: str | None) -> tuple[int, str]:
    """Count the questions, and say where they are."""
    path, options = config["dataset_path"], dict(config.get("dataset_kwargs") or {})
    if path.startswith(f"{OWNER}/") and not library.HF_HUB_OFFLINE:
        path = _fetched(path)
    name, split = config.get("dataset_name"), config["test_split"]
    builder = load_dataset_builder(path, name, **options)
    files = (builder.config.data_files or {}).get(split)
    if files is None:
        return _prepared(builder, split, path, benchmark)
    found = [_read(file) for file in files]
    for file in found:
        if benchmark:
            check_columns(benchmark, file.schema.to_arrow_schema().names)
    return sum(file.num_rows for file in found), str(Path(files[0]).parent.resolve())


def _prepared(builder: Any, split: str, path: str, benchmark: str | None) -> tuple[int, str]:
    """Count what the ``datasets`` library keeps of the hub's: all that is there without the hub."""
    splits, features = builder.info.splits or {}, builder.info.features or {}
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}, only {list(splits)}")
    if benchmark:
        check_columns(benchmark, list(features))
    return splits[split].num_examples, builder.cache_dir


def _fetched(repository: str) -> str:
    try:
        return snapshot_download(repository, repo_type="dataset", local_files_only=True)
    except LocalEntryNotFoundError:
        raise ValueError(f"{repository} is not in the hub's cache") from None


def _read(file: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
