"""KV caches of shortened prompts: what one has read, so that a conversation can go on from it.

The record hangs on the cache itself, so that copies of a cache have it too, and no call needs to
know of another.

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache

from prumerge.models.prompts import ShortPrompts, is_placeholder

NAMES = ("past_key_values", "cache")  # transformers renamed it in 5.24
RECORD = "_read_shortened"


@dataclass(frozen=True, eq=False)
class Read:
    """What a cache has read: ids of the full conversation, and each slot's column (-1: padding).

    ``behind`` are the position ids of the next token under M-RoPE, as
    :func:`prumerge.models.positions.ids_behind` tells them; None for any other model.
    """

    input_ids: Int[Tensor, "rows columns"]
    source: Int[Tensor, "rows slots"]
    behind: Int[Tensor, "rows 2"] | None = None

    @property
    def columns(self) -> int:
        """Columns of the full conversation that have been read."""
        return self.input_ids.shape[1]

    @property
    def slots(self) -> int:
        """Slots they fill in the cache."""
        return self.source.shape[1]

    def before(
        self, new: ShortPrompts, mask: Int[Tensor, "rows length"], tokens: Sequence[int]
    ) -> ShortPrompts:
        """Lay what was read and a new turn end to end; ``mask`` is the whole conversation's.

        ``tokens`` are the ids of placeholders.
        """
        old = self.source.to(mask.device)
        ids = self.input_ids.to(mask.device).gather(1, old.clamp(min=0))
        real = mask.gather(1, old.clamp(min=0)).masked_fill(old < 0, 0)
        source = torch.where(new.source < 0, -1, new.source + self.columns)
        return ShortPrompts(
            source=torch.cat([old, source], dim=1),
            visual=torch.cat([is_placeholder(ids, tokens) & (old >= 0), new.visual], dim=1),
            input_ids=torch.cat([ids, new.input_ids], dim=1),
            attention_mask=torch.cat([real, new.attention_mask], dim=1),
        )


def given(arguments: dict[str, Any], names: Sequence[str]) -> Any:
    """What a call hands in under any of several names; None for nothing."""
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def cache_in(arguments: dict[str, Any]) -> Cache | None:
    """The KV cache among the arguments of a call, whatever its name in this ``transformers``."""
    return given(arguments, NAMES)


def slots_of(cache: Cache | None) -> int:
    """How many slots of a KV cache are filled; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


def remember(
    cache: Cache | None,
    sequences: Int[Tensor, "rows generated"],
    source: Int[Tensor, "prompts slots"],
    columns: int,
    behind: Int[Tensor, "prompts 2"] | None = None,
) -> None:
    """Write down on a cache, if there is one, what it has read after a call.

    ``sequences`` hold the full conversation, new tokens included, several rows per prompt side by
    side; ``source``, ``columns`` and ``behind`` belong to the prompts before them, as in
    ``ShortPrompts`` and :class:`Read`.
    """
    new = slots_of(cache) - source.shape[1]
    if cache is None or new < 0:
        return
    answer = torch.arange(columns, columns + new, device=source.device).expand(len(source), -1)
    source = torch.cat([source, answer], dim=1)
    copies = len(sequences) // len(source)
    source = source.repeat_interleave(copies, dim=0)
    if behind is not None:
        behind = behind.repeat_interleave(copies, dim=0) + new
    setattr(cache, RECORD, Read(sequences[:, : columns + new], source, behind))


