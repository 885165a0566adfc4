"""How long an evaluation takes on a GPU, before it starts: from the roofline's floor upwards."""

from collections.abc import Mapping, Sequence

from prumerge.evaluation.options import Options
from prumerge.roofline import ModelShape, estimate_costs, read_shape

TEXT_TOKENS = 60  # of a typical prompt, instruction included
NEW_TOKENS = 4  # of a typical answer: a word or a letter
SHARES = {"none": 0.06, "stride": 0.25, "lattice": 0.25}
"""Share of the patches that PruMerge and PruMerge+ keep on average: 5.5 and 25 percent in print."""

ABOVE_FLOOR = 4  # measured runs take a few times the roofline's floor: loading, decoding, overhead


def patches_of(size: str | ModelShape) -> int:
    """Return how many visual tokens a model's vision tower makes of a picture."""
    return read_shape(size).vision.patches


def lengths(
    methods: Mapping[str, Options], items: Sequence[int], size: str | ModelShape, hardware: str
) -> dict[str, str]:
    """Estimate what each method takes, and all of them together.

    Args:
        methods: Options by label.
        items: Questions of each task.
        size: Of the model, as :func:`prumerge.roofline.read_shape` takes it.
        hardware: Card, a name in ``prumerge.roofline.HARDWARE``.

    Returns:
        A sentence by label; where there are several methods, last one for ``all methods``.
    """
    asked, floors_s, told = sum(items), [], {}
    for label, options in methods.items():
        tokens = _tokens(options, size)
        floors_s.append(_floor_s(options, tokens, size, hardware) * asked)
        told[label] = f"{asked} questions, about {tokens} visual tokens each: "
        told[label] += _between(floors_s[-1], hardware)
    if len(methods) > 1:
        told["all methods"] = _between(sum(floors_s), hardware)
    return told


def _tokens(options: Options, size: str | ModelShape) -> int:
    patches, reducer = patches_of(size), options.reducer()
    if reducer is None:
        return patches
    kept = reducer.settings.tokens_of(patches)
    return kept or round(SHARES[reducer.settings.spatial] * patches)


def _floor_s(options: Options, tokens: int, size: str | ModelShape, hardware: str) -> float:
    """Return the least seconds that one question takes in a full batch."""
    costs = estimate_costs(
        size,
        TEXT_TOKENS + tokens,
        hardware,
        batch=options.batch_size,
        text_tokens=TEXT_TOKENS,
        new_tokens=NEW_TOKENS,
    )
    return costs["time_ms"].sum() / 1e3 / options.batch_size


def _between(floor_s: float, hardware: str) -> str:
    return f"{_duration(floor_s)} to {_duration(ABOVE_FLOOR * floor_s)} on one {hardware}"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.1f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
