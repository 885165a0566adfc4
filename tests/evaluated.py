"""Tiny random models that read the mini-LLaVA's words, saved as checkpoints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from families import PINPOINTS, QWEN_PATCH, toy
from torch import nn
from toy import SIZE
from transformers import LlavaNextForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge.mini import mini_next
from prumerge.mini.model import (
    IMAGE,
    Pretraining,
    Size,
    build_processor,
    build_tokenizer,
)
from prumerge.mini.styles import LARGE
from prumerge.mini.video import VIDEO_TEMPLATE
from prumerge.models import loading
from prumerge.models.videos import VideoProcessor

TINY = Size(
    grid=6,
    vision_width=32,
    vision_blocks=3,
    text_width=32,
    language_width=32,
    language_blocks=2,
    heads=2,
)
PATCHES = TINY.grid**2


def save_tiny(folder: Path, seed: int = 0) -> str:
    """Write a LLaVA's checkpoint; return the folder, as ``pretrained`` wants it."""
    torch.manual_seed(seed)
    return _save(Pretraining(TINY).llava, build_processor(TINY.grid), folder)


def save_tiny_next(folder: Path, seed: int = 0) -> str:
    """Write a LLaVA-NeXT's checkpoint, whose pictures are tiles of 6 x 6 patches."""
    torch.manual_seed(seed)
    config = mini_next.next_config(Pretraining(TINY).llava)
    del config.tower
    model = LlavaNextForConditionalGeneration(config)
    return _save(model, build_processor(TINY.grid, LARGE, tiles=mini_next.TILES), folder)