def step_ids(arguments: dict[str, Any]) -> dict[str, Any]:
    """Position ids for a step by hand from a cache that was filled under M-RoPE; else nothing.

    A stock model counts them from ``rope_deltas`` on the model, which belong to its last call, of
    any thread; here they stand on the cache.
    """
    cache, new = cache_in(arguments), given(arguments, ("input_ids", "inputs_embeds"))
    behind = getattr(getattr(cache, RECORD, None), "behind", None)
    if behind is None or new is None or arguments.get("position_ids") is not None:
        return {}
    since = slots_of(cache) - getattr(cache, RECORD).slots  # steps taken by hand
    first = behind[:, 1:].repeat_interleave(len(new) // len(behind), dim=0) + since
    ids = first.to(new.device) + torch.arange(new.shape[1], device=new.device)
    return {"position_ids": ids.expand(3, -1, -1)}


def check_mask(arguments: dict[str, Any]) -> None:
    """Refuse to go on by hand from a cache of shortened prompts with a mask of the full ones."""
    cache, mask = cache_in(arguments), arguments.get("attention_mask")
    new = arguments.get("input_ids")
    if not hasattr(cache, RECORD) or mask is None or mask.ndim != 2 or new is None:
        return
    if mask.shape[1] != (wanted := slots_of(cache) + new.shape[1]):
        raise ValueError(
            f"attention_mask covers {mask.shape[1]} tokens, but the shortened prompts in "
            f"past_key_values and the new tokens are {wanted}: go on from the attachment's "
            "prompts.attention_mask, or let generate go on"
        )


def forget(cache: Cache | None) -> None:
    """Take the record off a cache whose rows no longer belong to the sequences, as after beams."""
    if hasattr(cache, RECORD):
        delattr(cache, RECORD)


def read_by(arguments: dict[str, Any], tokens: Sequence[int], shows: bool) -> Read | None:
    """What the cache of a call has read, checked against the conversation handed in.

    ``tokens`` are the ids of placeholders; ``shows`` says whether pictures or videos are handed in.

    As with the stock model, ``input_ids`` are the whole conversation, or only the new tokens while
    ``attention_mask`` covers the whole. A cache without a record, made from text alone, has read
    every column. None where there is no cache or an empty one, or nothing but words and no record.
    A cache that was cropped, continued by hand, made by someone else or has read another
    conversation is refused.
    """
    cache = cache_in(arguments)
    slots, read = slots_of(cache), getattr(cache, RECORD, None)
    ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
    if not slots or ids is None:
        return None
    whole = ids.shape[1] if mask is None else mask.shape[1]
    if read is None:
        words = not bool(is_placeholder(ids, tokens).any())
        if not shows and (words or whole > ids.shape[1]):
            return None
        before = ids[:, :slots]
        if whole > ids.shape[1] or bool(is_placeholder(before, tokens).any()):
            raise ValueError(
                f"past_key_values holds {slots} tokens and no record of how the pictures among "
                "them were shortened: begin without a cache, or go on from one that generate "
                "filled, with the whole conversation in input_ids"
            )
        read = Read(before, torch.arange(slots, device=ids.device).expand_as(before))
    if slots != read.slots:
        raise ValueError(
            f"past_key_values holds {slots} tokens, but generate left {read.slots} in it: one that "
            "was cropped or continued by hand no longer lines up with full prompts. Begin without"
        )
    _check_conversation(ids, mask, read, whole)
    return read


def _check_conversation(ids: Tensor, mask: Tensor | None, read: Read, whole: int) -> None:
    if len(ids) != len(read.input_ids) or whole <= read.columns:
        raise ValueError(
            f"past_key_values has read {list(read.input_ids.shape)} tokens, input_ids are "
            f"{list(ids.shape)}: pass the sequences that generate returned and the new turn behind "
            "them, or the new turn alone with an attention_mask of the whole conversation"
        )
    if ids.shape[1] < whole:
        if whole != read.columns + ids.shape[1]:
            raise ValueError(
                f"attention_mask covers {whole} tokens, but past_key_values has read "
                f"{read.columns} and input_ids bring {ids.shape[1]} more: they begin with the "
                "last token that generate returned, which it has not read"
            )
        return
    before = ids[:, : read.columns]
    differ = before != read.input_ids.to(ids.device)
    if mask is not None:
        differ &= mask[:, : read.columns].to(ids.device) != 0
    if bool(differ.any()):
        row, column = differ.nonzero()[0].tolist()
        raise ValueError(
            f"past_key_values has read another conversation: input_ids differ from it in row {row} "
            f"at column {column}. Pass its own ids, or begin without a cache"
        )
