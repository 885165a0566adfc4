"""The tasks by name, and their questions: where they are, whether all are there and fit to score.

``PRUMERGE_DATA`` names a folder of snapshots, one per data set and named like it, as made by
``hf download --repo-type dataset lmms-lab-encoder/POPE --local-dir $PRUMERGE_DATA/POPE``; without
it data sets are the hub's. Looking for questions fetches nothing and reads none: files are found as
a run finds them, by the task's own file and the ``datasets`` library.
"""

import hashlib
import os
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

from prumerge.experiments.evaluation.mini_tasks import BENCHMARKS, drawn_file
from prumerge.experiments.evaluation.scoring import YES_NO, benchmark_of, place_of
from prumerge.mini.styles import PLAIN, STYLES, style_of
from prumerge.models.loading import read_config
from prumerge.models.random_weights import RANDOM
from prumerge.settings import suggestion

TASKS = Path(__file__).parent / "tasks"
SIZES = {"": "lite", "_full": "full"}
"""Sizes of the drawn sets, by what their names end with."""
REAL = (
    "prumerge_vqav2_val",
    "prumerge_scienceqa_img",
    "prumerge_textvqa_val",
    "prumerge_textvqa_val_ocr",
    "prumerge_pope",
    "prumerge_mme",
    "prumerge_mmbench_en_dev",
)
SETS = {"real": REAL} | {
    style + size: tuple(f"{style}_{name}{size}" for name in BENCHMARKS)
    for style in STYLES
    for size in SIZES
}
"""Names that stand for all six benchmarks; see :func:`drawn_for` for ``mini``."""

COLUMNS = {
    "vqav2": ("image", "question", "answers", "question_id"),
    "scienceqa": ("image", "question", "choices", "answer", "hint"),
    "textvqa": ("image", "question", "answers", "question_id", "ocr_tokens"),
    "pope": ("image", "question", "answer", "question_id"),
    "mme": ("image", "question", "answer", "question_id", "category"),
    "mmbench": (
        *("image", "question", "answer", "index", "hint", "category", "L2-category", "source"),
        *("split", "A", "B"),
    ),
}
"""Columns that the harness reads."""

PUBLISHED = {
    "vqav2": 214_354,
    "scienceqa": 2_017,
    "textvqa": 5_000,
    "pope": 3_000,
    "mme": 2_374,
    "mmbench": 4_329,
}
"""Questions that the publishers state, of the split that is asked; POPE's, of each of its three."""

OWNER = "lmms-lab-encoder"
FOLDER_VARIABLE = "PRUMERGE_DATA"
REAL_PREFIX = "prumerge_"  # of the names of the real tasks
REPOSITORIES = {
    "VQAV2": "VQAv2",
    "SCIENCEQA": "ScienceQA",
    "TEXTVQA": "textvqa",
    "POPE": "POPE",
    "MME": "MME",
    "MMBENCH": "MMBench",
}

_SHARD = re.compile(r"(\d+)-of-(\d+)")


def task_manager(*folders: str | Path) -> TaskManager:
    """Collect the tasks of this package, and of folders of your own; no name may be there twice.

    The harness's built-in tasks are left out: their names would win over ours.
    """
    owners: dict[str, str] = {}
    included = [str(folder) for folder in (TASKS, *folders)]
    for folder in included:
        manager = TaskManager("ERROR", folder, include_defaults=False)
        for name in manager.all_tasks:
            if name in owners:
                raise ValueError(f"task {name!r} is in {owners[name]} and in {folder}: rename one")
            owners[name] = folder
    return TaskManager("ERROR", included, include_defaults=False) if folders else manager


def drawn_for(tasks: Sequence[str], pretrained: str) -> list[str]:
    """Let ``mini`` and ``mini_full`` stand for the benchmarks in the scenes that a model knows.

    Those of ``pocket``, say, for a model trained on its style. All other names stay: tasks may be
    asked one by one of any model.
    """
    if pretrained in RANDOM or not {PLAIN.name, f"{PLAIN.name}_full"} & set(tasks):
        return list(tasks)
    try:
        style = style_of(read_config(pretrained, any_family=True)).name
    except ValueError:  # loading the model will say so
        return list(tasks)
    own = {PLAIN.name + size: style + size for size in SIZES}
    return [own.get(name, name) for name in tasks]


def tasks_named(names: Sequence[str], manager: TaskManager, limit: int | None = None) -> list[str]:
    """Check task names, and that scenes are drawn; names of ``SETS`` stand for all six."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; without it all are asked")
    chosen: list[str] = []
    for name in names:
        chosen += SETS.get(name, (name,))
    for name in chosen:
        if name not in manager.all_tasks:
            raise ValueError(f"unknown task {name!r}: {suggestion(name, manager.all_tasks)}")
        style, _, benchmark = name.removesuffix("_full").partition("_")
        if style in STYLES and benchmark in BENCHMARKS:
            drawn_file(benchmark, "full" if name.endswith("_full") else "lite", style)
    return list(dict.fromkeys(chosen))


def source(name: str) -> str:
    """Find a data set: its snapshot in the folder of ``PRUMERGE_DATA``, else its hub id."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return f"{OWNER}/{name}"
    snapshot = Path(folder).resolve() / name
    if not any(snapshot.rglob("*.parquet")):
        raise ValueError(
            f"{FOLDER_VARIABLE} is {folder}, but {snapshot} holds no Parquet file: {command(name)}"
        )
    return str(snapshot)


def command(name: str) -> str:
    """Return what fetches a data set to where :func:`source` looks for it."""
    folder = os.environ.get(FOLDER_VARIABLE)
    place = Path(folder).resolve() if folder else f"${FOLDER_VARIABLE}"
    return f"hf download --repo-type dataset {OWNER}/{name} --local-dir {place}/{name}"


