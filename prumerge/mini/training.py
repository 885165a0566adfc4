"""The stages of the mini-LLaVA's training and their loop, resumable at any step.

Stages run one after another: windows of the frame (quick), whole frames, and last the LLaVA stage
with the vision tower frozen. See notebook ``train_mini_llava``.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from prumerge.mini.batches import Batch, Recipe, make_batch
from prumerge.mini.features import Features
from prumerge.mini.losses import losses
from prumerge.mini.model import Learner
from prumerge.mini.questions import FAMILIES
from prumerge.models.loading import check_device
from prumerge.paths import written_whole

STATE = "progress.safetensors"
# Of the parts of the loss, which are summed.
WEIGHTS = {"match": 0.5, "naming": 1.0, "placing": 4.0, "answer": 1.0, "practice": 0.5}
SEE, PLACE = ("match", "naming"), ("match", "naming", "placing")
TALK, PRACTISE = ("answer",), ("answer", "practice")
LATE_FAMILIES = ("choice", "position", "count", "choice", "read", "position", "choice")
"""Asked more often at the end: learned last, they need the whole frame or several steps."""

LATER_FAMILIES = ("choice", "position", "read", "digit", "choice", "position", "count", "verify")
"""Asked more often in the second round."""

STEPS = {
    "see": 2200,
    "see, whole frame": 300,
    "talk": 1600,
    "talk, whole frame": 900,
    "talk, part of the tokens": 480,
    "place": 240,
    "talk, few tokens": 800,
    "talk, letters too": 950,
    "talk, any tokens": 220,
    "talk, signs": 200,
}


@dataclass(frozen=True)
class Stage:
    """One stretch of training, by whose name the curve calls it."""

    name: str
    steps: int
    recipe: Recipe
    parts: tuple[str, ...]  # of the loss, see losses
    peak_rate: float  # of learning, after the warm-up, with a cosine to
    final_rate: float  # at the end
    growth: float = 0.0  # share of the stage in which the number of things grows from 2
    warmup: int = 200
    hand_over: bool = False  # first give the projector each place, as the placing head reads it
    projector_only: bool = False  # the language model is frozen, as in LLaVA's first stage

    def rate(self, step: int) -> float:
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
        return replace(self.recipe, objects=(low, high))


def planned(steps: Mapping[str, int], scale: float, warmup: int = 200) -> Callable[..., Stage]:
    """Return what makes stages, by their names in ``steps``, which ``scale`` multiplies.

    A tenth of a stage's steps, ``warmup`` at most, are its warm-up. ValueError without a scale
    above 0.
    """
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}; 1.0 trains the shipped checkpoint")

    def stage(name, parts, recipe: Recipe, rates: tuple[float, float], growth: float = 0.0):
        count = max(1, round(steps[name] * scale))
        return Stage(name, count, recipe, parts, *rates, growth, min(warmup, max(1, count // 10)))

    return stage


def schedule(grid: int = 24, scale: float = 1.0) -> list[Stage]:
    """Return the stages that lead to a mini-LLaVA with ``grid x grid`` visual tokens.

    The vision tower learns first, then the language model from the frozen tower, as in LLaVA. With
    24 x 24 tokens both learn on windows of 12 x 12 patches, anywhere in the frame, before they turn
    to whole frames: four times fewer tokens are several times quicker, and since each window keeps
    its place's position embeddings, nothing has to be interpolated afterwards.

    ``grid`` is 24 as in LLaVA-1.5, or 12 for a quicker model; below 6 scenes do not fit.
    ``scale`` is a factor above 0 on the number of steps: 1 is the shipped checkpoint, 0.01 a trial.
    """
    if grid < 6:
        raise ValueError(f"grid must be at least 6 patches, got {grid}; 12 and 24 are in use")
    stage = planned(STEPS, scale)
    window = 12 if grid > 12 else None
    few, many = (1, 6), (1, 12)

    stages = [
        stage("see", SEE, Recipe(64, grid, window, 0, 40, few), (1e-3, 3e-4), growth=0.3),
        stage("talk", TALK, Recipe(32, grid, window, 192, 1, few), (1.5e-3, 2e-4)),
    ]
    if window is not None:
        see_whole = Recipe(16, grid, None, 0, 48, many)
        talk_whole = Recipe(16, grid, None, 256, 1, many, (*FAMILIES, *LATE_FAMILIES))
        stages.insert(1, stage("see, whole frame", SEE, see_whole, (4e-4, 5e-5)))
        talk_part = replace(talk_whole, tokens=(48, 96, 192, grid * grid))
        stages.append(stage("talk, whole frame", TALK, talk_whole, (8e-4, 1e-5)))
        stages.append(stage("talk, part of the tokens", TALK, talk_part, (6e-4, 1e-5)))
        stages += _second_round(stage, grid)
    return stages


def _second_round(stage, grid: int) -> list[Stage]:
    """Where things are and which letter stands for what: the first round did not learn it.

    The tower had dropped each patch's place; it learns to keep it, the projector to pass it on.
    Letters are practised without a picture, which is quick. Few visual tokens leave room for many
    turns. A sign gives one question a picture, so the last stage has many pictures with signs.
    """
    place = Recipe(16, grid, None, 0, 48, (1, 12))
    talk = Recipe(8, grid, None, 384, 1, (1, 12), (*FAMILIES, *LATER_FAMILIES), (64, 96, 144), 64)
    letters = replace(talk, families=(*FAMILIES, *LATER_FAMILIES, "letter", "letter", "choice"))
    talk_any = replace(letters, pictures=12, tokens=(48, 96, 192, grid * grid), practice=32)
    many = (96, 192, grid * grid)
    signs = replace(talk_any, pictures=24, text_tokens=128, tokens=many, sign=True)
    few = stage("talk, few tokens", PRACTISE, talk, (1e-3, 7.5e-4))
    return [
        stage("place", PLACE, place, (5e-4, 3e-5)),
        replace(few, hand_over=True),
        stage("talk, letters too", PRACTISE, letters, (8e-4, 2e-4)),
        stage("talk, any tokens", PRACTISE, talk_any, (2e-4, 1e-5)),
        stage("talk, signs", PRACTISE, signs, (4e-4, 1e-5)),
    ]


def train(
    model: Learner,
    stages: Iterable[Stage],
    folder: Path,
    device: str = "cpu",
    seed: int = 0,
    skip: int = 0,
    save_every: int = 500,
    report_every: int = 50,
    report: Callable[[dict], None] = print,
    known: Features | None = None,
    make: Callable[..., Batch] = make_batch,
) -> list[dict]:
    """Train through all stages, or go on where an interrupted run stopped; return the curve.

    ``folder`` keeps weights, optimiser state and curve, replaced atomically every ``save_every``
    steps and at each stage's end. ``skip`` is the number of stages that the model, reopened from an
    export, has been through. ``report`` takes a row of the curve every ``report_every`` steps.
    ``known`` are the features that a model behind a frozen tower learns from; ``make`` draws the
    batch of a recipe and a seed.
    """
    _place(model, device, skip, stages)
    progress = load_progress(folder, model)
    for number, stage in enumerate(stages):
        if number < max(skip, progress.stage):
            continue
        optimiser = _optimiser(model, stage)
        first = progress.restore(optimiser, model) if number == progress.stage else 0
        if stage.hand_over and not first:
            model.hand_over_places()
        spent = progress.curve[-1]["seconds"] if first else 0.0
        run = _run_stage(model, optimiser, stage, (seed, number), first, device, spent, known, make)
        for step, values in run:
            if step % report_every == 0 or step == stage.steps:
                progress.curve.append({"stage": stage.name, "step": step, **values()})
                report(progress.curve[-1])
            if step % save_every == 0 and step < stage.steps:
                save_progress(folder, model, optimiser, number, step, progress.curve)
        save_progress(folder, model, None, number + 1, 0, progress.curve)
    return progress.curve


def _place(model: Learner, device: str, skip: int, stages: list[Stage]) -> None:
    if skip > len(stages):
        raise ValueError(f"skip={skip} is more than the {len(stages)} stages of this training")
    check_device(device)
    model.to(device)


def _optimiser(model: Learner, stage: Stage) -> torch.optim.AdamW:
    """Train what the stage's loss reaches."""
    model.requires_grad_(False)
    model.zero_grad(set_to_none=True)  # a former stage's gradients would count when clipping
    for module in model.learning(stage.parts):
        module.requires_grad_(True)
    if stage.projector_only:
        for module in (model.llava.model.language_model, model.llava.lm_head):
            module.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=stage.peak_rate, betas=(0.9, 0.98), weight_decay=0.05)


