"""What a run needs and how long it takes, before anything expensive starts."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from huggingface_hub import constants, try_to_load_from_cache

from prumerge.evaluation.mini_tasks import path_of
from prumerge.evaluation.options import Options
from prumerge.evaluation.random_model import RANDOM
from prumerge.evaluation.sources import OWNER, REPOSITORIES, source
from prumerge.paths import MINI
from prumerge.roofline import HARDWARE, estimate_costs, estimate_memory, read_shape, weight_bytes

ITEMS = {
    "prumerge_vqav2_val": ("VQAV2", 214_354),
    "prumerge_scienceqa_img": ("SCIENCEQA", 2_017),
    "prumerge_textvqa_val": ("TEXTVQA", 5_000),
    "prumerge_textvqa_val_ocr": ("TEXTVQA", 5_000),
    "prumerge_pope": ("POPE", 9_000),
    "prumerge_mme": ("MME", 2_374),
    "prumerge_mmbench_en_dev": ("MMBENCH", 4_329),
}
"""Data set and number of questions of each real task."""

TEXT_TOKENS = 60  # of a typical prompt, instruction included
NEW_TOKENS = 4  # of a typical answer: a word or a letter
SHARES = {"none": 0.06, "stride": 0.25, "lattice": 0.25}
"""Share of the patches that PruMerge and PruMerge+ keep on average: 5.5 and 25 percent in print."""

ABOVE_FLOOR = 4  # measured runs take a few times the roofline's floor: loading, decoding, overhead


@dataclass(frozen=True)
class Finding:
    """One thing that a run needs.

    Attributes:
        need: What it is.
        ready: Whether it is there; None where this cannot be told here.
        note: What was found, or what to do.
    """

    need: str
    ready: bool | None
    note: str


def preflight(
    options: Options, tasks: Sequence[str], limit: int | None = None, hardware: str = "H100"
) -> list[Finding]:
    """Look for everything a run needs.

    Args:
        options: Of the model.
        tasks: Names of tasks.
        limit: Questions per task; None asks all.
        hardware: Card the length is estimated for, a name in ``prumerge.roofline.HARDWARE``.

    Returns:
        Findings about weights, data, memory, disk, and length; nothing is fetched or loaded.

    Raises:
        ValueError: If the card is not known.
    """
    if hardware not in HARDWARE:
        raise ValueError(f"unknown hardware {hardware!r}: there are {', '.join(HARDWARE)}")
    weights = find_weights(options.pretrained)
    size = _size(options.pretrained)
    return [
        weights,
        *(find_data(task) for task in tasks),
        find_memory(options, size),
        find_disk(weights, size),
        *(_length(options, task, size, limit, hardware) for task in tasks),
    ]


def find_weights(pretrained: str) -> Finding:
    """Look for a checkpoint: the embedded one, a random one, a folder, or the hub's cache."""
    if pretrained in RANDOM:
        return Finding("weights", True, "random, drawn on the device")
    name, _, revision = pretrained.partition("@")
    folder = MINI if name == "mini" else Path(name)
    if name == "mini" or folder.exists():
        found = any(folder.glob("*.safetensors")) and (folder / "config.json").exists()
        return Finding("weights", found, f"{folder}" if found else f"{folder} holds no checkpoint")
    for file in ("model.safetensors.index.json", "model.safetensors"):
        cached = try_to_load_from_cache(name, file, revision=revision or None)
        if isinstance(cached, str):
            return Finding("weights", True, str(Path(cached).parent))
    return Finding("weights", False, f"not in the hub's cache: hf download {name}")


def find_data(task: str) -> Finding:
    """Look for the questions of a task, and count them where they are files."""
    need = f"data of {task}"
    if task.startswith("mini_"):
        size = "full" if task.endswith("_full") else "lite"
        path = path_of(task.removeprefix("mini_").removesuffix("_full"), size)
        if not path.exists():
            return Finding(need, False, f"python -m prumerge.evaluation.mini_tasks {size}")
        return Finding(need, True, f"{pq.read_metadata(path).num_rows} questions")
    if task not in ITEMS:
        return Finding(need, None, "not one of this package's tasks")
    name = REPOSITORIES[ITEMS[task][0]]
    try:
        found = source(name)
    except ValueError as error:
        return Finding(need, False, str(error))
    if found != f"{OWNER}/{name}":
        files = sorted(Path(found).rglob("*.parquet"))
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        return Finding(need, True, f"{found}: {rows} rows in {len(files)} files")
    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{OWNER}--{name}" / "snapshots"
    if cached.is_dir():
        return Finding(need, True, f"{cached}")
    hint = f"hf download --repo-type dataset {OWNER}/{name} --local-dir $PRUMERGE_DATA/{name}"
    return Finding(need, False, f"not in the hub's cache: {hint}")


def find_memory(options: Options, size: str | None) -> Finding:
    """Compare what a batch needs with what the device has."""
    if size is None:
        return Finding("memory", None, "the sizes of this model are not known here")
    tokens = TEXT_TOKENS + _patches(size)
    needed = estimate_memory(size, tokens, batch=options.batch_size)["footprint_bytes"].item()
    note = f"about {needed / 2**30:.1f} GiB in half precision at batch size {options.batch_size}"
    if not torch.cuda.is_available():
        wanted = str(options.device).startswith("cuda")
        return Finding("memory", not wanted, note + ", but there is no CUDA device" * wanted)
    free, _ = torch.cuda.mem_get_info()
    return Finding("memory", needed < free, f"{note}; {free / 2**30:.1f} GiB are free")


def find_disk(weights: Finding, size: str | None) -> Finding:
    """Compare the space that missing weights take with what is free."""
    free = shutil.disk_usage(Path(constants.HF_HUB_CACHE).anchor or "/").free
    needed = 0.0 if weights.ready or size is None else weight_bytes(size)
    note = f"{needed / 2**30:.1f} GiB for weights to fetch, {free / 2**30:.1f} GiB are free"
    return Finding("disk", needed < free, note + "; data sets come on top where they are missing")


def _size(pretrained: str) -> str | None:
    if pretrained == "mini" or Path(pretrained).exists():
        return pretrained
    return next((name for name in ("7b", "13b") if name in pretrained.lower()), None)


def _patches(size: str) -> int:
    return read_shape(size).vision.patches


def _tokens(options: Options, size: str) -> int:
    patches, reducer = _patches(size), options.reducer()
    if reducer is None:
        return patches
    kept = reducer.settings.tokens_of(patches)
    return kept or round(SHARES[reducer.settings.spatial] * patches)


def _length(
    options: Options, task: str, size: str | None, limit: int | None, hardware: str
) -> Finding:
    need, data = f"time of {task}", find_data(task)
    items = ITEMS[task][1] if task in ITEMS else int(data.note.split()[0]) if data.ready else None
    if size is None or items is None:
        return Finding(need, None, "not known before the weights and questions are here")
    items = min(items, limit or items)
    if not (str(options.device).startswith("cuda") or torch.cuda.is_available()):
        return Finding(need, None, f"{items} questions; measure a CPU with a small limit")
    tokens = _tokens(options, size)
    costs = estimate_costs(
        size,
        TEXT_TOKENS + tokens,
        hardware,
        batch=options.batch_size,
        text_tokens=TEXT_TOKENS,
        new_tokens=NEW_TOKENS,
    )
    floor_s = costs["time_ms"].sum() / 1e3 / options.batch_size * items
    return Finding(
        need,
        None,
        f"{items} questions, about {tokens} visual tokens each: "
        f"{_duration(floor_s)} to {_duration(ABOVE_FLOOR * floor_s)} on one {hardware}",
    )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.1f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
