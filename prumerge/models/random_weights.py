"""Published shapes with random weights: the answers are noise, the way to them is not.

Nothing is fetched: the weights are drawn on the device, words are the mini-LLaVA's (others become
its unknown word), pictures are prepared as CLIP's at 336 pixels: 24 x 24 = 576 visual tokens. Those
of the LLaVA-NeXT are cut into tiles of that size; the Video-LLaVA takes frames of 224 pixels.

    python -m prumerge.evaluation pretrained=random-7b device=cuda batch_size=16 method=release
"""

import dataclasses
import warnings

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaProcessor,
    PreTrainedModel,
    VideoLlavaConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from prumerge.models.loading import check_device, find_precision, load_processor
from prumerge.models.videos import VideoProcessor
from prumerge.roofline import read_shape
from prumerge.roofline.shapes import ModelShape

SEED = 0
PIXELS, PATCH_PIXELS = 336, 14
FRAME_PIXELS = 224
PADDED_VOCABULARY = 32_064  # the checkpoints of llava-hf pad it to this
VIDEO_TOKEN = PADDED_VOCABULARY - 1  # no word of the mini-LLaVA's
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _cut(shape: ModelShape) -> ModelShape:
    """Cut layers and widths, and nothing else: for a test on a CPU."""
    vision, language = shape.vision, shape.language
    vision = dataclasses.replace(vision, width=64, layers=3, heads=4, inner_width=128)
    sizes = {"width": 64, "layers": 2, "heads": 4, "key_heads": 4, "head_width": 16}
    language = dataclasses.replace(language, **sizes, inner_width=176)
    return dataclasses.replace(shape, vision=vision, language=language)


RANDOM: dict[str, ModelShape] = {
    "random-7b": read_shape("7b"),
    "random-13b": read_shape("13b"),
    "random-7b-cut": _cut(read_shape("7b")),
}
"""LLaVA-1.5's shapes by name; ``-cut`` has few and narrow layers."""

_FRAMES = dataclasses.replace(read_shape("7b").vision, patches=(FRAME_PIXELS // PATCH_PIXELS) ** 2)
_VIDEO = dataclasses.replace(read_shape("7b"), vision=_FRAMES)
TILED = {"random-next-7b": read_shape("7b"), "random-next-7b-cut": _cut(read_shape("7b"))}
"""LLaVA-NeXT's, on Vicuna 7B: five tiles of a square picture of 672 pixels."""
CLIPS = {"random-video-7b": _VIDEO, "random-video-7b-cut": _cut(_VIDEO)}
"""Video-LLaVA's: 8 frames of a clip."""
SHAPES = RANDOM | TILED | CLIPS


def known_name(name: str) -> str:
    """Return a name as :data:`RANDOM` has it: for the older ``7b-random`` that is ``random-7b``."""
    turned = f"random-{name.removesuffix('-random')}"
    if not name.endswith("-random") or turned not in RANDOM:
        return name
    warnings.warn(f"{name} is called {turned} now: use that", FutureWarning, stacklevel=2)
    return turned


def build(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    layers: int | None = None,
) -> tuple[PreTrainedModel, LlavaProcessor | VideoProcessor]:
    """Make a model with random weights, and its processor; equal calls give equal weights.

    ``name`` is one of :data:`SHAPES`; a LLaVA-NeXT comes with the processor's pictures alone set to
    tiles. 7b takes 14 GB in half precision. ``layers`` builds so many of the language model, and of
    the encoder as many, at least 3.
    """
    check_device(device)
    dtype, shape = find_precision(dtype, device), SHAPES[name]
    if layers is not None:
        if not 1 <= layers <= shape.language.layers:
            raise ValueError(f"layers must be 1 to {shape.language.layers}, got {layers}")
        vision = min(shape.vision.layers, max(layers, 3))
        shape = dataclasses.replace(
            shape,
            vision=dataclasses.replace(shape.vision, layers=vision),
            language=dataclasses.replace(shape.language, layers=layers),
        )
    processor = _processor(name)
    config = _config(name, shape, processor)
    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(SEED)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return model.eval(), processor


def random_config(name: str) -> LlavaConfig | LlavaNextConfig | VideoLlavaConfig:
    """Return the config of one of :data:`SHAPES`."""
    return _config(name, SHAPES[name], _processor(name))


def _processor(name: str) -> LlavaProcessor | VideoProcessor:
    processor = load_processor("mini")
    pixels = FRAME_PIXELS if name in CLIPS else PIXELS
    sizes = {
        "size": {"shortest_edge": pixels},
        "crop_size": {"height": pixels, "width": pixels},
    }
    if name in CLIPS:
        return VideoProcessor(CLIPImageProcessorPil(**sizes), processor.tokenizer, PATCH_PIXELS)
    if name in TILED:
        sizes["image_grid_pinpoints"] = PINPOINTS
        processor.image_processor = LlavaNextImageProcessorPil(**sizes)
    for option, value in sizes.items():
        setattr(processor.image_processor, option, value)
    processor.patch_size = PATCH_PIXELS
    return processor


def _config(
    name: str, shape: ModelShape, processor: LlavaProcessor | VideoProcessor
) -> LlavaConfig | LlavaNextConfig | VideoLlavaConfig:
    vision, language, words = shape.vision, shape.language, processor.tokenizer
    tower = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=vision.inner_width,
        num_hidden_layers=vision.layers,
        num_attention_heads=vision.heads,
        image_size=FRAME_PIXELS if name in CLIPS else PIXELS,
        patch_size=PATCH_PIXELS,
    )
    text = LlamaConfig(
        vocab_size=PADDED_VOCABULARY,
        hidden_size=language.width,
        intermediate_size=language.inner_width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.key_heads,
        max_position_embeddings=4096,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    shared = {
        "vision_config": tower,
        "text_config": text,
        "image_token_index": words.convert_tokens_to_ids(processor.image_token),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    if name in CLIPS:
        return VideoLlavaConfig(**shared, video_token_index=VIDEO_TOKEN)
    if name in TILED:
        return LlavaNextConfig(**shared, image_grid_pinpoints=PINPOINTS, tie_word_embeddings=False)
    return LlavaConfig(**shared)
