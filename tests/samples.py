"""Random pictures after the encoder, with a known number of outliers each."""

import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def scores_with(outliers, patches=64, seed=0):
    """Scores of one picture per entry of ``outliers``, with exactly that many above the fence.

    Ordinary scores are spread evenly over [1, 2], so that no fence of theirs is below 2.5; each
    row is divided by its sum, as a softmax would.
    """
    generator = torch.Generator().manual_seed(seed)
    ordinary = torch.linspace(1, 2, patches).repeat(len(outliers), 1)
    for row, count in enumerate(outliers):
        ordinary[row, :count] = 6 + torch.rand(count, generator=generator)
        ordinary[row] = ordinary[row, torch.randperm(patches, generator=generator)]
    return ordinary / ordinary.sum(dim=1, keepdim=True)


def encoded(outliers, patches=64, width=12, depth=8, seed=0, dtype=torch.float32, device="cpu"):
    """Features and keys of ``dtype`` and float32 scores on a device."""
    generator = torch.Generator().manual_seed(seed + 1)
    features = torch.randn(len(outliers), patches, width, generator=generator)
    keys = torch.randn(len(outliers), patches, depth, generator=generator)
    scores = scores_with(outliers, patches, seed)
    return features.to(device, dtype), keys.to(device, dtype), scores.to(device)
