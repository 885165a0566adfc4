"""The models that are timed: a trained one by name, or random weights of LLaVA-1.5's shape.

Speed does not depend on the values of weights, so LLaVA-1.5 can be timed without its checkpoint.
"""

import dataclasses
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from prumerge.models import load
from prumerge.models.loading import patches_of
from prumerge.models.random_weights import build, known_name
from prumerge.roofline import NAMED
from prumerge.settings import suggestion

RANDOM = "random-"
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to time.

    Args:
        name: What rows call it.
        weights: ``trained``, or ``random``.
        model: On its device, ready to generate.
        image_processor: Prepares pictures for its encoder.
        layers: Language layers it was cut to; None where it is whole.
    """

    name: str
    weights: str
    model: LlavaForConditionalGeneration
    image_processor: Any
    layers: int | None = None

    @property
    def device(self) -> str:
        """Where the model lives."""
        return str(self.model.device)

    @property
    def patches(self) -> int:
        """Visual tokens of one picture."""
        return patches_of(self.model)

    def use_attention(self, name: str) -> None:
        """Switch the attention implementation of encoder and language model.

        Args:
            name: One of :data:`ATTENTION`.

        Raises:
            ValueError: If it is unknown or cannot run here.
        """
        check_attention(name, self.device, self.model.dtype)
        try:
            self.model.set_attn_implementation(name)
        except ImportError as error:
            raise ValueError(
                f"{name} cannot run here ({str(error).splitlines()[0]}): install flash-attn or "
                "use attention sdpa"
            ) from error


def check_attention(name: str, device: str, dtype: torch.dtype) -> None:
    """Refuse an attention implementation that cannot run.

    Args:
        name: One of :data:`ATTENTION`.
        device: Where the model lives.
        dtype: Precision of its weights.

    Raises:
        ValueError: If it is unknown, or FlashAttention lacks a GPU or a precision of 16 bits.
    """
    if name not in ATTENTION:
        raise ValueError(f"unknown attention {name!r}: {suggestion(name, ATTENTION)}")
    if name != "flash_attention_2":
        return
    if not device.startswith("cuda"):
        raise ValueError("flash_attention_2 needs a CUDA device: use attention sdpa")
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"flash_attention_2 needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}:"
            " use --dtype bfloat16 or attention sdpa"
        )


def load_subject(
    name: str = "mini", device: str = "cpu", dtype: str | None = None, layers: int | None = None
) -> Subject:
    """Load or make a model to time.

    Args:
        name: ``mini``, a folder or hub id (:func:`prumerge.models.load`), or ``random-7b`` and
            ``random-13b``: LLaVA-1.5's shape with random weights, nothing downloaded.
        device: Where it lives.
        dtype: Precision of the weights; None takes float32 on a CPU and bfloat16 elsewhere.
        layers: For random weights: language layers (and vision layers, at least 3) to build, so
            that the path can be tried where the whole does not fit. Such rows say so.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such model, shape, device or precision, or a trained one shall
            be cut.
    """
    name = known_name(name)
    if not (name.startswith(RANDOM) or name.endswith("-random")):
        if layers is not None:
            raise ValueError(f"layers={layers} cuts random weights only, such as random-7b")
        model, processor = load(name, device, dtype)
        return Subject(name, "trained", model, processor.image_processor)
    shape = name.removeprefix(RANDOM).removesuffix("-random")
    if shape not in NAMED:
        known = [RANDOM + known for known in NAMED]
        raise ValueError(f"no shape {name!r}: {suggestion(RANDOM + shape, known)}")
    model, processor = build(name, device, dtype, layers)
    # Rows call it as those do that are committed.
    return Subject(f"{shape}-random", "random", model, processor.image_processor, layers)
