"""What a run needs and how long it takes, before anything expensive starts.

One question of each task is asked as the run will, but of a small model of the same class with
random weights, on the CPU. The time is estimated for a GPU, from the roofline's floor upwards.
"""

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import constants, try_to_load_from_cache
from lmms_eval.tasks import TaskManager
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText, GenerationConfig

from prumerge.experiments.evaluation.beside import size_of
from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.options import Options
from prumerge.experiments.evaluation.results import questions_of
from prumerge.experiments.evaluation.scoring import benchmark_of
from prumerge.experiments.evaluation.tasks import (
    Inventory,
    drawn_for,
    first_question,
    parts_of,
    take_inventory,
    task_manager,
    tasks_named,
)
from prumerge.models.asking import prompt_of
from prumerge.models.loading import Config, find_precision, find_source
from prumerge.models.placeholders import place_of, shown_of
from prumerge.models.random_weights import RANDOM, build
from prumerge.models.videos import AnyProcessor, open_processor
from prumerge.paths import EMBEDDED, folder_of
from prumerge.roofline import (
    HARDWARE,
    ModelShape,
    Precision,
    Shown,
    estimate_costs,
    estimate_memory,
    read_shape,
    weight_bytes,
)
from prumerge.roofline.shapes import read_config as config_of

PICTURE_PX = (480, 640)  # height and width of most of the benchmarks' pictures
TEXT_TOKENS = 60  # of a typical prompt, instruction included
NEW_TOKENS = 4  # of a typical answer: a word or a letter
ABOVE_FLOOR = 4  # measured runs take a few times the roofline's floor: loading, decoding, overhead
SHARES = {"none": 0.06, "stride": 0.25, "lattice": 0.25}
"""Share of the patches that PruMerge and PruMerge+ keep on average: 5.5 and 25 percent in print."""

_WIDTH, _HEADS, _LAYERS = 32, 2, 2
_TRIED = ("method", "module", "do_pad", "conversation")
_TASK = """include: {include}
task: tried_{task}
dataset_path: parquet
dataset_name: null
dataset_kwargs: {{data_files: {{{split}: {file}}}, cache_dir: {cache}}}
test_split: {split}
process_docs: !function prumerge.experiments.evaluation.tasks.{benchmark}_check
"""


@dataclass(frozen=True)
class Finding:
    """One thing that a run needs; ``ready`` is None where this cannot be told here."""

    need: str
    ready: bool | None
    note: str


def preflight(
    methods: Mapping[str, Options],
    tasks: Sequence[str],
    limit: int | None = None,
    hardware: str = "H100",
) -> list[Finding]:
    """Look for everything that a run of one model needs, without fetching or loading weights."""
    if hardware not in HARDWARE:
        raise ValueError(f"unknown hardware {hardware!r}: there are {', '.join(HARDWARE)}")
    manager, (options, *_) = task_manager(), methods.values()
    names = tasks_named(drawn_for(tasks, options.pretrained), manager, limit)
    parts = [part for name in names for part in parts_of(name, manager)]
    data = [take_inventory(part, manager) for part in parts]
    weights, size = find_weights(options.pretrained), _size(options.pretrained)
    processor = find_processor(options.pretrained, weights)
    asking = _processor(options.pretrained) if processor.ready else None
    return [
        weights,
        processor,
        *(Finding(f"data of {own.task}", own.ready, own.note) for own in data),
        _told("memory", find_memory, options, size, asking),
        _told("disk", find_disk, weights, size),
        find_answers(methods, data, processor, manager),
        *_lengths(methods, data, limit, size, hardware, asking),
    ]


def _told(need: str, find: Callable[..., Finding], *given: Any) -> Finding:
    """Find, or say why that cannot be told of such a model."""
    try:
        return find(*given)
    except ValueError as error:
        return Finding(need, None, _line(error))


def find_processor(pretrained: str, weights: Finding) -> Finding:
    """Load the processor of a checkpoint that is here, and put a question into a prompt."""
    if not weights.ready:
        return Finding("processor", None, "not known before the checkpoint is here")
    try:
        processor = _processor(pretrained)
        prompt = prompt_of(processor, "What is this?")
        usual = Image.new("RGB", PICTURE_PX[::-1])
        slots = place_of(processor, usual)[0].count(processor.image_token_id)
    except Exception as error:  # a template is a program, and can raise anything
        return Finding("processor", False, _line(error))
    if (shown := prompt.count(processor.image_token)) != 1:
        note = f"its prompt has {shown} {processor.image_token} instead of one: {prompt!r}"
        return Finding("processor", False, note)
    note = f"asks {prompt!r}, {slots:,} placeholders for 640 x 480 pixels"
    return Finding("processor", True, note)


