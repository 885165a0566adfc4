"""What is reduced in the benchmarks: random pictures with the paper's number of outliers."""

import reference
import torch
from samples import scores_with

from prumerge.encoder import Encoded

OUTLIERS = (24, 28, 33, 38, 42, 47, 52, 56)
"""Per picture, 40 on average, as the paper counts on TextVQA and MME."""

TYPICAL = (3, 5)
"""The pictures, from the first to the one after the last, with 40 outliers on average."""

PLAIN = {
    "release": reference.release,
    "release+": reference.release_plus,
    "release+fixed": reference.release_fixed,
    "paper": reference.paper,
    "paper-literal": reference.paper_literal,
    "paper+": lambda *picture: reference.paper_plus(*picture, (24, 24)),
}
"""Presets by name, as plain loops over lists."""


def encoded(
    images: int,
    patches: int = 576,
    width: int = 1024,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Encoded:
    """Draw features, keys of 16 heads and scores of a batch.

    Args:
        images: Pictures.
        patches: Of one picture, a square number.
        width: Of features and keys.
        device: Where they lie.
        dtype: Precision of features and keys; scores have float32.

    Returns:
        What an encoder of CLIP ViT-L/14's width would say.
    """
    generator = torch.Generator().manual_seed(0)
    size = (images, patches, width)
    counts = [OUTLIERS[i % len(OUTLIERS)] * patches // 576 for i in range(images)]
    side = round(patches**0.5)
    features, keys = (torch.randn(size, generator=generator) for _ in range(2))
    return Encoded(
        features.to(device, dtype),
        keys.to(device, dtype),
        scores_with(counts, patches).to(device),
        (side, side),
        class_feature=torch.randn(images, width, generator=generator).to(device, dtype),
        heads=16,
    )