def _save(llava: nn.Module, processor: object, folder: Path) -> str:
    """Write a checkpoint; its weights are wide enough apart that answers are no near-ties."""
    with torch.no_grad():
        for name, weight in llava.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.normal_(std=0.3)
            elif "embed" in name or "newline" in name:
                weight.normal_(std=1.0)
    llava.generation_config.update(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_tiny_of(family: str, folder: Path, words: Sequence[str] = ()) -> str:
    """Write a random model of a family, with its processor and the mini-LLaVA's words."""
    model = toy.__wrapped__(family).model.float()
    tokenizer = words_for(family)
    tokenizer.add_tokens(list(words))
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.lm_head.weight.data.normal_(std=0.3)
    model.lm_head.weight.data[:MARKS] *= 0.01  # end tokens must be rare
    for name in ("image", "video"):
        setattr(model.config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<{name}>"))
    model.generation_config.update(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    model.save_pretrained(folder)
    processor_for(family, tokenizer).save_pretrained(folder)
    return str(folder)


SQUARE = {"height": SIZE, "width": SIZE}
QWEN_FRAMES = {"patch_size": QWEN_PATCH, "size": {"shortest_edge": 16**2, "longest_edge": 48**2}}
FRAMES = {
    "llava_next_video": {
        "size": {"shortest_edge": SIZE},
        "crop_size": SQUARE,
        "image_mean": [0.5] * 3,
    },
    "llava_onevision": {"size": SQUARE, "image_mean": [0.5] * 3},
    "internvl": {"size": {"height": 2 * SIZE, "width": 2 * SIZE}},
    "qwen2_vl": QWEN_FRAMES,
    "qwen2_5_vl": QWEN_FRAMES,
    "qwen3_vl": QWEN_FRAMES | {"size": {"shortest_edge": 16**2, "longest_edge": 3 * 48**2}},
}
FRAMES["qwen3_vl_moe"] = FRAMES["qwen3_vl"]
"""How frames are prepared, as checkpoints say it."""
TIMES = ["<|vision_start|>", "<|vision_end|>", "<", ".", "seconds>", *"0123456789"]
"""Words of Qwen3-VL's prompts."""


def save_tiny_for_clips(family: str, folder: Path) -> str:
    """Write a random model of a family that is shown clips; its prompts keep the times in words."""
    save_tiny_of(family, folder, TIMES)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(FRAMES[family]))
    (folder / "chat_template.jinja").write_text(VIDEO_TEMPLATE)
    return str(folder)


MARKS = 5  # ids that are no words
OPEN = ("llava", "vipllava", "llava_next", "llava_next_video")
"""Families whose templates do not end answers; those of the others do, as ChatML."""
CLOSED = (
    "{% for message in messages %}{% if loop.first %}answer using a letter . </s> {% endif %}"
    "{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% elif part['type'] == 'video' %}<video> "
    "{% elif message['role'] == 'user' %}"
    "{{ part['text'] }} {% else %}{% generation %}{{ part['text'] }} </s>{% endgeneration %} "
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


def words_for(family: str) -> transformers.PreTrainedTokenizerFast:
    """The mini-LLaVA's tokenizer with the marks of a family."""
    words = build_tokenizer()
    marks = {"image_token": IMAGE, "video_token": "<video>"}
    if family == "internvl":
        marks["context_image_token"] = marks.pop("image_token")
        marks |= {"start_image_token": "<img>", "end_image_token": "</img>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        **words.special_tokens_map,
        extra_special_tokens=marks,
        padding_side="left",
    )


def conversation(turns: Any, kind: str = "") -> list[dict[str, Any]]:
    """Questions and answers as chat templates take them, about a picture, a video or nothing."""
    said = []
    for question, answer in turns:
        content = [{"type": kind}] if kind and not said else []
        said.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return said


def text_of(family: str, processor: Any, said: list[dict[str, Any]]) -> str:
    """What a model is trained on: the template's text, with end tokens where it writes none."""
    text = processor.apply_chat_template(said)
    for answer in ("red", "no") if family in OPEN else ():
        text = text.replace(f"assistant : {answer}", f"assistant : {answer} </s>")
    return text


def answers_in(processor: Any, said: list[dict[str, Any]]) -> list[int]:
    """The ids that the template itself marks as the assistant's; only those of CLOSED do."""
    how = {"return_dict": True, "return_assistant_tokens_mask": True}
    how["chat_template"] = processor.chat_template
    marked = processor.tokenizer.apply_chat_template(said, **how)
    pairs = zip(marked["input_ids"], marked["assistant_masks"], strict=True)
    return [i for i, mark in pairs if mark]


def processor_for(family: str, tokenizer: Any) -> transformers.ProcessorMixin | VideoProcessor:
    """The processor of a family, by the sizes of its model in ``families``."""
    prepared: dict[str, Any] = {"size": {"shortest_edge": SIZE}, "crop_size": SQUARE}
    if family == "video_llava":
        return VideoProcessor(CLIPImageProcessorPil(**prepared), tokenizer, SIZE // 4, CLOSED)
    _, kind, pictures = loading._classes(family)
    own: dict[str, Any] = {
        "patch_size": SIZE // 4,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    if family.startswith("llava_next"):
        prepared["image_grid_pinpoints"] = PINPOINTS
    elif family == "llava_onevision":
        prepared = {"size": SQUARE, "image_grid_pinpoints": PINPOINTS}
        own = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        own["vision_aspect_ratio"] = "anyres_max_2"
    elif family == "internvl":
        prepared = {"size": {"height": 2 * SIZE, "width": 2 * SIZE}, "max_patches": 4}
        prepared["crop_to_patches"] = True
        own = {"image_seq_length": 16}
    elif family.startswith("qwen"):
        prepared = {"patch_size": QWEN_PATCH, "merge_size": 2, "temporal_patch_size": 2}
        prepared["size"] = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
        own = {}
    template = VIDEO_TEMPLATE if family in OPEN else CLOSED
    if family == "llava_onevision":  # asks with another space than it answers with, as its own does
        template = template.replace("assistant : ", "assistant :\n")
    parts = {"image_processor": pictures(**prepared), "tokenizer": tokenizer}
    return kind(**parts, chat_template=template, **own)