def _processor(pretrained: str) -> AnyProcessor:
    return open_processor("mini" if pretrained in RANDOM else pretrained)


def find_answers(
    methods: Mapping[str, Options],
    data: Sequence[Inventory],
    processor: Finding,
    manager: TaskManager,
) -> Finding:
    """Ask one question of each task whose questions are here, with every method."""
    need, here = "one question of each task", [own.task for own in data if own.ready]
    if not processor.ready or not here:
        return Finding(need, None, "not asked before the checkpoint and questions are here")
    try:
        ask_one_of_each(list(methods.values()), here, manager)
    except Exception as error:  # a run would stop at it, whatever it is
        return Finding(need, False, _line(error).replace("tried_", ""))
    return Finding(need, True, f"{len(here)} answered and scored, by a small model of this kind")


def ask_one_of_each(methods: Sequence[Options], tasks: Sequence[str], manager: TaskManager) -> None:
    """Ask the first question of each task with each method; what a run would raise is raised."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_small(methods[0].pretrained, folder / "model")
        for task in tasks:
            _save_task(task, manager, folder)
        for options in methods:
            own = {name: getattr(options, name) for name in _TRIED} | options.settings
            own |= {"pretrained": str(folder / "model"), "device": "cpu"}
            _, results = evaluate([f"tried_{task}" for task in tasks], 1, [folder], **own)
            questions_of(results, results["efforts"])


def save_small(pretrained: str, folder: Path) -> None:
    """Write a checkpoint like another one, of few and narrow layers, with its processor."""
    if pretrained in RANDOM:
        model, processor = build("random-7b-cut")
    else:
        processor = open_processor(pretrained)
        config = shrink(config_of(pretrained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForImageTextToText.from_config(config)
        source, revision = find_source(pretrained)
        with contextlib.suppress(OSError):  # early checkpoints have none, and run without
            model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def shrink(config: Config) -> Config:
    """Make layers narrow, and the language model's few; patches and vocabulary stay.

    A tower that was frozen becomes a random one in the folder, as its pretrained weights are wide.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "tower"):
        del config.tower
    for part in (config.vision_config, config.text_config):
        part.hidden_size, part.intermediate_size = _WIDTH, 2 * _WIDTH
        heads = "num_heads" if hasattr(part, "num_heads") else "num_attention_heads"
        setattr(part, heads, _HEADS)
    text = config.text_config
    text.num_hidden_layers, text.num_key_value_heads = _LAYERS, _HEADS
    if getattr(text, "head_dim", None):
        text.head_dim = _WIDTH // _HEADS
    if config.model_type.startswith("qwen"):
        for name in ("embed_dim", "out_hidden_size"):  # the tower's own width, or what it hands on
            if hasattr(config.vision_config, name):
                setattr(config.vision_config, name, _WIDTH)
        text.rope_parameters["mrope_section"] = [2, 3, 3]  # of half a head's width
    if hasattr(text, "num_experts"):
        text.num_experts, text.num_experts_per_tok, text.moe_intermediate_size = 2, 1, _WIDTH
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:_LAYERS]
    return config


def _save_task(task: str, manager: TaskManager, folder: Path) -> None:
    """Write a task that has the first question of another one alone."""
    split, question = first_question(task, manager)
    file = folder / f"{task}.parquet"
    question.to_parquet(file)
    text = _TASK.format(
        include=manager.task_index[task]["yaml_path"],
        task=task,
        split=split,
        file=file,
        cache=folder / "cache",
        benchmark=benchmark_of(task),
    )
    (folder / f"{task}.yaml").write_text(text, encoding="utf-8")


def _line(error: Exception) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def find_weights(pretrained: str) -> Finding:
    """Look for a checkpoint: the embedded one, a random one, a folder, or the hub's cache."""
    if pretrained in RANDOM:
        return Finding("weights", True, "random, drawn on the device")
    name, _, revision = pretrained.partition("@")
    folder = folder_of(name)
    if name in EMBEDDED or folder.exists():
        faults = _faults(lambda file: str(folder / file) if (folder / file).exists() else None)
        return Finding("weights", not faults, f"{folder} {faults}".rstrip())
    faults = _faults(lambda file: try_to_load_from_cache(name, file, revision=revision or None))
    if not faults:
        return Finding("weights", True, f"{pretrained} is in the hub's cache")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return Finding("weights", False, f"the hub's cache {faults}: {command}")


