"""LLaVA by name: an embedded one, a local folder, or a hub id at a revision."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from prumerge.models.checks import require_loadable_torchvision
from prumerge.paths import EMBEDDED, folder_of

_MADE_BY = {
    "mini": "notebooks/train_mini_llava.ipynb",
    "pocket": "python -m prumerge.experiments.pocket",
    "mini-video": "python -m prumerge.experiments.video",
    "mini-next": "python -m prumerge.experiments.mini_next",
}
_LARGE_BYTES, _PART_BYTES = 1 << 30, 4 << 20

require_loadable_torchvision()  # transformers' own message would not name the cause

import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

Config, Llava, Processor = PreTrainedConfig, PreTrainedModel, ProcessorMixin

_KINDS = {
    "llava": "Llava LlavaProcessor CLIP",
    "llava_next": "LlavaNext LlavaNextProcessor LlavaNext",
    "vipllava": "VipLlava LlavaProcessor CLIP",
    "llava_next_video": "LlavaNextVideo LlavaNextProcessor LlavaNext",
    "internvl": "InternVL InternVLProcessor GotOcr2",
    "llava_onevision": "LlavaOnevision LlavaOnevisionProcessor LlavaOnevision",
    "qwen2_vl": "Qwen2VL Qwen2VLProcessor Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL Qwen2_5_VLProcessor Qwen2VL",
    "qwen3_vl": "Qwen3VL Qwen3VLProcessor Qwen2VL",
    "qwen3_vl_moe": "Qwen3VLMoe Qwen3VLProcessor Qwen2VL",
}
"""Model, processor and what prepares pictures, by the ``model_type`` of a config: the names of
transformers' classes, without what all names of a kind end with."""
_EVERYWHERE = ("llava", "llava_next")


@functools.cache
def _classes(kind: str) -> tuple[type, type, type]:
    """Model, processor of pictures and words, and what prepares pictures.

    The stock processors of videos want torchvision, so those that hold one go without it.
    """
    model, whole, pictures = _KINDS[kind].split()
    stock = getattr(transformers, whole)
    parts = {"get_attributes": classmethod(lambda _: ["image_processor", "tokenizer"])}
    return (
        getattr(transformers, f"{model}ForConditionalGeneration"),
        stock if "video_processor" not in stock.get_attributes() else type(whole, (stock,), parts),
        getattr(transformers, f"{pictures}ImageProcessorPil"),
    )


def load(
    name: str | Path = "mini",
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    any_family: bool = False,
) -> tuple[Llava, Processor]:
    """Load a LLaVA in evaluation mode and its processor, ready to generate.

    Of which kind it is, its own config says: LLaVA-1.5 or LLaVA-NeXT.

    Pictures are prepared by Pillow everywhere, since torchvision gives slightly other pixels.

    Args:
        name: ``mini`` for the trained model in ``data/mini-llava``; ``pocket`` for the one behind a
            pretrained tower in ``data/pocket``; ``mini-next`` for the LLaVA-NeXT in
            ``data/mini-next``; a folder with a checkpoint in transformers' format; or a hub id such
            as ``llava-hf/llava-1.5-7b-hf``, better with a revision behind an ``@`` so that the
            weights cannot change under a result.
        dtype: A torch type or its name; None takes float32 on a CPU and bfloat16 elsewhere.
        any_family: Take every family of :mod:`prumerge.models.families` that is shown pictures, as
            evaluation and fine-tuning do, not the two alone that notebooks and sweeps show. Its
            processor takes pictures and words, no videos.

    Raises:
        ValueError: When the checkpoint is missing, incomplete, damaged or of another kind, the
            precision is unknown, or the device is not there.
    """
    check_device(device)
    dtype = find_precision(dtype, device)
    config = read_config(name, any_family)
    model = load_weights(name, config, _classes(config.model_type)[0], dtype)
    return model.to(device).eval(), load_processor(name)


def load_weights(
    name: str | Path, config: Config, kind: type, dtype: torch.dtype
) -> PreTrainedModel:
    """Load the model of a config that was read; a frozen tower's weights from where it says."""
    source, revision = find_source(name)
    options: dict[str, Any] = {"revision": revision, "dtype": dtype}
    if hasattr(config, "tower"):
        from prumerge.models.frozen import beside_tower  # builds on this module

        options |= beside_tower(config, Path(source), told(name))
        source = None
    with told(name):
        return load_whole(kind, source, **options)


def read_config(name: str | Path = "mini", any_family: bool = False) -> Config:
    """Read the sizes of a LLaVA; see :func:`load` for the arguments.

    Another kind of model is refused: transformers would make a LLaVA of its config, at random.
    """
    source, revision = find_source(name)
    with told(name):
        found, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        kind = found.get("model_type")
        made = _classes(kind if kind in _KINDS else "llava")[0].config_class
        config = made.from_pretrained(source, revision=revision)
    if "mm_vision_tower" in found or kind == "llava_llama":
        raise ValueError(
            f"cannot load {str(name)!r} (model_type {kind!r}): it is in LLaVA's own format; name "
            "its conversion for transformers, such as llava-hf/llava-1.5-7b-hf, or make one with "
            "transformers' convert_llava_weights_to_hf.py"
        )
    taken = list(_KINDS) if any_family else list(_EVERYWHERE)
    if kind not in taken:
        remedy = "such as llava-hf/llava-1.5-7b-hf; others load with transformers, then attach"
        if kind == "video_llava":
            remedy = "and a Video-LLaVA by prumerge.models.videos.load_video"
        elif kind in _KINDS:
            remedy = "and this one by load(..., any_family=True), to be evaluated or tuned"
        *most, last = map(repr, taken)
        raise ValueError(
            f"cannot load {str(name)!r} (model_type {kind!r}): only models of the types "
            f"{', '.join(most)} and {last} are read, {remedy}"
        )
    return config


