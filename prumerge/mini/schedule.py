"""The stages of the mini-LLaVA's training, scaled from a trial run to the shipped checkpoint."""

from dataclasses import replace

from prumerge.mini.batches import Recipe
from prumerge.mini.questions import FAMILIES
from prumerge.mini.training import Stage

SEE, TALK = ("match", "naming"), ("answer",)
LATE_FAMILIES = ("choice", "position", "count", "choice", "read", "position", "choice")
"""Asked more often at the end: learned last, they need the whole frame or several steps."""


def schedule(grid: int = 24, scale: float = 1.0) -> list[Stage]:
    """Return the stages that lead to a mini-LLaVA with ``grid x grid`` visual tokens.

    The vision tower learns first (pictures against captions, and naming patches), the language
    model then learns to answer from the frozen tower, as LLaVA does. With 24 x 24 tokens both are
    learned on windows of 12 x 12 patches, placed anywhere in the frame, before they turn to whole
    frames: four times fewer tokens make that stretch several times quicker, and since each window
    keeps its place's position embeddings, nothing has to be interpolated afterwards.

    Args:
        grid: Patches along an edge; 24 as in LLaVA-1.5, or 12 for a quicker model.
        scale: Factor on the number of steps; 1 is the shipped checkpoint, 0.01 a trial.

    Raises:
        ValueError: For a grid below 6, where scenes no longer fit, or a scale that is not positive.
    """
    if grid < 6:
        raise ValueError(f"grid must be at least 6 patches, got {grid}; 12 and 24 are in use")
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}; 1.0 trains the shipped checkpoint")
    steps = {name: max(1, round(number * scale)) for name, number in STEPS.items()}
    window = 12 if grid > 12 else None
    few, many = (1, 6), (1, 12)

    def stage(name, parts, recipe: Recipe, rates: tuple[float, float], growth: float = 0.0):
        warmup = min(200, max(1, steps[name] // 10))
        return Stage(name, steps[name], recipe, parts, *rates, growth=growth, warmup=warmup)

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
    return stages


STEPS = {
    "see": 2200,
    "see, whole frame": 300,
    "talk": 1600,
    "talk, whole frame": 900,
    "talk, part of the tokens": 480,
}
