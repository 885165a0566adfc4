"""Model inputs that match the visual tokens really sent: checked, shortened, embedded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prumerge.encoder import Encoded, device_of
from prumerge.models.caches import Read, cache_in, slots_of
from prumerge.models.positions import ids_behind, is_packed, packed_ids, position_ids, stretch
from prumerge.models.prompts import ShortPrompts, find_placeholders, shorten
from prumerge.models.slots import Packed
from prumerge.reduction import Reduction

IGNORED_LABEL = -100
PACKED_ARGUMENTS = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
ONE_PER_COLUMN = {"labels": IGNORED_LABEL, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True)
class ShortInputs:
    """A call on full prompts, rewritten for shortened ones.

    Attributes:
        arguments: For the stock function, ``input_ids`` included.
        prompts: Where each slot came from, those in the cache included.
        embeddings: The shortened prompts behind the cache, embedded, visual tokens in place; with
            what stands beside these.
        continuation: What to add to position ids after the prompt; None adds nothing.
        behind: Position ids of the next word under M-RoPE.
    """

    arguments: dict[str, Any]
    prompts: ShortPrompts
    embeddings: Float[Tensor, "prompts short width"]
    continuation: Int[Tensor, "*three prompts 1"] | None
    behind: Int[Tensor, "prompts 2"] | None = None


@dataclass(frozen=True, eq=False)
class Sent:
    """What pictures, or videos, send in place of their placeholders.

    Args:
        token: The id of the placeholders.
        runs: Placeholders of each picture or video, side by side; several where text cuts them.
        slots: Which slot each visual token stands for, in the order sent; for each picture.
        tokens: The visual tokens, end to end, in the language model's width, with what its first
            layers add beside; None for none.
        kind: What they are called.
        each: Placeholders of every run, where a family has but one number.
    """

    token: int
    runs: Sequence[Sequence[int]] = ()
    slots: Sequence[Int[Tensor, " _sent"]] = ()
    tokens: Float[Tensor, "tokens width"] | None = None
    kind: Literal["image", "video"] = "image"
    each: int | None = None


def pictures_sent(model: nn.Module, reduction: Reduction, patches: int) -> Sent:
    """What a LLaVA's pictures, of ``patches`` patches each, send after their reduction."""
    tokens = model.model.multi_modal_projector(torch.cat(reduction.tokens))
    runs = [(patches,)] * len(reduction.tokens)
    return Sent(model.config.image_token_id, runs, reduction.positions, tokens, each=patches)


