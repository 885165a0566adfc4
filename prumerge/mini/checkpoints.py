"""Interrupted trainings go on: weights, optimiser state and curve, written atomically."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

STATE, RECORD = "progress.safetensors", "progress.json"


@dataclass
class Progress:
    """Where a training stands: stage, step within it, curve so far, optimiser tensors by name."""

    stage: int = 0
    step: int = 0
    curve: list[dict] = field(default_factory=list)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)

    def restore(self, optimiser: torch.optim.Optimizer, model: nn.Module) -> int:
        """Give the optimiser its state back and return the step to go on with."""
        for name, parameter in _trained(optimiser, model):
            prefix = f"optimiser.{name}."
            state = {
                k.removeprefix(prefix): v for k, v in self.moments.items() if k.startswith(prefix)
            }
            if state:
                optimiser.state[parameter] = state
        return self.step


def load_progress(folder: Path, model: nn.Module) -> Progress:
    """Load what an interrupted training left in ``folder`` into ``model``; nothing there: start."""
    if not (folder / RECORD).exists():
        return Progress()
    record = json.loads((folder / RECORD).read_text())
    tensors = load_file(folder / record["state"])
    weights = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    if unexpected or set(missing) - aliases - {n for n, _ in model.named_buffers()}:
        raise ValueError(
            f"{folder} holds a training of another model ({missing or unexpected}); "
            "give another folder or delete it"
        )
    moments = {k: v for k, v in tensors.items() if k.startswith("optimiser.")}
    return Progress(record["stage"], record["step"], record["curve"], moments)


def save_progress(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer | None,
    stage: int,
    step: int,
    curve: list[dict],
) -> None:
    """Write the state; a kill at any moment leaves the former one or this one, never half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    if optimiser is not None:
        for name, parameter in _trained(optimiser, model):
            for key, value in optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value.detach().contiguous()
    state = f"{stage}-{step}-{STATE}"
    save_file(tensors, folder / f".{state}")
    os.replace(folder / f".{state}", folder / state)
    # The record names its state file, so both change in the one rename below.
    record = {"stage": stage, "step": step, "state": state, "curve": curve}
    (folder / f".{RECORD}").write_text(json.dumps(record))
    os.replace(folder / f".{RECORD}", folder / RECORD)
    for old in folder.glob(f"*{STATE}"):
        if old.name != state:
            old.unlink()


def _trained(optimiser: torch.optim.Optimizer, model: nn.Module):
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter
