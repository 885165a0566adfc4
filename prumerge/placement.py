"""Where the weights of a layer are: offloaded by ``accelerate``, sharded by FSDP2, or at hand.

device_of    where a layer computes
is_sharded   whether a part of its weight is elsewhere
gathered     sharded weights, together for a while
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def device_of(layer: nn.Module) -> torch.device:
    """Find where a layer computes, which for an offloaded one is not where its weights wait.

    Args:
        layer: One with a ``weight``.

    Returns:
        The execution device of the hooks that ``accelerate`` put on it, else the weight's device.
    """
    hook = getattr(layer, "_hf_hook", None)
    for own in getattr(hook, "hooks", [hook]):
        if getattr(own, "execution_device", None) is not None:
            return torch.device(own.execution_device)
    return layer.weight.device


def is_sharded(layer: nn.Module) -> bool:
    """Whether FSDP2 holds only a part of a layer's weight at the moment."""
    return hasattr(layer.weight, "full_tensor")


@contextlib.contextmanager
def gathered(owner: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Bring sharded weights together for layers used outside of their owner's forward pass.

    Args:
        owner: What FSDP2 shards and gathers as one, if anything is sharded.
        layer: One of its layers with a ``weight``.

    Raises:
        ValueError: If the weights are trained: FSDP2 would lose their gradients.
    """
    if not (hasattr(owner, "unshard") and is_sharded(layer)):
        yield
        return
    if torch.is_grad_enabled() and layer.weight.requires_grad:
        raise ValueError(
            "FSDP2 shards and trains a layer that is read outside of its block's forward pass, and "
            "would lose its gradients: freeze model.vision_tower, or do not shard its layers"
        )
    owner.unshard()
    try:
        yield
    finally:
        owner.reshard()
