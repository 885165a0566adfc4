"""The models that are timed: a trained one by name, or random weights of LLaVA-1.5's shape.

Speed does not depend on the values of weights, so LLaVA-1.5 can be timed without its checkpoint.
"""

import dataclasses
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from prumerge.limits import suggestion
from prumerge.models import CLIPImageProcessorPil, check_device, find_precision, load
from prumerge.roofline import NAMED, ModelShape

RANDOM = "-random"
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
        vision = self.model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

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
        name: ``mini``, a folder or hub id (:func:`prumerge.models.load`), or ``7b-random`` and
            ``13b-random``: LLaVA-1.5's shape with random weights, nothing downloaded.
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
    if not name.endswith(RANDOM):
        if layers is not None:
            raise ValueError(f"layers={layers} cuts random weights only, such as 7b-random")
        model, processor = load(name, device, dtype)
        return Subject(name, "trained", model, processor.image_processor)
    shape = name.removesuffix(RANDOM)
    if shape not in NAMED:
        known = [known + RANDOM for known in NAMED]
        raise ValueError(f"no shape {name!r}: {suggestion(name, known)}")
    check_device(device)
    if layers is not None and not 1 <= layers <= NAMED[shape].language.layers:
        raise ValueError(f"layers must be 1 to {NAMED[shape].language.layers}, got {layers}")
    precision = find_precision(dtype, device)
    model = _random_model(_config_of(NAMED[shape], layers), device, precision)
    size = model.config.vision_config.image_size
    pixels = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return Subject(name, "random", model, CLIPImageProcessorPil(**pixels), layers)


def _config_of(shape: ModelShape, layers: int | None) -> LlavaConfig:
    """Write a shape as a config; the last token of the vocabulary stands for pictures."""
    language, vision = shape.language, shape.vision
    side = round(vision.patches**0.5)
    patch = round((vision.patch_values / 3) ** 0.5)
    tower = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.inner_width,
        num_hidden_layers=min(vision.layers, max(layers, 3)) if layers else vision.layers,
        num_attention_heads=vision.heads,
        image_size=side * patch,
        patch_size=patch,
    )
    text = LlamaConfig(
        hidden_size=language.width,
        intermediate_size=language.inner_width,
        num_hidden_layers=layers or language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.key_heads,
        vocab_size=language.vocabulary,
        max_position_embeddings=4096,
        pad_token_id=0,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=language.vocabulary - 1,
        image_seq_length=vision.patches,
    )


def _random_model(config: LlavaConfig, device: str, dtype: torch.dtype) -> Any:
    """Build a model on its device in its precision, never twice in memory."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(usual)
    model.generation_config.pad_token_id = 0
    return model.eval()
