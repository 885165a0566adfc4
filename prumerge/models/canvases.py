"""Reduction of pictures in tiles and of videos: any method, canvas by canvas.

A method sees the tiles or frames as pictures of their own, those of one size and budget together,
and works unchanged. Its tokens are then put back into the order of the prompt, with the newlines
and class tokens that stay.

Shapes
    sent    slots that one picture or video sends, markers included
    tokens  of one picture or video, markers excluded

Source: the paper reduces each frame of a video alone (its Table 3); for stitched tiles neither
paper nor release says anything.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.models.budgets import budgets_of
from prumerge.models.inputs import Sent
from prumerge.models.slots import Canvas, Packed, Visual
from prumerge.reduction import Reduction, Selection, reduce_to
from prumerge.settings import Settings


@dataclasses.dataclass(frozen=True)
class TiledReduction(Reduction):
    """A reduction of pictures in tiles or of videos; ``positions`` and ``selection`` count slots.

    Args:
        visuals: The pictures or videos; ``selection.reason[i][canvas.slots]`` is the reason of
            each patch of one of the i-th's canvases.
        markers: The slots of the newlines and class tokens that each sends beside its tokens.
    """

    visuals: tuple[Visual, ...] = ()
    markers: tuple[Int64[Tensor, " _markers"], ...] = ()

    @property
    def kept_by_tile(self) -> list[list[int]]:
        """Visual tokens of each tile or frame, for each picture or video; ``kept`` has the sums."""
        return [
            [int(torch.isin(places.cpu(), canvas.slots).sum()) for canvas in visual.canvases]
            for visual, places in zip(self.visuals, self.positions, strict=True)
        ]


def reduce_packed(packed: Packed, method: Method) -> Reduction:
    """Reduce all pictures, or all videos, of a call; :class:`TiledReduction` where they have tiles.

    Raises:
        ValueError: If the budget is too small for the canvases, or a setting does not fit them.
    """
    if packed.plain:
        return method(packed.parts[0])
    if not packed.visuals:
        none = torch.zeros(0, 0, dtype=torch.int64)
        return TiledReduction([], [], Selection(none.to(torch.int8), none, none[:, :0].sum(1)))
    settings = method.settings
    if settings.markers == "all" and settings.order != "raster" and _has_newlines(packed.visuals):
        raise ValueError(
            f"markers='all' sends newlines, which end rows, and order={settings.order!r} has none: "
            "pass order='raster', or markers='rows'"
        )
    across = settings.merging == "across"
    choosing = _selecting(method) if across else method
    found = _by_canvas(packed, choosing, across and settings.extra_token)
    reduced = [
        _across(packed, visual, parts, method) if across else _joined(visual, parts, settings)
        for visual, parts in zip(packed.visuals, found, strict=True)
    ]
    markers = tuple(
        markers_sent(visual, places, settings)
        for visual, (_, places) in zip(packed.visuals, reduced, strict=True)
    )
    tokens, positions = ([row[i] for row in reduced] for i in (0, 1))
    selection = _selection(packed.visuals, found, positions)
    return TiledReduction(tokens, positions, selection, packed.visuals, markers)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """What one canvas keeps, by patches of the canvas."""

    tokens: Tensor
    positions: Tensor
    reason: Tensor


def _by_canvas(packed: Packed, method: Method, merged: bool) -> list[list[_Part]]:
    """Run the method over all canvases, those of equal grid and budget at once.

    ``merged`` says that one more token will be made of all that is dropped.
    """
    groups = defaultdict(list)
    first = [sum(len(part.scores) for part in packed.parts[:i]) for i in range(len(packed.parts))]
    found: dict[tuple[int, int], _Part] = {}
    for number, visual in enumerate(packed.visuals):
        scores = []
        if method.settings.share != "size":
            scores = _pick(packed.parts, first, visual.canvases, "scores")
        budgets = budgets_of(visual, scores, method.settings, merged)
        for place, (canvas, budget) in enumerate(zip(visual.canvases, budgets, strict=True)):
            if budget == 0:
                like = _pick(packed.parts, first, [canvas], "features")[0]
                none = torch.zeros(len(like), dtype=torch.int8, device=like.device)
                found[number, place] = _Part(like[:0], none[:0].long(), none)
            else:
                part = max(i for i, start in enumerate(first) if start <= canvas.tile)
                groups[part, canvas.grid, budget].append((number, place))
    for (part, grid, budget), members in groups.items():
        canvases = [packed.visuals[number].canvases[place] for number, place in members]
        encoded = _encoded(packed, part, first[part], canvases, grid)
        own = method
        if budget is not None:
            changed = method.settings.with_changes(budget=budget)
            own = dataclasses.replace(method, settings=changed)
        reduction = own(encoded)
        reason = reduction.selection.reason
        rows = zip(reduction.tokens, reduction.positions, reason, strict=True)
        found |= {member: _Part(*row) for member, row in zip(members, rows, strict=True)}
    return [
        [found[number, place] for place in range(len(visual.canvases))]
        for number, visual in enumerate(packed.visuals)
    ]


def _pick(
    parts: Sequence[Encoded], first: Sequence[int], canvases: Sequence[Canvas], name: str
) -> list[Tensor]:
    picked = []
    for canvas in canvases:
        part = max(i for i, start in enumerate(first) if start <= canvas.tile)
        values = getattr(parts[part], name)[canvas.tile - first[part]]
        picked.append(values[canvas.rows.to(values.device)])
    return picked


def _encoded(
    packed: Packed, part: int, first: int, canvases: Sequence[Canvas], grid: tuple[int, int]
) -> Encoded:
    """Stack canvases of one grid, as if they were pictures of their own."""
    tiles, whole = torch.tensor([canvas.tile - first for canvas in canvases]), packed.parts[part]
    if all(len(canvas.rows) == whole.scores.shape[1] for canvas in canvases):
        same = torch.equal(tiles, torch.arange(len(whole.scores)))
        return whole if same else whole.at(tiles.to(whole.scores.device))
    # A tile of which a part is padding cannot be encoded anew without it.
    cut = dataclasses.replace(whole, at_grid=None, rerun=None).at(tiles.to(whole.scores.device))
    rows = torch.stack([canvas.rows for canvas in canvases]).to(whole.scores.device)

    def shown(values: Tensor) -> Tensor:
        inside = rows.to(values.device)
        return values[torch.arange(len(rows), device=values.device)[:, None], inside]

    return dataclasses.replace(
        cut,
        features=shown(cut.features),
        keys=shown(cut.keys),
        scores=shown(cut.scores),
        relevance=None if cut.relevance is None else shown(cut.relevance),
        grid=grid,
    )


def _joined(visual: Visual, parts: Sequence[_Part], settings: Settings) -> tuple[Tensor, Tensor]:
    """Put the tokens of all canvases into the order in which they are sent."""
    tokens = torch.cat([part.tokens for part in parts])
    slots = torch.cat(
        [
            canvas.slots.to(part.positions.device)[part.positions]
            for canvas, part in zip(visual.canvases, parts, strict=True)
        ]
    )
    if settings.order == "raster":
        slots, order = slots.sort(stable=True)
        tokens = tokens[order.to(tokens.device)]
    return tokens, slots


def _selecting(method: Method) -> Method:
    """The method, asked for nothing but which patches stay."""
    settings = method.settings
    if not settings.neighbours and not settings.extra_token:
        raise ValueError(
            f"merging='across' merges by neighbours and extra_token, and {method.name!r} has "
            "neither here: pass neighbours=32, or merging='within'"
        )
    return dataclasses.replace(
        method, settings=settings.with_changes(neighbours=0, extra_token=False)
    )


def _across(
    packed: Packed, visual: Visual, parts: Sequence[_Part], method: Method
) -> tuple[Tensor, Tensor]:
    """Merge what each canvas keeps with its nearest neighbours in all of them."""
    first = [sum(len(part.scores) for part in packed.parts[:i]) for i in range(len(packed.parts))]
    features, keys, scores = (
        torch.cat(_pick(packed.parts, first, visual.canvases, name))
        for name in ("features", "keys", "scores")
    )
    reason = torch.cat([part.reason for part in parts])
    sizes, settings = visual.sizes, method.settings
    plain = [
        torch.equal(own.positions.sort().values, (own.reason != 0).nonzero()[:, 0])
        and torch.equal(own.tokens, rows[own.positions])
        for own, rows in zip(parts, features.split(sizes), strict=True)
    ]
    if not all(plain):
        raise ValueError(
            f"merging='across' needs a method that chooses patches and leaves merging to "
            f"prumerge.reduction.reduce_to, and {method.name!r} merges by itself: pass "
            "merging='within'"
        )
    raster = settings.with_changes(order="raster")
    merged = reduce_to(reason[None], features[None], keys[None], scores[None], raster)
    slots = torch.cat([canvas.slots for canvas in visual.canvases]).to(reason.device)
    tokens, places = merged.tokens[0], merged.positions[0]
    if settings.order == "raster":
        places = slots[places]
        order = places.argsort(stable=True)
        return tokens[order], places[order]
    starts = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
    sent = [own.positions + start for own, start in zip(parts, starts.tolist(), strict=True)]
    ranks = torch.empty_like(slots)
    ranks[torch.cat(sent)] = torch.arange(sum(map(len, sent)), device=slots.device)
    extra = len(tokens) - sum(map(len, sent))
    order = ranks[places[: len(places) - extra]].argsort()
    order = torch.cat([order, torch.arange(len(order), len(tokens), device=order.device)])
    return tokens[order], slots[places[order]]


def _has_newlines(visuals: Sequence[Visual]) -> bool:
    return any(not visual.opens and bool((visual.source < 0).any()) for visual in visuals)


def markers_sent(
    visual: Visual, places: Int64[Tensor, " tokens"], settings: Settings
) -> Int64[Tensor, " markers"]:
    """Find the slots of the markers that are sent beside tokens at ``places``.

    Under ``"rows"`` a marker stays where one of its patches stays: a newline closes those since the
    newline before, a class token opens those up to the next. Newlines need raster order.
    """
    own = (visual.source < 0).nonzero()[:, 0]
    if settings.markers == "all":
        return own
    if settings.markers == "none" or (settings.order != "raster" and not visual.opens):
        return own[:0]
    places, tiles = places.cpu(), visual.canvases
    if len(tiles) > 1 and tiles[1].box is not None:  # no newline closes the whole picture's rows
        places = places[places >= len(tiles[0].slots)]
    number = torch.bucketize(places, own, right=visual.opens) - int(visual.opens)
    return own[torch.isin(torch.arange(len(own)), number)]


def _selection(
    visuals: Sequence[Visual], found: Sequence[Sequence[_Part]], positions: Sequence[Tensor]
) -> Selection:
    device = positions[0].device
    longest, most = (max(map(len, rows)) for rows in ([v.source for v in visuals], positions))
    reason = torch.zeros(len(visuals), longest, dtype=torch.int8, device=device)
    order = torch.full((len(visuals), most), -1, device=device)
    for number, (visual, parts) in enumerate(zip(visuals, found, strict=True)):
        for canvas, part in zip(visual.canvases, parts, strict=True):
            reason[number, canvas.slots.to(device)] = part.reason.to(torch.int8)
        order[number, : len(positions[number])] = positions[number]
    return Selection(reason, order, torch.tensor([len(places) for places in positions]))


def sent_by(
    reduction: Reduction, packed: Packed, token: int, kind: Literal["image", "video"]
) -> Sent:
    """Project what is sent of pictures or videos, and put their markers among it."""
    runs = [visual.runs for visual in packed.visuals]
    if not reduction.tokens:
        return Sent(token, runs, kind=kind)
    features, slots = torch.cat(reduction.tokens), reduction.positions
    tokens = packed.project(features)
    if packed.beside is not None:
        tokens = torch.cat([tokens, packed.beside(features)], dim=-1)
    if isinstance(reduction, TiledReduction):
        if packed.markers is not None:
            tokens = torch.cat([tokens, packed.markers.to(tokens)])
        tokens, slots = _among_markers(tokens, reduction)
    return Sent(token, runs, slots, tokens, kind)


def _among_markers(tokens: Tensor, reduction: TiledReduction) -> tuple[Tensor, list[Tensor]]:
    """Put newlines behind the rows they close, and class tokens before the frames they open.

    ``tokens`` are all visual tokens, and behind them all markers.
    """
    rows, all_slots, start, end = [], [], 0, sum(reduction.kept)
    for visual, places, own in zip(
        reduction.visuals, reduction.positions, reduction.markers, strict=True
    ):
        slots = torch.cat([own, places.cpu()])
        number = torch.cat([end - 1 - visual.source[own], torch.arange(len(places)) + start])
        opened = torch.bucketize(slots, (visual.source < 0).nonzero()[:, 0], right=True)
        raster = bool((places.diff() >= 0).all())
        order = (slots if raster else opened).argsort(stable=True)
        rows.append(number[order])
        all_slots.append(slots[order])
        start += len(places)
    return tokens[torch.cat(rows).to(tokens.device)], all_slots
