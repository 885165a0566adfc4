"""Losses and loop of the mini-LLaVA's training, resumable at any step.

Stages run one after another: windows of the frame (quick), whole frames, and last the LLaVA stage
with the vision tower frozen. See notebook ``train_mini_llava``.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from prumerge.mini.architecture import Pretraining
from prumerge.mini.batches import IGNORED, PROMPT_START, Batch, Recipe, make_batch
from prumerge.mini.checkpoints import load_progress, save_progress
from prumerge.mini.glyphs import KINDS
from prumerge.mini.vocabulary import IDS, PAD

WEIGHTS = {"match": 0.5, "naming": 1.0, "answer": 1.0}
GROUND_WEIGHT = 0.1  # most patches are ground; they would drown the things in the naming loss


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: Shown in the curve.
        steps: Optimiser steps.
        recipe: The batches; the largest number of things grows to it over ``growth`` of the stage.
        peak_rate, final_rate: Learning rate after warm-up and at the end (cosine between).
        parts: Parts of the loss, see :func:`losses`.
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


def losses(model: Pretraining, batch: Batch, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the parts of the loss that are asked for, and the shares that are right.

    ``match``: CLIP's contrastive loss between pictures and captions; ``matched``, the share of
    pictures that find their caption. ``naming``: what lies on each patch, from its penultimate
    feature. ``answer``: cross entropy of the answers' tokens; ``right``, the share predicted.
    With ``answer`` alone the vision tower is frozen, as in LLaVA's own training.
    """
    values = {}
    with torch.set_grad_enabled(parts != ("answer",)):
        features = _features(model, batch)
    if "match" in parts:
        values |= _match(model, batch, model.tower.encoder.layers[-1](features, None))
    if "naming" in parts:
        values |= _naming(model, batch, features)
    if "answer" in parts:
        values |= _answer(model, batch, features)
    return values


def _features(model: Pretraining, batch: Batch) -> Tensor:
    """Run the tower on a window or a whole frame up to its penultimate hidden state."""
    tower = model.tower
    patches = tower.embeddings.patch_embedding(batch.pixel_values).flatten(2).transpose(1, 2)
    first = tower.embeddings.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    hidden = torch.cat([first, patches], dim=1)
    hidden = hidden + tower.embeddings.position_embedding(batch.tower_positions)
    hidden = tower.pre_layrnorm(hidden)
    for block in tower.encoder.layers[:-1]:
        hidden = block(hidden, None)
    return hidden


def _answer(model: Pretraining, batch: Batch, features: Tensor) -> dict[str, Tensor]:
    llava = model.llava.model
    visual = llava.multi_modal_projector(features[:, 1:])
    words = llava.language_model.embed_tokens(batch.input_ids)
    start, end = len(PROMPT_START), len(PROMPT_START) + visual.shape[1]
    embeddings = torch.cat([words[:, :start], visual.to(words.dtype), words[:, end:]], dim=1)
    hidden = llava.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    logits = model.llava.lm_head(hidden[:, end:]).float().flatten(0, 1)
    wanted = batch.targets[:, end:].flatten()
    right = ((logits.argmax(-1) == wanted).sum() / (wanted != IGNORED).sum()).detach()
    return {"answer": F.cross_entropy(logits, wanted, ignore_index=IGNORED), "right": right}


def _match(model: Pretraining, batch: Batch, last: Tensor) -> dict[str, Tensor]:
    clip = model.clip
    seen = clip.visual_projection(clip.vision_model.post_layernorm(last[:, 0]))
    mask = (batch.captions != IDS[PAD]).long()
    read = clip.text_projection(clip.text_model(batch.captions, attention_mask=mask).pooler_output)
    scale = clip.logit_scale.exp().clamp(max=100)
    logits = scale * F.normalize(seen.float(), dim=-1) @ F.normalize(read.float(), dim=-1).T
    wanted = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
    return {"match": loss, "matched": (logits.argmax(-1) == wanted).float().mean().detach()}


def _naming(model: Pretraining, batch: Batch, features: Tensor) -> dict[str, Tensor]:
    logits = model.naming(features[:, 1:]).float()
    kinds, colours = logits.split([len(KINDS) + 1, logits.shape[-1] - len(KINDS) - 1], dim=-1)
    weights = torch.where(batch.kinds == 0, GROUND_WEIGHT, 1.0)
    parts = F.cross_entropy(kinds.transpose(1, 2), batch.kinds, reduction="none")
    parts = parts + F.cross_entropy(colours.transpose(1, 2), batch.colours, reduction="none")
    things = batch.kinds > 0
    named = ((kinds.argmax(-1) == batch.kinds) & things).sum() / things.sum().clamp(min=1)
    return {"naming": (parts * weights).sum() / weights.sum(), "named": named.detach()}


def train(
    model: Pretraining,
    stages: Iterable[Stage],
    folder: Path,
    device: str = "cpu",
    seed: int = 0,
    save_every: int = 500,
    report_every: int = 50,
    report: Callable[[dict], None] = print,
) -> list[dict]:
    """Train through all stages, or go on where an interrupted run stopped.

    Args:
        folder: Keeps weights, optimiser state and curve; each is replaced atomically every
            ``save_every`` steps and at each stage's end.
        report: Called with a row of the curve every ``report_every`` steps.

    Returns:
        The curve: one row per report, from the very first step on.
    """
    model.to(device)
    progress = load_progress(folder, model)
    for number, stage in enumerate(stages):
        if number < progress.stage:
            continue
        optimiser = _optimiser(model, stage)
        first = progress.restore(optimiser, model) if number == progress.stage else 0
        run = _run_stage(model, optimiser, stage, (seed, number), first, device)
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
    if stage.parts != ("answer",):
        model.tower.requires_grad_(True)
        model.clip.requires_grad_("match" in stage.parts)
        model.naming.requires_grad_(True)
    if "answer" in stage.parts:
        model.llava.model.multi_modal_projector.requires_grad_(True)
        model.llava.model.language_model.requires_grad_(True)
        model.llava.lm_head.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=stage.peak_rate, betas=(0.9, 0.98), weight_decay=0.05)


def _run_stage(model, optimiser, stage, seed, first, device):
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
        pace = (step + 1 - first) * stage.recipe.pictures / (time.perf_counter() - began)

        def values(parts=parts, step=step, pace=pace) -> dict:
            left = (stage.steps - step - 1) * stage.recipe.pictures / pace
            row = {name: round(part.item(), 4) for name, part in parts.items()}
            return {**row, "pictures_per_s": round(pace, 1), "left_s": round(left)}

        yield step + 1, values
