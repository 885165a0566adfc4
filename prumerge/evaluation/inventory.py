"""Whether the questions of a task are here, in the form in which scoring reads them.

Files are found as a run finds them, by the task's own file and the ``datasets`` library; nothing is
fetched, and no question is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset_builder
from datasets import config as library
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from prumerge.evaluation.results import benchmark_of
from prumerge.evaluation.scoring import PUBLISHED, check_columns, check_number
from prumerge.evaluation.sources import OWNER, REAL_PREFIX, REPOSITORIES, command

_SHARD = re.compile(r"(\d+)-of-(\d+)")


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
        What is here. Files are checked for the split and the columns that the task needs, each for
        its size, all of them for their number; a real benchmark's questions are counted.
    """
    benchmark = benchmark_of(task)
    published = PUBLISHED[benchmark] if task.startswith(REAL_PREFIX) else None
    try:
        config = load_yaml_config(manager.task_index[task]["yaml_path"])
        items, place = _questions(config, benchmark)
        if published:
            check_number(benchmark, items)
    except ImportError as error:  # what lmms-eval makes of a data set that `sources` does not find
        return Inventory(task, published, str(error.__cause__ or error), ready=False)
    except (OSError, ValueError) as error:
        reason, name = " ".join(str(error).split()), Path(config["dataset_path"]).name
        remedy = f": {command(name)}" if name in REPOSITORIES.values() else ""
        return Inventory(task, published, reason + remedy, ready=False)
    return Inventory(task, items, f"{items} questions in {place}", ready=True)


def missing_shards(files: Sequence[str]) -> list[str]:
    """Name the files that are absent from a set whose names say how many there are.

    Args:
        files: Names such as ``test-00000-of-00002.parquet``; others are passed over.

    Returns:
        The missing numbers of each set; numbers begin at 0 or, where the last is there, at 1.

    Example:
        >>> missing_shards(["a/test-00000-of-00002.parquet", "a/dev-00000-of-00001.parquet"])
        ['test-00001-of-00002']
    """
    sets: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        path = Path(file)
        if found := _SHARD.search(path.name):
            named = (str(path.parent), path.name[: found.start()], found[2])
            sets.setdefault(named, set()).add(int(found[1]))
    missing = []
    for (_, name, total), numbers in sets.items():
        first = int(int(total) in numbers)
        absent = sorted(set(range(first, first + int(total))) - numbers)
        missing += [f"{name}{number:0{len(total)}}-of-{total}" for number in absent]
    return missing


def is_local(task: str, manager: TaskManager) -> bool:
    """Tell whether a task's questions are files here, so that :func:`take_inventory` knows all."""
    try:
        path = load_yaml_config(manager.task_index[task]["yaml_path"]).get("dataset_path", "")
    except ImportError:  # a snapshot that `sources` does not find
        return True
    return path == "parquet" or Path(path).is_dir()


def _questions(config: dict[str, Any], benchmark: str | None) -> tuple[int, str]:
    """Count the questions, and say where they are."""
    builder, split, files = _found(config)
    if files is None:
        return _prepared(builder, split, config["dataset_path"], benchmark)
    if absent := missing_shards(files):
        raise ValueError(f"{Path(files[0]).parent} lacks {', '.join(absent)}")
    found = [_read(file) for file in files]
    for file in found:
        if benchmark:
            check_columns(benchmark, file.schema.to_arrow_schema().names)
    return sum(file.num_rows for file in found), str(Path(files[0]).parent.resolve())


def first_question(task: str, manager: TaskManager) -> tuple[str, Dataset]:
    """Read the first question of a task, without preparing the others.

    Args:
        task: No group; its questions are here.
        manager: That knows it.

    Returns:
        The split, and a data set of one row.
    """
    builder, split, files = _found(load_yaml_config(manager.task_index[task]["yaml_path"]))
    if files is None:
        return split, builder.as_dataset(split=f"{split}[:1]")
    batch = next(pq.ParquetFile(files[0]).iter_batches(batch_size=1))
    question = Dataset(pa.Table.from_batches([batch]))
    return split, question.cast(builder.info.features) if builder.info.features else question


def _found(config: dict[str, Any]) -> tuple[Any, str, Sequence[str] | None]:
    """Return what loads a task's data set, the split, and its files; None where not as Parquet."""
    path, options = config["dataset_path"], dict(config.get("dataset_kwargs") or {})
    if path.startswith(f"{OWNER}/") and not library.HF_HUB_OFFLINE:
        path = _fetched(path)
    builder = load_dataset_builder(path, config.get("dataset_name"), **options)
    split = config["test_split"]
    return builder, split, (builder.config.data_files or {}).get(split)


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
        found = pq.read_metadata(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
    needed = sum(chunk.total_compressed_size for chunk in chunks) + found.serialized_size
    if needed > (size := Path(file).stat().st_size):
        raise ValueError(f"{file} is cut off: {size} bytes of at least {needed}")
    return found