def load_whole(kind: type, source: str | Path | None, **options: Any) -> PreTrainedModel:
    """Load a checkpoint that gives every weight of its model.

    transformers alone fills what is missing with random numbers and a warning. Weights that are
    shared with others may be missing, and ones that have no place in the model may be there.
    """
    model, told = kind.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    lost = sorted(told["missing_keys"])
    lost += sorted(
        f"{name} ({list(found)} for {list(needed)})"
        for name, found, needed in told["mismatched_keys"]
    )
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise ValueError(f"the checkpoint lacks weights of its model: {shown}")
    return model


def load_processor(name: str | Path = "mini") -> Processor:
    """Load the processor alone; see :func:`load` for ``name``."""
    source, revision = find_source(name)
    _, whole, of_pictures = _classes(read_config(name, any_family=True).model_type)
    with told(name):
        pictures = of_pictures.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, padding_side="left")
        processor = whole.from_pretrained(
            source, revision=revision, image_processor=pictures, tokenizer=tokenizer
        )
    words = processor.tokenizer.get_vocab()
    missing = {
        "no chat template (chat_template.jinja)": processor.chat_template is None,
        "no patch_size (processor_config.json)": getattr(processor, "patch_size", 0) is None,
        f"no word {processor.image_token} (tokenizer.json)": processor.image_token not in words,
    }
    if lacking := [part for part, absent in missing.items() if absent]:
        raise ValueError(
            f"cannot load {str(name)!r} ({', '.join(lacking)}): its processor is older than "
            "mid-2024 or incomplete; name a newer revision, or add what is missing"
        )
    return processor


@contextlib.contextmanager
def told(name: str | Path) -> Iterator[None]:
    """Name the checkpoint that could not be read, and the remedy."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        remedy = "it needs config, weights, tokenizer and processor; fetch or export it again"
        if str(name) not in EMBEDDED and not Path(name).exists():
            remedy = "HF_HUB_OFFLINE=0 lets it be fetched, or name a local folder"
        raise ValueError(f"cannot load {str(name)!r} ({reason}): {remedy}") from error


def check_device(device: str) -> None:
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is none that torch knows: use 'cpu' or 'cuda'"
        ) from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"no CUDA device for device={device!r}; use device='cpu'")


def find_precision(dtype: torch.dtype | str | None, device: str) -> torch.dtype:
    """Find the precision of weights; None takes float32 on a CPU and bfloat16 elsewhere."""
    if dtype is None:
        return torch.float32 if str(device) == "cpu" else torch.bfloat16
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no precision: use 'float32', 'bfloat16' or 'float16'")
    return found


def grid_of(model: Any) -> int:
    """Return the patches along an edge of the pictures a LLaVA (or config) takes: 24 for 1.5."""
    vision = getattr(model, "config", model).vision_config
    return vision.image_size // vision.patch_size


def patches_of(model: Any) -> int:
    """Return the visual tokens a LLaVA makes of one picture, before any reduction."""
    return grid_of(model) ** 2


def fingerprint(pretrained: str, model: Any) -> str:
    """Name the weights, so that a result can be told from one of other weights.

    The hub's commit; for a folder a hash of its weight files (of files above a gibibyte: of name,
    size, time, begin, middle and end); for random weights their seed.
    """
    from prumerge.models.random_weights import RANDOM, SEED  # needs pandas, loading does not

    if pretrained in RANDOM:
        return f"random, seed {SEED}"
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return commit
    folder = folder_of(pretrained)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no weights to tell apart: no *.safetensors, no *.bin")
    seen = hashlib.sha256()
    for file in files:
        seen.update(f"{file.name} {file.stat().st_size}\n".encode())
        for part in _read(file):
            seen.update(part)
    return seen.hexdigest()[:12]


def _read(file: Path) -> Iterator[bytes]:
    """Yield a file, or, of a large one, when it was written and parts of it."""
    state = file.stat()
    if state.st_size < _LARGE_BYTES:
        yield file.read_bytes()
        return
    yield str(state.st_mtime_ns).encode()
    with file.open("rb") as opened:
        for place in (0, state.st_size // 2, state.st_size - _PART_BYTES):
            opened.seek(place)
            yield opened.read(_PART_BYTES)


def find_source(name: str | Path) -> tuple[str, str]:
    """Return what ``from_pretrained`` is given: a folder or hub id, and a revision."""
    if str(name) in EMBEDDED:
        folder = EMBEDDED[str(name)]
        if not (folder / "model.safetensors").exists():
            raise ValueError(
                f"the embedded model {name} is not in {folder}: train it with "
                f"{_MADE_BY[str(name)]}, or name another model"
            )
        return str(folder), "main"
    if str(name) and Path(name).exists():
        if not (Path(name) / "config.json").exists():
            raise ValueError(f"{name} holds no config.json: not a checkpoint of transformers")
        return str(name), "main"
    source, _, revision = str(name).partition("@")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(
            f"no model {name!r}: give {', '.join(map(repr, EMBEDDED))}, an existing folder, or a "
            "hub id 'owner/name@revision'"
        )
    return source, revision or "main"
