"""Tuned adapters by name: a PEFT folder or a hub id, put into a stock LLaVA.

The released ``llava-prumerge-vicuna-7b-v1.5-lora`` holds ``adapter_model.bin`` (updates of the
language model) and ``non_lora_trainables.bin`` (the projector, tuned in full). Three things stand
between it and a stock LLaVA:

* both files are pickles, which are not opened here; they have to be rewritten as safetensors;
* LLaVA's classes call the layers otherwise: ``model.layers`` for ``model.language_model.layers``,
  ``mm_projector.0`` and ``.2`` for ``multi_modal_projector.linear_1`` and ``linear_2``;
* the updates belong to Vicuna and not to LLaVA-1.5, whose language model was tuned in full: added
  to the latter they give nonsense without any error. :func:`convert_base` makes the LLaVA they
  belong to.

Source: LLaVA, ``llava/train/train.py`` (what is saved) and ``llava/model/builder.py`` (what is
loaded); release, ``scripts/v1_5/finetune_lora_7b.sh`` (the base).
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prumerge.models.loading import Llava, load, load_whole
from prumerge.paths import written_whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CARD = "README.md"
PICKLED = "adapter_model.bin"
PREPARED = {True: "padded to squares", False: "cropped to squares"}
NON_LORA = "non_lora_trainables"
_PREFIX = "base_model.model."
_NAMES = (
    ("model.layers.", "model.language_model.layers."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
)
_LAYERS = r".*language_model.*\.({})"
UNPICKLE = (
    "a pickle, which can run code when it is opened. Rewrite it once, where you trust it: "
    "torch.load('{name}.bin', weights_only=True), then "
    "safetensors.torch.save_file(..., '{name}.safetensors')"
)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide PEFT 0.21's warning about an attribute that has another name since transformers 5.23."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        yield


def open_adapter(name: str | Path) -> Path:
    """Find an adapter's folder; of a hub id, only configs, safetensors and the card are fetched."""
    folder, shown = Path(name), str(name)
    if not folder.exists():
        folder = _fetch(shown)
    if not (folder / CONFIG).exists():
        raise ValueError(f"adapter {shown} holds no {CONFIG}: name a folder that PEFT has saved")
    for stem in (PICKLED.removesuffix(".bin"), NON_LORA):
        if (folder / f"{stem}.bin").exists() and not (folder / f"{stem}.safetensors").exists():
            raise ValueError(f"adapter {shown}: {stem}.bin is {UNPICKLE.format(name=stem)}")
    if not (folder / WEIGHTS).exists():
        raise ValueError(
            f"adapter {shown} holds no {WEIGHTS}: safetensors only; a .bin is {UNPICKLE}".format(
                name="adapter_model"
            )
        )
    return folder


def _fetch(name: str) -> Path:
    source, _, revision = name.partition("@")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(
            f"no adapter {name!r}: give an existing folder, or a hub id 'owner/name@revision'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", CARD]
        found = snapshot_download(source, revision=revision or None, allow_patterns=wanted)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"adapter {name!r} cannot be fetched ({type(error).__name__}): check id and revision, "
            "set HF_HUB_OFFLINE=0, or name a folder"
        ) from error
    return Path(found)


@quiet_peft()
def apply_adapter(model: Llava, name: str | Path, do_pad: bool | None = True) -> Llava:
    """Merge a PEFT adapter into a stock LLaVA, whose weights change, and which stays a stock one.

    ``do_pad`` says how its pictures will be prepared: padded to squares, or cropped; None where it
    will be shown clips alone.

    Raises:
        ValueError: If the adapter is for other layers, sizes or kinds of model, or in LLaVA's own
            format, or if its card says that it was tuned on pictures prepared otherwise.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    folder = open_adapter(name)
    check_card(folder, do_pad)
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        keys = list(weights.keys())
    if not keys or (folder / f"{NON_LORA}.safetensors").exists() or _in_llava_format(keys):
        raise ValueError(_other_format(name, folder, keys))
    try:
        tuned = get_peft_model(model, PeftConfig.from_pretrained(folder))
        told = set_peft_model_state_dict(tuned, load_peft_weights(str(folder), device="cpu"))
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"adapter {name} does not fit {_called(model)}: {reason}") from error
    own = (tuned.base_model.prefix, "modules_to_save")
    lost = [key for key in told.missing_keys if any(part in key for part in own)]
    if told.unexpected_keys or lost:
        first = (told.unexpected_keys or lost)[0]
        raise ValueError(
            f"adapter {name} does not fit {_called(model)}: {len(told.unexpected_keys)} of its "
            f"weights have no place there and {len(lost)} places get none, such as {first}: "
            "name the model it was tuned on"
        )
    return tuned.merge_and_unload(safe_merge=True)


def write_card(folder: Path, do_pad: bool) -> None:
    """Add to the card that PEFT wrote how the pictures were prepared that it was tuned on."""
    from huggingface_hub import ModelCard

    path = folder / CARD
    card = ModelCard(path.read_text(encoding="utf-8") if path.exists() else "---\n{}\n---\n")
    card.data["do_pad"] = do_pad
    told = {
        value: f"\n\nTuned on pictures {words}: `do_pad={value}`.\n"
        for value, words in PREPARED.items()
    }
    card.text = card.text.replace(told[not do_pad], "").rstrip() + told[do_pad]
    card.save(path)


def check_card(folder: Path, do_pad: bool | None) -> None:
    """Refuse an adapter whose card tells of pictures prepared otherwise; most tell nothing."""
    from huggingface_hub import ModelCard

    path = folder / CARD
    data = ModelCard.load(path, ignore_metadata_errors=True).data if path.exists() else {}
    tuned = data.get("do_pad")
    if isinstance(tuned, bool) and do_pad not in (None, tuned):
        raise ValueError(
            f"adapter {folder} was tuned on pictures {PREPARED[tuned]}, not {PREPARED[do_pad]}: "
            f"give do_pad={tuned}"
        )


def adapter_fingerprint(name: str | Path) -> str:
    """Name an adapter's weights, so that results of two adapters can be told apart."""
    return hashlib.sha256((open_adapter(name) / WEIGHTS).read_bytes()).hexdigest()[:12]


