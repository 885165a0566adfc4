"""A tiny random LLaVA that reads the mini-LLaVA's words, saved as a checkpoint."""

from pathlib import Path

import torch

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
    """Write the checkpoint; its weights are wide enough apart that answers are no near-ties.

    Args:
        folder: Where to.
        seed: Of the weights.

    Returns:
        The folder, as ``pretrained`` wants it.
    """
    torch.manual_seed(seed)
    llava = Pretraining(TINY).llava
    with torch.no_grad():
        for name, weight in llava.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.normal_(std=0.3)
            elif "embed" in name:
                weight.normal_(std=1.0)
    llava.generation_config.update(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    llava.save_pretrained(folder)
    build_processor(TINY.grid).save_pretrained(folder)
    return str(folder)
