"""What a run needs and how long it takes, before anything expensive starts."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants, try_to_load_from_cache

from prumerge.evaluation.inventory import Inventory, parts_of, take_inventory
from prumerge.evaluation.length import TEXT_TOKENS, lengths, patches_of
from prumerge.evaluation.options import Options
from prumerge.evaluation.runs import task_manager, tasks_named
from prumerge.models.loading import find_precision
from prumerge.models.random_weights import RANDOM
from prumerge.paths import MINI
from prumerge.roofline import HARDWARE, ModelShape, Precision, estimate_memory, weight_bytes


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
    methods: Mapping[str, Options],
    tasks: Sequence[str],
    limit: int | None = None,
    hardware: str = "H100",
) -> list[Finding]:
    """Look for everything a run needs.

    Args:
        methods: Options by label, of one model.
        tasks: As for :func:`prumerge.evaluation.runs.evaluate`.
        limit: Questions per task; None asks all.
        hardware: Card the length is estimated for, a name in ``prumerge.roofline.HARDWARE``.

    Returns:
        Findings about weights, data, memory, disk, and length; nothing is fetched or loaded.

    Raises:
        ValueError: If the card or a task is not known, or the limit impossible.
    """
    if hardware not in HARDWARE:
        raise ValueError(f"unknown hardware {hardware!r}: there are {', '.join(HARDWARE)}")
    manager, (options, *_) = task_manager(), methods.values()
    parts = [p for task in tasks_named(tasks, manager, limit) for p in parts_of(task, manager)]
    data = [take_inventory(part, manager) for part in parts]
    weights, size = find_weights(options.pretrained), _size(options.pretrained)
    return [
        weights,
        *(Finding(f"data of {own.task}", own.ready, own.note) for own in data),
        find_memory(options, size),
        find_disk(weights, size),
        *_lengths(methods, data, limit, size, hardware),
    ]


def find_weights(pretrained: str) -> Finding:
    """Look for a checkpoint: the embedded one, a random one, a folder, or the hub's cache."""
    if pretrained in RANDOM:
        return Finding("weights", True, "random, drawn on the device")
    name, _, revision = pretrained.partition("@")
    folder = MINI if name == "mini" else Path(name)
    if name == "mini" or folder.exists():
        lacking = _lacking(lambda file: str(folder / file) if (folder / file).exists() else None)
        return Finding("weights", not lacking, f"{folder}" + f" lacks {lacking}" * bool(lacking))
    lacking = _lacking(lambda file: try_to_load_from_cache(name, file, revision=revision or None))
    if not lacking:
        return Finding("weights", True, f"{pretrained} is in the hub's cache")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return Finding("weights", False, f"the hub's cache lacks {lacking}: {command}")


def _lacking(find: Callable[[str], object]) -> str:
    """Name what is missing of a checkpoint, given where its files are; "" if nothing is."""
    files = ["model.safetensors"]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(index := find(f"{name}.index.json"), str):
            # An interrupted download leaves this list, and some of its files.
            text = Path(index).read_text(encoding="utf-8")
            files = sorted(set(json.loads(text)["weight_map"].values()))
            break
        if isinstance(find(name), str):
            files = [name]
            break
    return ", ".join(file for file in ["config.json", *files] if not isinstance(find(file), str))


def find_memory(options: Options, size: str | ModelShape | None) -> Finding:
    """Compare what a batch with all visual tokens needs with what the device has."""
    if size is None:
        return Finding("memory", None, "the sizes of this model are not known here")
    device = options.runs_on
    dtype = find_precision(options.dtype, device)
    bits = 8 * dtype.itemsize
    precision, batch = Precision(str(dtype), bits, bits, bits), options.batch_size
    costs = estimate_memory(size, TEXT_TOKENS + patches_of(size), precision, batch)
    needed = costs["footprint_bytes"].item()
    note = f"about {needed / 2**30:.1f} GiB in {bits} bits at batch size {batch}"
    if device == "cpu":
        free = psutil.virtual_memory().available
    elif not torch.cuda.is_available():
        return Finding("memory", False, f"{note}, but there is no CUDA device")
    else:
        free, _ = torch.cuda.mem_get_info(device)
    return Finding("memory", needed < free, f"{note}; {free / 2**30:.1f} GiB are free")


def find_disk(weights: Finding, size: str | ModelShape | None) -> Finding:
    """Compare the space that missing weights take with what is free where they will be."""
    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    needed = 0.0 if weights.ready or size is None else weight_bytes(size)
    note = f"{needed / 2**30:.1f} GiB for weights to fetch, {free / 2**30:.1f} GiB are free"
    return Finding("disk", needed < free, note + "; data sets come on top where they are missing")


def _size(pretrained: str) -> str | ModelShape | None:
    if pretrained in RANDOM:
        return RANDOM[pretrained]
    if pretrained == "mini" or Path(pretrained).exists():
        return pretrained
    return next((name for name in ("7b", "13b") if name in pretrained.lower()), None)


def _lengths(
    methods: Mapping[str, Options],
    data: Sequence[Inventory],
    limit: int | None,
    size: str | ModelShape | None,
    hardware: str,
) -> list[Finding]:
    if size is None or any(own.items is None for own in data):
        return [Finding("time", None, "not known before the weights and questions are here")]
    items = [min(own.items, limit or own.items) for own in data]
    if next(iter(methods.values())).runs_on == "cpu":
        note = f"{sum(items) * len(methods)} answers; measure a CPU with a small limit"
        return [Finding("time", None, note)]
    told = lengths(methods, items, size, hardware)
    return [Finding(f"time of {label}", None, note) for label, note in told.items()]
