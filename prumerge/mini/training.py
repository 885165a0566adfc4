"""The loop of the mini-LLaVA's training, resumable at any step.

Stages run one after another: windows of the frame (quick), whole frames, and last the LLaVA stage
with the vision tower frozen. See notebook ``train_mini_llava``.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from prumerge.mini.architecture import Pretraining
from prumerge.mini.batches import Recipe, make_batch
from prumerge.mini.checkpoints import load_progress, save_progress
from prumerge.mini.losses import SEEING, losses

# Of the parts of the loss, which are summed.
WEIGHTS = {"match": 0.5, "naming": 1.0, "placing": 4.0, "answer": 1.0, "practice": 0.5}


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: Shown in the curve.
        steps: Optimiser steps.
        recipe: The batches; the largest number of things grows to it over ``growth`` of the stage.
        peak_rate, final_rate: Learning rate after warm-up and at the end (cosine between).
        parts: Parts of the loss, see :func:`losses`.
        hand_over: First give the projector each patch's place, as the placing head reads it.
        growth: Share of the stage in which the number of things grows from 2 to the recipe's.
    """

    name: str
    steps: int
    recipe: Recipe
    parts: tuple[str, ...]
    peak_rate: float
    final_rate: float
    growth: float = 0.0
    warmup: int = 200
    hand_over: bool = False

    def rate(self, step: int) -> float:
        """Learning rate at a step of the stage."""
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        wave = 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
        return self.final_rate + (self.peak_rate - self.final_rate) * wave

    def recipe_at(self, step: int) -> Recipe:
        """The recipe at a step, with fewer things while the number still grows."""
        low, high = self.recipe.objects
        if self.growth and step < self.growth * self.steps:
            high = min(high, 2 + int((high - 1) * step / (self.growth * self.steps)))
        return Recipe(**{**self.recipe.__dict__, "objects": (low, high)})


def train(
    model: Pretraining,
    stages: Iterable[Stage],
    folder: Path,
    device: str = "cpu",
    seed: int = 0,
    skip: int = 0,
    save_every: int = 500,
    report_every: int = 50,
    report: Callable[[dict], None] = print,
) -> list[dict]:
    """Train through all stages, or go on where an interrupted run stopped.

    Args:
        skip: Stages that the model has been through already (it was reopened from an export).
        folder: Keeps weights, optimiser state and curve; each is replaced atomically every
            ``save_every`` steps and at each stage's end.
        report: Called with a row of the curve every ``report_every`` steps.

    Returns:
        The curve: one row per report, from the very first step on.
    """
    model.to(device)
    progress = load_progress(folder, model)
    for number, stage in enumerate(stages):
        if number < max(skip, progress.stage):
            continue
        optimiser = _optimiser(model, stage)
        first = progress.restore(optimiser, model) if number == progress.stage else 0
        if stage.hand_over and not first:
            model.hand_over_places()
        spent = progress.curve[-1]["seconds"] if first else 0.0
        run = _run_stage(model, optimiser, stage, (seed, number), first, device, spent)
        for step, values in run:
            if step % report_every == 0 or step == stage.steps:
                progress.curve.append({"stage": stage.name, "step": step, **values()})
                report(progress.curve[-1])
            if step % save_every == 0 and step < stage.steps:
                save_progress(folder, model, optimiser, number, step, progress.curve)
        save_progress(folder, model, None, number + 1, 0, progress.curve)
    return progress.curve


def _optimiser(model: Pretraining, stage: Stage) -> torch.optim.AdamW:
    """Train what the stage's loss reaches: the tower unless frozen, CLIP's heads, the LLaVA."""
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)  # a former stage's gradients would count when clipping
    if not SEEING.isdisjoint(stage.parts):
        model.tower.requires_grad_(True)
        model.clip.requires_grad_("match" in stage.parts)
        model.naming.requires_grad_("naming" in stage.parts)
        model.placing.requires_grad_("placing" in stage.parts)
    if "answer" in stage.parts:
        model.llava.model.multi_modal_projector.requires_grad_(True)
        model.llava.model.language_model.requires_grad_(True)
        model.llava.lm_head.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=stage.peak_rate, betas=(0.9, 0.98), weight_decay=0.05)


def _run_stage(model, optimiser, stage, seed, first, device, spent):
    """Yield each finished step with a function that reads its values (reading synchronises)."""
    model.train()
    began = time.perf_counter()
    for step in range(first, stage.steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.rate(step)
        batch = make_batch(stage.recipe_at(step), *seed, step).to(device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            parts = losses(model, batch, stage.parts)
        loss = sum(WEIGHTS[name] * parts[name] for name in stage.parts)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

        def values(parts=parts, step=step) -> dict:
            row = {name: round(part.item(), 4) for name, part in parts.items()}
            taken = time.perf_counter() - began
            pace = (step + 1 - first) / taken
            row |= {
                "seconds": round(spent + taken, 1),
                "left_s": round((stage.steps - step - 1) / pace),
            }
            return {**row, "pictures_per_s": round(pace * stage.recipe.pictures, 1)}

        yield step + 1, values
