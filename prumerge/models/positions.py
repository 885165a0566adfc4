"""Position ids of shortened prompts: where the language model is told that tokens stand.

    compact    0, 1, 2, ...: gaps that dropped tokens leave are closed, as in the release
    original   every token keeps the id it had in the full prompt
    stretched  words keep theirs; a picture's tokens, in the order in which they are sent, are
               spread evenly from the first to the last id the picture had

Under M-RoPE (Qwen-VL) a token has three ids, of frame, row and column. They are those of the full
prompts, and a token takes the three of the slot it stands for, or, stretched, of the slot it is
spread to. Compact ids would be the same for all three, which no such model has seen of a picture.

Source: D14 for compact ids. Grounding suffers from them and from permuted tokens (GAP, arXiv
2506.21873, restores original ids); stretching them was studied after that.
"""

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from prumerge.models.prompts import ShortPrompts


def stretch(count: int, patches: int) -> Int64[Tensor, " count"]:
    """Spread tokens evenly over the patches of a picture; a single one stands in the middle.

    Token j of ``count`` stands at patch ``j * (patches - 1) / (count - 1)``, rounded.

    >>> stretch(3, 16).tolist(), stretch(1, 16).tolist()
    ([0, 8, 15], [7])
    """
    if count == 1:
        return torch.tensor([(patches - 1) // 2])
    gaps = max(count - 1, 1)
    return (2 * torch.arange(count) * (patches - 1) + gaps) // (2 * gaps)


def position_ids(
    layout: ShortPrompts,
    given: Int[Tensor, "*three rows length"] | None,
    mask: Int[Tensor, "prompts length"],
    positions: str,
) -> tuple[Int[Tensor, "*three prompts short"] | None, Int[Tensor, "*three prompts 1"] | None]:
    """Make the position ids of shortened prompts, and what has to be added to ids after them.

    Unless ``positions`` is ``"compact"``, slots take the ids of the columns ``layout`` points at.
    None stands for the model's own ids, and for nothing to add: then the prompt's last token stands
    where the full prompt ended.
    """
    if positions == "compact" and given is None:
        return None, None
    real = mask != 0
    # Generation counts real tokens only; rotary positions are relative, so a forward pass may too.
    full = mask.cumsum(1) - 1
    if given is not None:
        full = given.to(mask).expand(*given.shape[:-2], *mask.shape)
    if positions == "compact":
        first = full.masked_fill(~real, full.max() + 1).amin(dim=1, keepdim=True)
        return first + (layout.attention_mask.cumsum(1) - 1).clamp(min=0), None
    short = layout.pick(full, 0).clamp(min=0)
    move = full.gather(-1, _last(real, full)) - short[..., -1:]
    return short, move if bool(move.any()) else None


def _last(
    real: Bool[Tensor, "prompts length"], like: Int[Tensor, "*three prompts length"]
) -> Int64[Tensor, "*three prompts 1"]:
    """The column of the last token of each prompt."""
    return real.cumsum(1).argmax(1, keepdim=True).expand(*like.shape[:-1], 1)


def ids_behind(
    full: Int[Tensor, "3 prompts length"], mask: Int[Tensor, "prompts length"]
) -> Int[Tensor, "prompts 2"]:
    """The id of the next word under M-RoPE, in a longer prompt and in a step by hand.

    Words behind a picture go on from its rows and columns; ``rope_deltas``, by which stock models
    take a step, go on from the largest id, which a frame of a long video may have.
    """
    real = mask != 0
    goes_on = full.gather(-1, _last(real, full))[1:].amax(0)
    largest = full.masked_fill(~real, -1).amax((0, -1))[:, None]
    return torch.cat([goes_on, largest], dim=1) + 1


def is_packed(given: Int[Tensor, "rows length"] | None) -> bool:
    """Whether rows pack several documents: as in ``transformers``, any step but 1 begins one."""
    return given is not None and bool((given.diff(dim=1) != 1).any())


def packed_ids(
    layout: ShortPrompts, given: Int[Tensor, "rows length"]
) -> Int[Tensor, "prompts short"]:
    """Number the slots of each packed document from 0; padding is 0, each a document of its own."""
    first = given[:, :1] - 1
    documents = (given.diff(dim=1, prepend=first) != 1).cumsum(1)
    documents = documents.expand(len(layout.source), -1).to(layout.source.device)
    own = layout.pick(documents, -1)
    begins = (own.diff(dim=1, prepend=own[:, :1] - 1) != 0) | (layout.source < 0)
    slots = torch.arange(own.shape[1], device=own.device).expand_as(own)
    return slots - slots.masked_fill(~begins, 0).cummax(dim=1).values
