"""Prompts with fewer placeholders: make room for exactly the visual tokens that are sent.

A prompt holds one placeholder per slot of every picture or video. When one sends fewer visual
tokens, its placeholders must shrink with it, and prompts that lost different numbers must be padded
again. Everything follows from one map: for each slot of the shortened prompt, the column of the
full prompt it came from.

Shapes
    prompts   rows of the batch
    length    columns of the full prompts
    short     columns of the shortened prompts
    slots     placeholders of one run: of a picture or video, or of a part of it that text cuts off

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

_KIND = {"image": "picture", "video": "video"}
_EXPAND = (
    "Let the processor expand <image> itself: set its patch_size, num_additional_image_tokens=1 "
    'and vision_feature_select_strategy="default" as in the model\'s config, and do not truncate'
)
UNSENT = "labels must be -100 on image placeholders: patches that were not sent have no logits"


@dataclass(frozen=True)
class ShortPrompts:
    """Where each slot of the shortened prompts came from.

    ``source`` is the column of the full prompt, for a visual token that of the patch it stands for;
    -1 is new padding. ``visual`` is True where a visual token stands.
    """

    source: Int[Tensor, "prompts short"]
    visual: Bool[Tensor, "prompts short"]
    input_ids: Int[Tensor, "prompts short"]
    attention_mask: Int[Tensor, "prompts short"]

    def pick(
        self, values: Shaped[Tensor, "*rows prompts length"], fill: int
    ) -> Shaped[Tensor, "*rows prompts short"]:
        """Shorten what has one value per column, such as labels; new padding gets ``fill``."""
        return _pick(values, self.source, fill)

    def slots(self, placeholder: Bool[Tensor, "prompts length"]) -> Int[Tensor, "prompts length"]:
        """Find the slot whose logits each column of the full prompts would have.

        A picture's last slot stands in the picture's last column, so that the token behind is
        still predicted by the column before it. -1 is for patches not sent, and for padding.
        """
        columns = torch.arange(placeholder.shape[1], device=placeholder.device)
        end = (placeholder * columns).amax(dim=1, keepdim=True)  # where the last picture ends
        after = self.source.roll(-1, dims=1)
        after[:, -1] = -1
        ends = self.visual & ~(self.visual.roll(-1, dims=1) & (after >= 0))
        column = torch.where(ends, torch.where(after < 0, end, after - 1), self.source)
        slot = torch.arange(self.source.shape[1], device=column.device).expand_as(column)
        slot = slot.masked_fill(self.source < 0, -1)
        found = torch.full_like(placeholder, -1, dtype=torch.long)
        return found.scatter_reduce(1, column.clamp(min=0), slot, "amax")


def spread_logits(
    logits: Float[Tensor, "prompts short vocabulary"],
    slots: Int[Tensor, "prompts length"],
) -> Float[Tensor, "prompts length vocabulary"]:
    """Put logits back to the columns of the full prompts, zeros where ``slots`` has none.

    A loss that reads those zeros is refused in its backward pass, with a ``ValueError``.
    """
    empty = slots < 0
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    full = logits[rows, slots.clamp(min=0)].masked_fill(empty[..., None], 0)

    def check(gradient: Tensor) -> None:
        if bool(gradient[empty].any()):
            raise ValueError(UNSENT)

    if full.requires_grad:
        full.register_hook(check)
    return full


def is_placeholder(ids: Int[Tensor, "*shape"], tokens: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """Mark the placeholders among token ids; ``tokens`` are theirs."""
    return torch.isin(ids, torch.tensor(list(tokens), device=ids.device))


def runs_in(
    input_ids: Int[Tensor, "prompts length"], token: int
) -> tuple[Int[Tensor, "runs 2"], Int[Tensor, " runs"]]:
    """Return row and first column of each run of placeholders, row by row, and its length."""
    change = torch.nn.functional.pad(input_ids == token, (1, 1)).int().diff(dim=1)
    starts, ends = (change == 1).nonzero(), (change == -1).nonzero()  # row-major, so they pair up
    return starts, ends[:, 1] - starts[:, 1]


def find_placeholders(
    input_ids: Int[Tensor, "prompts length"],
    token: int,
    runs: Sequence[Sequence[int]],
    kind: str = "image",
    each: int | None = None,
) -> list[Int[Tensor, " _slots"]]:
    """Locate the placeholders of each run, counted through the batch (``row * length + column``).

    ``runs`` are those of each picture or video, in the order in which the prompts show them. Side
    by side in a prompt there may be several runs, but whole ones. The check of the stock model
    compares totals only: one placeholder short here and one too many there pass it, and every
    later visual token is shown in the wrong place. A broken run or total is a ``ValueError``.
    ``each`` is the length of all runs where there is but one.
    """
    length = input_ids.shape[1]
    starts, lengths = runs_in(input_ids, token)
    shown = list(zip(starts[:, 0].tolist(), lengths.tolist(), strict=True))
    _check_runs(shown, len(input_ids), runs, kind, each)
    slots = (starts[:, 0] * length + starts[:, 1]).repeat_interleave(lengths)
    before = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    within = torch.arange(len(slots), device=slots.device) - before
    return list((slots + within).split([size for own in runs for size in own]))


def _check_runs(
    shown: Sequence[tuple[int, int]],
    prompts: int,
    runs: Sequence[Sequence[int]],
    kind: str,
    each: int | None,
) -> None:
    """Refuse runs of placeholders, by row and length, that are not made of whole expected ones."""
    sizes = [size for own in runs for size in own]
    owner = [number for number, own in enumerate(runs) for _ in own]
    if each is None and len(set(sizes)) == 1 and len(sizes) == len(runs):
        each = sizes[0]
    counts = [0] * prompts  # pictures whose last slot a row has shown
    rows: dict[int, int] = {}
    taken = 0
    for row, run in shown:
        rest, begin, first = run, counts[row], taken
        while rest > 0 and (each or taken < len(sizes)):
            rest -= each or sizes[taken]
            last = each or taken + 1 == len(sizes) or owner[taken + 1] != owner[taken]
            if not each and rows.setdefault(owner[taken], row) != row:
                raise ValueError(
                    f"the placeholders of {kind} {owner[taken]} lie in prompts "
                    f"{rows[owner[taken]]} and {row}: {_EXPAND}"
                )
            counts[row] += bool(last)
            taken += 1
        if rest < 0:
            made = _makes(kind, each, sizes, first)
            raise ValueError(
                f"prompt {row} has a run of {run} {kind} placeholders beginning with its "
                f"{_KIND[kind]} {begin} (both counted from 0), but {made} visual tokens. {_EXPAND}"
            )
        counts[row] += rest > 0  # more than were handed in
        taken += rest > 0
    if taken != len(sizes):
        arguments = "pixel_values" if kind == "image" else "pixel_values_videos"
        raise ValueError(
            f"{len(runs)} {_KIND[kind]}s were handed in, but the prompts show {sum(counts)} "
            f"(per prompt: {counts}). Pass as many rows of {arguments} as the prompts "
            f"show {_KIND[kind]}s, in the order of the prompts"
        )


def _makes(kind: str, each: int | None, sizes: Sequence[int], first: int) -> str:
    if each:
        return f"each {_KIND[kind]} makes {each}"
    return f"the {_KIND[kind]}s from there on make {', '.join(map(str, sizes[first : first + 3]))}"


def shorten(
    input_ids: Int[Tensor, "prompts length"],
    attention_mask: Int[Tensor, "prompts length"],
    placeholders: Sequence[Int[Tensor, " _slots"]],
    positions: Sequence[Int[Tensor, " _"]],
    side: Literal["left", "right"] = "left",
) -> ShortPrompts:
    """Cut each run of placeholders down to the visual tokens that are sent, and pad again.

    Old padding is dropped, and the rows are aligned anew. Where no run loses a token and the
    padding already stands on the wanted side, the layout stays as it was, column for column. New
    padding repeats each row's first token, which tells penalties on repeated tokens nothing new; it
    goes to ``side``, for generation ``"left"``. ``positions`` holds for each run the slots in it
    that its visual tokens stand for, in the order sent: none at all, or even more than it has.
    """
    edge = attention_mask[:, -1 if side == "left" else 0]
    lost = any(len(kept) != len(own) for own, kept in zip(placeholders, positions, strict=True))
    unchanged = not lost and bool(edge.all())
    repeats = torch.ones_like(input_ids) if unchanged else (attention_mask != 0).long()
    repeats = repeats.flatten()
    first = repeats.new_tensor([], dtype=torch.long)
    if len(placeholders):
        first = torch.stack([own[0] for own in placeholders])
        repeats[torch.cat(list(placeholders))] = 0
    counts = torch.tensor([len(kept) for kept in positions], device=repeats.device)
    repeats[first] = counts.to(repeats)

    # All of a run's visual tokens unfold at its first placeholder, then take their own column.
    slots = torch.arange(len(repeats), device=repeats.device).repeat_interleave(repeats)
    anchors = torch.zeros_like(repeats, dtype=torch.bool)
    anchors[first] = True
    visual = anchors[slots]
    if len(positions):
        standing = [own[kept] for own, kept in zip(placeholders, positions, strict=True)]
        slots = slots.masked_scatter(visual, torch.cat(standing))

    source, mark = _align(slots, visual, input_ids.shape, side)
    ids = torch.where(source < 0, input_ids[:, :1], _pick(input_ids, source, 0))
    return ShortPrompts(source, mark, ids, _pick(attention_mask, source, 0))


def _align(
    slots: Int[Tensor, " tokens"], visual: Bool[Tensor, " tokens"], shape: torch.Size, side: str
) -> tuple[Int[Tensor, "prompts short"], Bool[Tensor, "prompts short"]]:
    """Lay a flat list of kept slots out in rows again, padded on one side with -1."""
    prompts, length = shape
    rows = slots // length
    lengths = torch.bincount(rows, minlength=prompts)
    longest = int(lengths.max())
    columns = torch.arange(len(slots), device=slots.device) - (lengths.cumsum(0) - lengths)[rows]
    if side == "left":
        columns = columns + (longest - lengths)[rows]
    source = slots.new_full((prompts, longest), -1)
    source[rows, columns] = slots % length
    mark = visual.new_zeros(prompts, longest)
    mark[rows, columns] = visual
    return source, mark


def _pick(
    values: Shaped[Tensor, "*rows prompts length"], source: Int[Tensor, "prompts short"], fill: int
) -> Shaped[Tensor, "*rows prompts short"]:
    source = source.expand(*values.shape[:-2], -1, -1)
    return values.gather(-1, source.clamp(min=0)).masked_fill(source < 0, fill)