def shorten_inputs(
    model: nn.Module,
    arguments: dict[str, Any],
    sent: Sequence[Sent],
    positions: Literal["compact", "original", "stretched"] = "compact",
    side: Literal["left", "right"] = "left",
    read: Read | None = None,
    places: Callable[[], Int[Tensor, "3 prompts length"]] | None = None,
) -> ShortInputs:
    """Rewrite a call, labels included, so that pictures have one slot per visual token they send.

    Args:
        arguments: Keyword arguments of the call on full prompts, checked by :func:`check_call`,
            without those that only pictures and videos need.
        sent: What stands in place of each kind of placeholder; with its graph where gradients are
            wanted.
        positions: See :mod:`prumerge.models.positions`.
        side: Where padding goes.
        read: What the call's cache has read; the pictures are those shown behind it.
        places: Works out position ids under M-RoPE, unless the call gives some.

    Raises:
        ValueError: If placeholders and pictures do not match, or packed documents would mix.
    """
    arguments = dict(arguments)
    full_ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    given, masked = arguments.pop("position_ids", None), mask is not None
    mask = torch.ones_like(full_ids) if mask is None else mask.to(full_ids)
    start = 0 if read is None else read.columns
    new = full_ids[:, full_ids.shape[1] - (mask.shape[1] - start) :]
    placeholders, kept, tokens = _in_prompts(new, sent)
    if given is None and places is not None:
        given = places()
    rows = given is not None and given.ndim > 2
    if rows and len(given) != 3:
        raise ValueError(
            f"position_ids must be [prompts, length] or [3, prompts, length], got "
            f"{list(given.shape)}: a fourth row packs documents, which are not told apart here"
        )

    def lay_out(standing: list[Tensor]) -> ShortPrompts:
        standing = [place.to(new.device) for place in standing]
        short = shorten(new, mask[:, start:], placeholders, standing, side)
        return short if read is None else read.before(short, mask, [own.token for own in sent])

    prompts = layout = lay_out(kept)
    for name, fill in ONE_PER_COLUMN.items():
        if arguments.get(name) is not None:
            arguments[name] = prompts.pick(arguments[name].to(full_ids.device), fill)
    if arguments.get("labels") is not None:
        # Nothing predicts a row's first column, and padding put in front of it must not either.
        arguments["labels"] = arguments["labels"].masked_fill(prompts.source == 0, IGNORED_LABEL)
    arguments |= {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    if not masked and not rows and is_packed(given):
        _check_packed(model, arguments, positions)
        # Ids that begin again keep documents apart, and padding too, where no mask is given.
        arguments["attention_mask"] = None
        ids, continuation = packed_ids(prompts, given), None
    else:
        if positions == "stretched":
            pairs = zip(kept, placeholders, strict=True)
            layout = lay_out([stretch(len(place), len(own)) for place, own in pairs])
        ids, continuation = position_ids(layout, given, mask, positions)
    if ids is not None:
        arguments["position_ids"] = ids
    embeddings = _embed(model, prompts, tokens, 0 if read is None else read.slots)
    behind = ids_behind(given, mask) if rows else None
    return ShortInputs(arguments, prompts, embeddings, continuation, behind)


def _in_prompts(
    input_ids: Int[Tensor, "prompts length"], sent: Sequence[Sent]
) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Sort what is sent, run by run, as the prompts show it.

    Each run's placeholders, the slots in it that are sent, and all visual tokens, end to end.
    """
    runs, start = [], 0
    for own in sent:
        found = iter(find_placeholders(input_ids, own.token, own.runs, own.kind, own.each))
        for lengths, slots in zip(own.runs, own.slots, strict=True):
            begin = 0
            for length in lengths:
                inside = torch.ones_like(slots, dtype=torch.bool)
                if len(lengths) > 1:
                    inside = (slots >= begin) & (slots < begin + length)
                rows = start + inside.nonzero()[:, 0]
                runs.append((next(found), slots[inside] - begin, rows))
                begin += length
            start += len(slots)
    tokens = [own.tokens for own in sent if own.tokens is not None]
    if not tokens:
        return [], [], None
    together = torch.cat(tokens) if len(tokens) > 1 else tokens[0]
    if len(runs) > len(sent[0].runs):  # several kinds, or text between
        runs.sort(key=lambda run: int(run[0][0]))
        together = together[torch.cat([rows for *_, rows in runs]).to(together.device)]
    return [found for found, *_ in runs], [slots for _, slots, _ in runs], together


def _embed(model: nn.Module, prompts: ShortPrompts, tokens: Tensor | None, start: int) -> Tensor:
    """Embed the prompts from slot ``start`` on, with the visual tokens in their places."""
    words, ids = model.get_input_embeddings(), prompts.input_ids[:, start:]
    if tokens is None:
        return words(ids.to(device_of(words)))
    visual = prompts.visual[:, start:]
    # The id of a placeholder may lie outside of the vocabulary; its embedding is replaced anyway.
    embeddings = words(ids.masked_fill(visual, 0).to(device_of(words)))
    embeddings = nn.functional.pad(embeddings, (0, tokens.shape[1] - embeddings.shape[2]))
    sent = tokens.to(embeddings.device, embeddings.dtype)
    return embeddings.masked_scatter(visual.to(embeddings.device)[..., None], sent)


def _check_packed(model: nn.Module, arguments: dict[str, Any], positions: str) -> None:
    """Refuse packed documents where the language model would not keep them apart."""
    if positions != "compact":
        raise ValueError(
            f"position_ids that begin again pack several documents in a row, and positions="
            f"{positions!r} leaves gaps that read as more documents: pass positions='compact', or "
            "one document per row with its attention_mask"
        )
    use = arguments.get("use_cache")
    if model.model.language_model.config.use_cache if use is None else use:
        raise ValueError(
            "position_ids that begin again pack several documents in a row, which see each other "
            "while use_cache is on, in the stock model too: pass use_cache=False"
        )


def check_call(arguments: dict[str, Any], pixels: Sequence[str], consumed: Sequence[str]) -> None:
    """Refuse what cannot be shortened, before anything is computed.

    ``pixels`` names the arguments that hold pictures or videos, ``consumed`` all that only these
    need.
    """
    ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
    keep = arguments.get("logits_to_keep", 0)
    if ids is None or arguments.get("inputs_embeds") is not None:
        raise ValueError("pictures need input_ids: placeholders cannot be found in inputs_embeds")
    check_types(arguments, pixels)
    behind = slots_of(cache_in(arguments)) > 0
    if mask is not None and mask.shape != ids.shape and not (behind and mask.ndim == 2):
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, "
            f"got {tuple(mask.shape)}: only padding masks can be shortened"
        )
    if any(v is not None for v in (arguments.get("mm_encoder_outputs") or {}).values()):
        raise ValueError("mm_encoder_outputs is not reduced; pass pixel_values, or detach first")
    if arguments.get("image_sizes") is not None and "image_sizes" not in consumed:
        raise ValueError("image_sizes is not supported: all pictures must have the encoder's size")
    if isinstance(keep, Tensor):
        raise ValueError("logits_to_keep must be a number: columns move when prompts are shortened")
    if flat := [name for name in PACKED_ARGUMENTS if arguments.get(name) is not None]:
        raise ValueError(
            f"{flat[0]} counts columns of full prompts: leave it out, position_ids that begin "
            "again keep packed documents apart"
        )


def check_types(arguments: dict[str, Any], pixels: Sequence[str]) -> None:
    """Refuse ids, masks and pictures that are no tensors, and pictures that are no pixel values."""
    for name in ("input_ids", "attention_mask", "position_ids", *pixels):
        value = arguments.get(name)
        fine = (Tensor, Encoded, Packed) if name in pixels else Tensor
        if value is not None and not isinstance(value, fine):
            more = ""
            if "video" in name:
                more = "; videos of unequal numbers of frames go one call each"
            raise ValueError(
                f"{name} must be a tensor, got {type(value).__name__}: call the processor with "
                f'return_tensors="pt"{more}'
            )
    for name in pixels:
        given = arguments.get(name)
        parts = given.parts if isinstance(given, Packed) else [given]
        for found in (part.features if isinstance(part, Encoded) else part for part in parts):
            if found is not None and not found.is_floating_point():
                what = name if found is given else "features"
                raise ValueError(
                    f"{what} must be floating point, got {found.dtype}: pictures go through the "
                    "processor saved with the model, which scales and normalises them"
                )


def check_cache(cache: Any) -> None:
    """Refuse a forward pass with pictures behind a KV cache that holds tokens."""
    if slots_of(cache):
        raise ValueError(
            f"past_key_values already holds {slots_of(cache)} tokens, and forward shortens whole "
            "prompts only: let generate go on from it, or pass an empty cache"
        )
