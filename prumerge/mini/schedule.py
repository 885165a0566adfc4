"""The stages of the mini-LLaVA's training, scaled from a trial run to the shipped checkpoint."""

from dataclasses import replace

from prumerge.mini.batches import Recipe
from prumerge.mini.questions import FAMILIES
from prumerge.mini.training import Stage

SEE, PLACE = ("match", "naming"), ("match", "naming", "placing")
TALK, PRACTISE = ("answer",), ("answer", "practice")
LATE_FAMILIES = ("choice", "position", "count", "choice", "read", "position", "choice")
"""Asked more often at the end: learned last, they need the whole frame or several steps."""

LATER_FAMILIES = ("choice", "position", "read", "digit", "choice", "position", "count", "verify")
"""Asked more often in the second round."""


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
        stages += _second_round(stage, grid)
    return stages


def _second_round(stage, grid: int) -> list[Stage]:
    """Where things are and which letter stands for what: the first round did not learn it.

    The tower had dropped each patch's place on the way to its penultimate layer; it learns to keep
    it, and the projector to pass it on. Letters are practised on conversations without a picture,
    which are quick. Few visual tokens leave room for many turns about each picture. A sign gives
    one question a picture, so the last stage has many pictures, each with a sign.
    """
    place = Recipe(16, grid, None, 0, 48, (1, 12))
    talk = Recipe(8, grid, None, 384, 1, (1, 12), (*FAMILIES, *LATER_FAMILIES), (64, 96, 144), 64)
    letters = replace(talk, families=(*FAMILIES, *LATER_FAMILIES, "letter", "letter", "choice"))
    talk_any = replace(letters, pictures=12, tokens=(48, 96, 192, grid * grid), practice=32)
    signs = replace(
        talk_any, pictures=24, text_tokens=128, tokens=(96, 192, grid * grid), sign=True
    )
    few = stage("talk, few tokens", PRACTISE, talk, (1e-3, 7.5e-4))
    return [
        stage("place", PLACE, place, (5e-4, 3e-5)),
        replace(few, hand_over=True),
        stage("talk, letters too", PRACTISE, letters, (8e-4, 2e-4)),
        stage("talk, any tokens", PRACTISE, talk_any, (2e-4, 1e-5)),
        stage("talk, signs", PRACTISE, signs, (4e-4, 1e-5)),
    ]


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
