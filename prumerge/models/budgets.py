"""How a picture's or a video's budget is shared over its tiles or frames.

    size    each gets as its share of the visible patches
    joint   the best-scored patches of all together are counted
    base    tiles get as the whole picture, seen small, attends to their part of it

``base_share`` fixes what the whole picture itself gets. Scores of tiles are not comparable: each
tile's attention is a softmax of its own, and an empty tile's sums to as much as a full one's.
``size`` therefore compares none, and is the default.

Source: sharing by the whole picture's attention is HiRED's (arXiv 2408.10945), which reads it in
another block; equal shares of equal tiles are what ports of VisionZip and FasterVLM do. The rest is
an own choice.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from prumerge.models.slots import Visual
from prumerge.settings import Settings


def budgets_of(
    visual: Visual,
    scores: Sequence[Float[Tensor, " _"]],
    settings: Settings,
    spare: bool = False,
) -> list[int | None]:
    """Share a budget over canvases; None where pictures decide.

    ``scores`` are those of each canvas, where ``share`` reads them; ``spare`` leaves room for one
    token made of all that is dropped.

    Raises:
        ValueError: If the budget is below one token per canvas, or ``share="base"`` lacks a whole
            picture beside its tiles.
    """
    sizes = visual.sizes
    total = settings.tokens_of(sum(sizes))
    if spare and total is not None and 1 < total < sum(sizes):
        total -= 1
    if total is None or len(sizes) == 1:
        return [total] * len(sizes)
    if settings.share == "joint":
        return joint(total, scores)
    if total < len(sizes):
        raise ValueError(
            f"budget={settings.budget!r} is {total} tokens for {len(sizes)} tiles or frames, each "
            f"of which keeps at least one: pass budget={len(sizes)} or more, or share='joint'"
        )
    weights = [float(size) for size in sizes]
    whole = visual.canvases[0].box is None and all(own.box for own in visual.canvases[1:])
    if settings.share == "base":
        if not whole:
            raise ValueError(
                "share='base' needs the whole picture beside its tiles, and frames have none: pass "
                "share='size' or share='joint'"
            )
        weights = _by_base(visual, scores[0], weights)
    if settings.base_share is not None and whole:
        first = min(max(round(settings.base_share * total), 0), sizes[0])
        rest = min(total - first, sum(sizes[1:]))
        return [total - rest, *shares(rest, sizes[1:], weights[1:])]
    return shares(total, sizes, weights)


def shares(budget: int, sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Share tokens in proportion to weights, by largest remainder, exactly ``budget`` in all.

    Each gets at least one token, where there is one for each, and at most its size; what these
    limits take or leave is shared among the others.

    Example:
        >>> shares(10, [16, 16, 2], [1.0, 1.0, 4.0])
        [4, 4, 2]
    """
    least = min(1, budget // len(sizes))
    bounds = [(least, size) for size in sizes]

    def filled(scale: float) -> list[float]:
        return [
            float(min(max(scale * weight, low), high))
            for weight, (low, high) in zip(weights, bounds, strict=True)
        ]

    low, high = 0.0, sum(sizes) / max(min((w for w in weights if w > 0), default=1.0), 1e-12)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(filled(middle)) < budget else (low, middle)
    ideal = filled(high)
    given = [int(share + 1e-9) for share in ideal]
    by_rest = sorted(range(len(sizes)), key=lambda place: given[place] - ideal[place])
    for place in itertools.cycle(by_rest):
        if sum(given) >= budget:
            break
        given[place] += given[place] < sizes[place]
    return given


def joint(budget: int, scores: Sequence[Float[Tensor, " _"]]) -> list[int]:
    """Count how many of the best-scored patches of all canvases lie in each; some may get none.

    Example:
        >>> joint(3, [torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.7])])
        [2, 1]
    """
    together = torch.cat(list(scores)).float()
    best = together.argsort(descending=True, stable=True)[:budget]
    sizes = [len(own) for own in scores]
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(best.device)
    return torch.bincount(owner[best], minlength=len(sizes)).tolist()


def _by_base(visual: Visual, base: Tensor, sizes: list[float]) -> list[float]:
    """Weigh tiles by the attention to their part of the whole picture, which keeps its own size."""
    rows, columns = visual.canvases[0].grid
    mass = base.detach().float().unflatten(0, (rows, columns)).cpu()
    attended = [
        float(_cover(top, bottom, rows) @ mass @ _cover(left, right, columns))
        for top, bottom, left, right in (canvas.box for canvas in visual.canvases[1:])
    ]
    scale = sum(sizes[1:]) / max(sum(attended), 1e-12)
    return [sizes[0], *(scale * own for own in attended)]


def _cover(start: float, end: float, count: int) -> Float32[Tensor, " {count}"]:
    """How much of each of ``count`` equal parts of a length lies between two shares of it."""
    edges = torch.arange(count + 1) / count
    overlap = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return overlap.clamp(min=0) * count
