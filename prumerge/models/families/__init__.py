"""Families of vision-language models, one file each: what they encode, and how prompts show it.

================ ========================================== ======================================
family           class of transformers                      tower, what is reduced
================ ========================================== ======================================
llava            LlavaForConditionalGeneration              any, whole pictures
vipllava         VipLlavaForConditionalGeneration           CLIP, five layers side by side
llava_next       LlavaNextForConditionalGeneration          CLIP, tiles
llava_next_video LlavaNextVideoForConditionalGeneration     CLIP, tiles; frames behind pooling
video_llava      VideoLlavaForConditionalGeneration         CLIP, pictures and frames
internvl         InternVLForConditionalGeneration           InternViT, tiles behind the shuffle
llava_onevision  LlavaOnevisionForConditionalGeneration     SigLIP, behind stitching and pooling
qwen2_5_vl       Qwen2VLForConditionalGeneration            its own, behind the merger's first half
qwen2_5_vl       Qwen2_5_VLForConditionalGeneration         the same, most blocks in windows
qwen3_vl         Qwen3VLForConditionalGeneration            the same, with what first layers add
qwen3_vl         Qwen3VLMoeForConditionalGeneration         the same, before a mixture of experts
================ ========================================== ======================================
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prumerge.models.caches import Read
from prumerge.models.prompts import is_placeholder
from prumerge.models.slots import Packed
from prumerge.settings import Settings
from prumerge.tower import open_tower

Kind = Literal["image", "video"]
OLDEST = "5.23"
"""The first transformers with which families other than LLaVA-1.5 are tried and taken."""

FAMILIES = {
    "LlavaForConditionalGeneration": "llava",
    "VipLlavaForConditionalGeneration": "vipllava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video",
    "VideoLlavaForConditionalGeneration": "video_llava",
    "InternVLForConditionalGeneration": "internvl",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Qwen2VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl",
}


def _first_layer(model: nn.Module) -> nn.Module:
    return open_tower(model.model.vision_tower).patch_layer


@dataclasses.dataclass(frozen=True)
class Family:
    """What the shared machinery must know of a family; saved with an attached model.

    Args:
        pack: ``pack(model, arguments, settings)`` encodes the pictures and videos of a call and
            says how its prompts show them, by kind.
        check: ``check(model, settings)`` refuses, with a ``ValueError``, what cannot work,
            before there are pictures.
        pixels: The arguments that hold pictures or videos, by kind; the first name is the usual.
        consumed: Other arguments of a call that only pictures and videos need.
        each: Slots of every picture, where the family has but one number.
        first_layer: The layer that pictures reach first.
        received: Whether the tower has no class token, so that the score is the attention a patch
            receives.
        places: ``places(model, arguments, read)`` tells the position ids of full prompts where a
            token has three (M-RoPE); their original ones are the default then.
        projector: Modules, below ``model.model``, that turn features into visual tokens.
        outputs: Packs visual tokens as encoder outputs for ``forward``, where its language model
            takes more of a token than an embedding, the rest of it side by side.
    """

    pack: Callable[[nn.Module, dict[str, Any], Settings], dict[Kind, Packed]]
    check: Callable[[nn.Module, Settings], None]
    pixels: dict[Kind, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: {"image": ("pixel_values",)}
    )
    consumed: tuple[str, ...] = ("vision_feature_layer", "vision_feature_select_strategy")
    each: Callable[[nn.Module], int] | None = None
    first_layer: Callable[[nn.Module], nn.Module] = _first_layer
    received: bool = False
    places: Callable[[nn.Module, dict[str, Any], Read | None], Tensor] | None = None
    projector: tuple[str, ...] = ("multi_modal_projector",)
    outputs: Callable[[nn.Module, Tensor], Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arguments that hold pictures or videos."""
        return tuple(name for own in self.pixels.values() for name in own)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings that stand in this family where no others are asked for."""
        found = {"score": "received"} if self.received else {}
        return found if self.places is None else found | {"positions": "original"}

    def shows(self, arguments: dict[str, Any]) -> bool:
        """Whether a call hands in pictures or videos."""
        return any(arguments.get(name) is not None for name in self.names)

    def tokens(self, model: nn.Module) -> dict[Kind, int]:
        """The ids of placeholders."""
        return {kind: getattr(model.config, f"{kind}_token_id") for kind in self.pixels}

    def feed(self, model: nn.Module, ids: Tensor, prompt: Tensor, shown: Tensor) -> dict[str, Any]:
        """The arguments of a forward pass that reads shortened prompts, or a part of them.

        Args:
            ids: Of the prompts, and of what has been answered.
            prompt: The prompts' embeddings, with what ``outputs`` takes beside.
            shown: Where visual tokens stand in the prompts.
        """
        columns = prompt.shape[1]
        if self.outputs is None:
            if ids.shape[1] > columns:
                answer = model.get_input_embeddings()(ids[:, columns:])
                prompt = torch.cat([prompt, answer.to(prompt.device)], dim=1)
            return {"input_ids": None, "inputs_embeds": prompt}
        own, found, tokens = ids[:, :columns], {}, self.tokens(model)
        for kind, token in tokens.items():
            rows = prompt[(shown & (own == token)).to(prompt.device)]
            if len(rows):
                found[kind] = self.outputs(model, rows)
        padding = is_placeholder(own, [*tokens.values()]) & ~shown  # repeats a row's first token
        ids = torch.cat([own.masked_fill(padding, 0), ids[:, columns:]], dim=1)
        return {"input_ids": ids, "mm_encoder_outputs": found}


def family_of(model: nn.Module) -> Family | None:
    """Find the family of a stock model, or of a subclass of one; None for any other.

    Raises:
        ValueError: If it is not LLaVA-1.5 and transformers is older than 5.23. Stock models of then
            name pictures otherwise, mix up several pictures in beams, or take no encoder outputs.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in FAMILIES and kind.__module__.startswith("transformers."):
            name = FAMILIES[kind.__name__]
            if name != "llava":
                _check_version(kind.__name__)
            return importlib.import_module(f"prumerge.models.families.{name}").FAMILY
    return None


def _check_version(kind: str) -> None:
    import transformers  # which `import prumerge` does without
    from packaging.version import Version

    if Version(here := transformers.__version__) < Version(OLDEST):
        raise ValueError(
            f"{kind} is reduced with transformers {OLDEST} or newer, and here is {here}: pip "
            "install --upgrade transformers"
        )
