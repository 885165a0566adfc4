"""Tiny random LLaVAs that read the mini-LLaVA's words, saved as checkpoints."""

from pathlib import Path

import torch
from torch import nn
from transformers import LlavaNextForConditionalGeneration

from prumerge.mini import mini_next
from prumerge.mini.model import Pretraining, Size, build_processor

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
    return _save(model, mini_next.build_processor(TINY.grid), folder)


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