def _faults(find: Callable[[str], object]) -> str:
    """Name what is missing or cut off of a checkpoint, given where its files are; "" if nothing."""
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
    files = ["config.json", *files]
    if lacking := [file for file in files if not isinstance(find(file), str)]:
        return f"lacks {', '.join(lacking)}"
    torn = [file for file in files if not _is_whole(str(find(file)))]
    return f"holds cut-off or damaged {', '.join(torn)}" if torn else ""


def _is_whole(file: str) -> bool:
    """Compare what a file's header says with its size; True for files without such a header."""
    if not file.endswith(".safetensors"):
        return Path(file).stat().st_size > 0
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def find_memory(
    options: Options, size: str | ModelShape | None, processor: AnyProcessor | None = None
) -> Finding:
    """Compare what a batch with all visual tokens needs with what the device has.

    Pictures that are cut into tiles, or take any number of patches, are taken as large as the
    model's config, or its processor, lets them be.
    """
    if size is None:
        return Finding("memory", None, "the sizes of this model are not known here")
    device = options.runs_on
    dtype = find_precision(options.dtype, device)
    bits = 8 * dtype.itemsize
    precision, batch = Precision(str(dtype), bits, bits, bits), options.batch_size
    shown = find_shown(size, True, processor)
    costs = estimate_memory(size, TEXT_TOKENS + shown.slots, precision, batch)
    needed = costs["footprint_bytes"].item()
    note = f"about {needed / 2**30:.1f} GiB in {bits} bits at batch size {batch}"
    note += f", {shown.tokens:,} visual tokens"
    if shown.tiles > 1:
        note += f" of {shown.tiles} tiles or frames"
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


def find_shown(
    size: str | ModelShape, most: bool = False, processor: AnyProcessor | None = None
) -> Shown:
    """Say what a picture of a usual size is to a model, or one with the ``most`` visual tokens.

    ValueError, where neither config nor processor says it.
    """
    return shown_of(config_of(size), processor, None if most else PICTURE_PX)


def _size(pretrained: str) -> str | ModelShape | None:
    """What tells a model's sizes without its weights: its config, or the name of a LLaVA-1.5."""
    if pretrained in RANDOM:
        return RANDOM[pretrained]
    if pretrained in EMBEDDED or Path(pretrained).exists():
        return pretrained
    name, _, revision = pretrained.partition("@")
    config = try_to_load_from_cache(name, "config.json", revision=revision or None)
    if isinstance(config, str):
        return str(Path(config).parent)
    return size_of(pretrained) and size_of(pretrained).lower()


def _lengths(
    methods: Mapping[str, Options],
    data: Sequence[Inventory],
    limit: int | None,
    size: str | ModelShape | None,
    hardware: str,
    processor: AnyProcessor | None,
) -> list[Finding]:
    if size is None or any(own.items is None for own in data):
        return [Finding("time", None, "not known before the weights and questions are here")]
    asked = sum(min(own.items, limit or own.items) for own in data)
    if next(iter(methods.values())).runs_on == "cpu":
        note = f"{asked * len(methods)} answers; measure a CPU with a small limit"
        return [Finding("time", None, note)]
    try:
        read_shape(size)  # told before any method is
        shown = find_shown(size, processor=processor)
    except ValueError as error:
        return [Finding("time", None, _line(error))]
    floors_s, told = [], {}
    for label, own in methods.items():
        tokens = _tokens(own, shown)
        floors_s.append(_floor_s(own, tokens, size, shown, hardware) * asked)
        told[label] = f"{asked} questions, about {tokens} visual tokens each: "
        told[label] += _between(floors_s[-1], hardware)
    if len(methods) > 1:
        told["all methods"] = _between(sum(floors_s), hardware)
    return [Finding(f"time of {label}", None, note) for label, note in told.items()]


def _tokens(options: Options, shown: Shown) -> int:
    reducer = options.reducer()
    if reducer is None:
        return shown.tokens
    kept = reducer.settings.tokens_of(shown.tokens)
    return kept or round(SHARES[reducer.settings.spatial] * shown.tokens)


def _floor_s(options: Options, tokens: int, size: Any, shown: Shown, hardware: str) -> float:
    """Return the least seconds that one question takes in a full batch."""
    markers = min(shown.markers, tokens)  # sent where one of their tokens is
    costs = estimate_costs(
        size,
        TEXT_TOKENS + tokens + markers,
        hardware,
        batch=options.batch_size,
        text_tokens=TEXT_TOKENS + markers,
        pictures=shown.tiles,
        grid=shown.grid,
        new_tokens=NEW_TOKENS,
    )
    return costs["time_ms"].sum() / 1e3 / options.batch_size


def _between(floor_s: float, hardware: str) -> str:
    return f"{_duration(floor_s)} to {_duration(ABOVE_FLOOR * floor_s)} on one {hardware}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.1f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