def _called(model: nn.Module) -> str:
    return getattr(model.config, "_name_or_path", "") or type(model).__name__


def _in_llava_format(keys: list[str]) -> bool:
    """LLaVA's own classes have ``model.layers`` where transformers has ``language_model``."""
    return any(".model.layers." in key for key in keys) and not any(
        "language_model" in key for key in keys
    )


def _other_format(name: str | Path, folder: Path, keys: list[str]) -> str:
    if not keys:
        return f"adapter {name} is empty: {WEIGHTS} holds no weights"
    base = json.loads((folder / CONFIG).read_text()).get("base_model_name_or_path")
    return (
        f"adapter {name} is a LoRA in LLaVA's own format, trained on {base!r} and not on a LLaVA: "
        "its changes belong to that language model's weights. Convert it first: "
        f"python -m prumerge.finetuning convert --adapter {name} --help"
    )


def convert_adapter(name: str | Path, folder: Path) -> Path:
    """Write a LoRA in LLaVA's format as PEFT has it, with what its config tells of pictures."""
    source = open_adapter(name)
    projector = source / f"{NON_LORA}.safetensors"
    if not projector.exists():
        raise ValueError(
            f"adapter {name} holds no {projector.name}, and with it no projector; where it has "
            f"{NON_LORA}.bin, that is {UNPICKLE.format(name=NON_LORA)}"
        )
    tensors = load_file(source / WEIGHTS) | load_file(projector)
    renamed = {_renamed(key, name): value.contiguous() for key, value in tensors.items()}
    config = json.loads((source / CONFIG).read_text())
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not modules:
        raise ValueError(f"adapter {name}: target_modules must list layers, got {modules!r}")
    config["target_modules"] = _LAYERS.format("|".join(sorted({m.split(".")[-1] for m in modules})))
    config["modules_to_save"] = ["multi_modal_projector"]
    with written_whole(folder / WEIGHTS) as partial:
        save_file(renamed, partial, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    trained = source / "config.json"
    shape = json.loads(trained.read_text()) if trained.exists() else {}
    if shape.get("image_aspect_ratio") in ("pad", "square"):  # LLaVA's words; square ones are cut
        write_card(folder, shape["image_aspect_ratio"] == "pad")
    return folder


def _renamed(key: str, name: str | Path) -> str:
    inner = key.removeprefix(_PREFIX)
    for theirs, ours in _NAMES:
        if inner.startswith(theirs):
            return _PREFIX + ours + inner.removeprefix(theirs)
    raise ValueError(
        f"adapter {name}: {key} is no weight that LLaVA's LoRA script tunes: only layers of the "
        "language model and mm_projector.0 and .2 are"
    )


def convert_base(llava: str, language_model: str, folder: Path) -> Path:
    """Write the LLaVA that an adapter was trained on: its language model in a LLaVA's place."""
    model, processor = load(llava)
    try:
        source = load_whole(AutoModelForCausalLM, language_model, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"language model {language_model} cannot be loaded from safetensors: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    replace_language_model(model, source)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def replace_language_model(model: nn.Module, source: nn.Module) -> None:
    """Copy a language model's weights into a LLaVA; words that only the LLaVA has keep theirs."""
    theirs = dict(source.named_parameters())
    ours = {f"model.{n}": p for n, p in model.model.language_model.named_parameters()}
    ours["lm_head.weight"] = model.lm_head.weight
    for name, parameter in ours.items():
        given = theirs.get(name, theirs.get("model.embed_tokens.weight"))
        if name not in theirs and name != "lm_head.weight":
            raise ValueError(f"the language model has no {name}: it is of another kind")
        _copy(name, parameter, given)


def _copy(name: str, parameter: Tensor, given: Tensor) -> None:
    rows = len(given) if "embed_tokens" in name or name == "lm_head.weight" else len(parameter)
    if rows > len(parameter) or given.shape != parameter[:rows].shape:
        raise ValueError(
            f"{name} is {list(given.shape)} in the language model and {list(parameter.shape)} in "
            "the LLaVA: they are of different sizes"
        )
    parameter.data[:rows] = given.data.to(parameter)