def options(name: str) -> dict[str, str]:
    """Return how the ``datasets`` library is to load a data set; the hub's revisions need nothing.

    Its cache knows a folder by its last name alone: without a place of its own in that cache, a
    changed snapshot, or another folder's of the same name, would be answered with the old rows.
    """
    folder = Path(source(name))
    if not folder.is_absolute():
        return {}
    seen = hashlib.sha256(str(folder).encode())
    for file in sorted(folder.rglob("*.parquet")):
        state = file.stat()
        seen.update(f"{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns}".encode())
    return {"cache_dir": str(Path(library.HF_DATASETS_CACHE) / f"prumerge-{seen.hexdigest()[:16]}")}


def __getattr__(name: str) -> Any:
    """Find what task files name: POPE, POPE_OPTIONS, pope_check, pope_published and so on."""
    # Looked up when a task is loaded, so that a missing snapshot stops that task alone.
    constant, benchmark = name.removesuffix("_OPTIONS"), name.rpartition("_")[0]
    if constant in REPOSITORIES:
        found = source if name == constant else options
        return found(REPOSITORIES[constant])
    if benchmark in PUBLISHED and name.endswith(("_check", "_published")):
        return lambda rows: check(benchmark, rows, name.endswith("_published"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check(benchmark: str, rows: Dataset, published: bool = False) -> Dataset:
    """Refuse questions that scoring would stumble over, before any is asked."""
    check_columns(benchmark, rows.column_names)
    if published:
        check_number(benchmark, len(rows))
    kept = set(rows.column_names) & {"answer", "answers", "choices", "index", *"ABCDE"}
    for number, row in enumerate(rows.select_columns(sorted(kept))):
        if fault := _fault(benchmark, row):
            raise ValueError(f"{benchmark}, item {number}: {fault}, it cannot be scored")
    return rows


def check_columns(benchmark: str, found: Sequence[str]) -> None:
    """Refuse a data set without the columns that scoring reads."""
    missing = [name for name in COLUMNS[benchmark] if name not in found]
    if missing:
        raise ValueError(
            f"the data set of {benchmark} lacks {', '.join(missing)}; it has {', '.join(found)}"
        )


def check_number(benchmark: str, found: int) -> None:
    """Refuse another number of questions than ``PUBLISHED``."""
    if found != PUBLISHED[benchmark]:
        raise ValueError(
            f"the data set of {benchmark} has {found} questions here, {PUBLISHED[benchmark]} are "
            "published: a part is missing, or it is another one"
        )


def _fault(benchmark: str, row: dict[str, Any]) -> str | None:
    """Say what keeps a question's answer from being scored; None where nothing does."""
    column = "answers" if benchmark in ("vqav2", "textvqa") else "answer"
    answer = row[column]
    if answer in (None, "", []):
        return f"{column} is empty"
    if benchmark in ("pope", "mme") and answer.lower().strip(" .") not in YES_NO:
        return f"{column} is {answer!r}, not yes or no"
    if benchmark == "scienceqa" and not 0 <= place_of(answer) < len(row["choices"]):
        return f"{column} is {answer!r}, none of its {len(row['choices'])} choices"
    if benchmark == "mmbench":
        options = [o for o in "ABCDE" if row.get(o) not in (None, "", "nan")]
        if answer not in options:
            return f"{column} is {answer!r}, none of {', '.join(options)}"
        if not str(row["index"]).isdecimal():
            return f"index is {row['index']!r}, no whole number"
    return None


@dataclass(frozen=True)
class Inventory:
    """What is here of a task's questions; ``note`` tells where, or what is wrong and what to do.

    ``items`` are as published where none are here, None where neither number is known.
    """

    task: str
    items: int | None
    note: str
    ready: bool


def _config(task: str, manager: TaskManager) -> dict[str, Any]:
    return load_yaml_config(manager.task_index[task]["yaml_path"])


def parts_of(task: str, manager: TaskManager) -> list[str]:
    """Return the tasks that a group averages, or the task itself."""
    if manager.task_index[task]["type"] != "group":
        return [task]
    return _config(task, manager)["task"]


def take_inventory(task: str, manager: TaskManager) -> Inventory:
    """Look for the questions of one task, which is no group.

    Files are checked for split, columns, size and number; a real benchmark's questions are counted.
    """
    benchmark = benchmark_of(task)
    published = PUBLISHED[benchmark] if task.startswith(REAL_PREFIX) else None
    try:
        config = _config(task, manager)
        items, place = _questions(config, benchmark)
        if published:
            check_number(benchmark, items)
    except ImportError as error:  # what lmms-eval makes of a data set that `source` does not find
        return Inventory(task, published, str(error.__cause__ or error), ready=False)
    except (OSError, ValueError) as error:
        reason, name = " ".join(str(error).split()), Path(config["dataset_path"]).name
        remedy = f": {command(name)}" if name in REPOSITORIES.values() else ""
        return Inventory(task, published, reason + remedy, ready=False)
    return Inventory(task, items, f"{items} questions in {place}", ready=True)


def missing_shards(files: Sequence[str]) -> list[str]:
    """Name the files absent from a set whose names count them, from 0 or, as some do, from 1.

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
    """Tell whether a task's questions are files here, so that an inventory knows all of them."""
    try:
        path = _config(task, manager).get("dataset_path", "")
    except ImportError:  # a snapshot that `source` does not find
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
    """Return a task's split and a data set of its first question, without preparing the others."""
    builder, split, files = _found(_config(task, manager))
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