def _run_stage(model, optimiser, stage, seed, first, device, spent, known, make):
    """Yield each finished step with a function that reads its values (reading synchronises)."""
    model.train()
    began = time.perf_counter()
    for step in range(first, stage.steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.rate(step)
        batch = make(stage.recipe_at(step), *seed, step, known=known).to(device)
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
            row |= {"seconds": round(spent + taken, 1)}
            row |= {"left_s": round((stage.steps - step - 1) / pace)}
            return {**row, "pictures_per_s": round(pace * stage.recipe.pictures, 1)}

        yield step + 1, values


@dataclass
class Progress:
    """Where a training stands: step within a stage, curve so far, optimiser tensors by name."""

    stage: int = 0
    step: int = 0
    curve: list[dict] = field(default_factory=list)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)

    def restore(self, optimiser: torch.optim.Optimizer, model: nn.Module) -> int:
        """Give the optimiser its state back and return the step to go on with."""
        for name, parameter in _trained(optimiser, model):
            own, held = f"optimiser.{name}.", self.moments.items()
            state = {key.removeprefix(own): v for key, v in held if key.startswith(own)}
            if state:
                optimiser.state[parameter] = state
        return self.step


def load_progress(folder: Path, model: nn.Module) -> Progress:
    """Load what an interrupted training left in ``folder`` into ``model``; nothing there: start."""
    if not (folder / STATE).exists():
        return Progress()
    with safe_open(folder / STATE, "pt") as file:
        record = json.loads(file.metadata()["record"])
    tensors = load_file(folder / STATE)
    weights = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    own = {name for name, _ in model.named_parameters()}  # without second names, nor buffers
    if unexpected or own & set(missing):
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
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    if optimiser is not None:
        for name, parameter in _trained(optimiser, model):
            for key, value in optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value.detach().contiguous()
    record = json.dumps({"stage": stage, "step": step, "curve": curve})
    with written_whole(folder / STATE) as partial:
        save_file(tensors, partial, {"record": record})


def _trained(optimiser: torch.optim.Optimizer, model: nn.Module):
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter
