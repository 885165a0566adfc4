"""LoRA archives in LLaVA's own format, turned into what PEFT and transformers load.

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

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prumerge.adapters import CONFIG, NON_LORA, UNPICKLE, WEIGHTS, open_adapter

_PREFIX = "base_model.model."
_NAMES = (
    ("model.layers.", "model.language_model.layers."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
)
_LAYERS = r".*language_model.*\.({})"


def convert_adapter(name: str | Path, folder: Path) -> Path:
    """Write a LoRA in LLaVA's format as PEFT has it.

    Args:
        name: Folder or hub id; ``adapter_model.safetensors`` and
            ``non_lora_trainables.safetensors`` inside.
        folder: Where to.

    Returns:
        ``folder``, which :func:`prumerge.adapters.apply_adapter` takes.

    Raises:
        ValueError: If files are missing or pickled, or a weight is none that LLaVA tunes.
    """
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
    folder.mkdir(parents=True, exist_ok=True)
    save_file(renamed, folder / f".{WEIGHTS}", metadata={"format": "pt"})
    (folder / f".{WEIGHTS}").replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
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
    """Write the LLaVA that an adapter was trained on: its language model in a LLaVA's place.

    Args:
        llava: Model with the vision tower, config and processor, such as
            ``llava-hf/llava-1.5-7b-hf``; its projector is replaced by the adapter's.
        language_model: Folder or hub id of the language model, such as ``lmsys/vicuna-7b-v1.5``,
            with safetensors inside.
        folder: Where to.

    Returns:
        ``folder``: a stock checkpoint.

    Raises:
        ValueError: If sizes differ, or the language model comes as pickles only.
    """
    from prumerge.models import load, load_whole

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
    """Copy a language model's weights into a LLaVA.

    Rows of the vocabulary that only the LLaVA has (its placeholder) stay as they are.

    Args:
        model: The LLaVA.
        source: A causal language model of the same sizes.

    Raises:
        ValueError: If a layer is missing or has another size.
    """
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
