"""Model inputs that match the visual tokens really sent: checked, shortened, embedded."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from prumerge.encoder import Encoded, device_of
from prumerge.models.caches import Read, cache_in, slots_of
from prumerge.models.positions import is_packed, packed_ids, position_ids, stretch
from prumerge.models.prompts import ShortPrompts, find_placeholders, shorten
from prumerge.reduction import Reduction
from prumerge.tower import open_tower

IGNORED_LABEL = -100
PICTURE_ARGUMENTS = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
PACKED_ARGUMENTS = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
ONE_PER_COLUMN = {"labels": IGNORED_LABEL, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True)
class ShortInputs:
    """A call on full prompts, rewritten for shortened ones.

    Attributes:
        arguments: For the stock function, ``input_ids`` included.
        prompts: Where each slot came from, those in the cache included.
        visual_tokens: All pictures' visual tokens after the projector, end to end.
        embeddings: The shortened prompts behind the cache, embedded, visual tokens in place.
        continuation: What to add to position ids after the prompt; None adds nothing.
    """

    arguments: dict[str, Any]
    prompts: ShortPrompts
    visual_tokens: Float[Tensor, "tokens width"]
    embeddings: Float[Tensor, "prompts short width"]
    continuation: Int[Tensor, "prompts 1"] | None


def shorten_inputs(
    model: LlavaForConditionalGeneration,
    arguments: dict[str, Any],
    reduction: Reduction | None,
    patches: int,
    positions: Literal["compact", "original", "stretched"] = "compact",
    side: Literal["left", "right"] = "left",
    read: Read | None = None,
) -> ShortInputs:
    """Rewrite a call, labels included, so that pictures have one slot per visual token they send.

    Args:
        arguments: Keyword arguments of the call on full prompts, checked by :func:`check_call`.
        reduction: With its graph where gradients are wanted; None for a turn without pictures.
        patches: Visual tokens the encoder makes of one picture.
        positions: See :mod:`prumerge.models.positions`.
        side: Where padding goes.
        read: What the call's cache has read; the pictures are those shown behind it.

    Raises:
        ValueError: If placeholders and pictures do not match, or packed documents would mix.
    """
    arguments = {name: v for name, v in arguments.items() if name not in PICTURE_ARGUMENTS}
    full_ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    given, masked = arguments.pop("position_ids", None), mask is not None
    mask = torch.ones_like(full_ids) if mask is None else mask.to(full_ids)
    token = model.config.image_token_id
    start = 0 if read is None else read.columns
    new = full_ids[:, full_ids.shape[1] - (mask.shape[1] - start) :]
    tokens, places = ([], []) if reduction is None else (reduction.tokens, reduction.positions)
    placeholders = find_placeholders(new, token, len(tokens), patches)

    def lay_out(standing: list[Tensor]) -> ShortPrompts:
        standing = [place.to(new.device) for place in standing]
        short = shorten(new, mask[:, start:], placeholders, standing, side)
        return short if read is None else read.before(short, mask, token)

    prompts = layout = lay_out(places)
    for name, fill in ONE_PER_COLUMN.items():
        if arguments.get(name) is not None:
            arguments[name] = prompts.pick(arguments[name].to(full_ids.device), fill)
    if arguments.get("labels") is not None:
        # Nothing predicts a row's first column, and padding put in front of it must not either.
        arguments["labels"] = arguments["labels"].masked_fill(prompts.source == 0, IGNORED_LABEL)
    arguments |= {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    if not masked and is_packed(given):
        _check_packed(model, arguments, positions)
        # Ids that begin again keep documents apart, and padding too, where no mask is given.
        arguments["attention_mask"] = None
        ids, continuation = packed_ids(prompts, given), None
    else:
        if positions == "stretched":
            layout = lay_out([stretch(len(place), patches) for place in places])
        ids, continuation = position_ids(layout, given, mask, positions)
    if ids is not None:
        arguments["position_ids"] = ids
    embedded = _embed(model, prompts, tokens, 0 if read is None else read.slots)
    return ShortInputs(arguments, prompts, *embedded, continuation)


def _embed(
    model: nn.Module, prompts: ShortPrompts, tokens: list[Tensor], start: int
) -> tuple[Tensor, Tensor]:
    """Project the visual tokens, and embed the prompts from slot ``start`` on with them."""
    words = model.get_input_embeddings()
    embeddings = words(prompts.input_ids[:, start:].to(device_of(words)))
    if not tokens:
        return embeddings.new_zeros(0, embeddings.shape[2]), embeddings
    visual_tokens = model.model.multi_modal_projector(torch.cat(tokens))
    visual = prompts.visual[:, start:].to(embeddings.device)[..., None]
    sent = visual_tokens.to(embeddings.device, embeddings.dtype)
    return visual_tokens, embeddings.masked_scatter(visual, sent)


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


def feature_layer(model: LlavaForConditionalGeneration, arguments: dict[str, Any]) -> int:
    """The encoder layer whose features a call, or else the config, wants: -2 for LLaVA-1.5.

    Several layers are refused, and so is what would send the class token as if it were a patch, or
    drop a patch in place of it.
    """
    layer, strategy = (
        getattr(model.config, name) if arguments.get(name) is None else arguments[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    if isinstance(layer, list | tuple) and len(layer) == 1:
        (layer,) = layer  # the stock model concatenates one layer
    if not isinstance(layer, int):
        raise ValueError(f"vision_feature_layer must be one layer such as -2, got {layer}")
    tower = open_tower(model.model.vision_tower)
    has_class = tower.has_class
    if tower.first > has_class:
        raise ValueError(
            f"{type(tower.module).__name__} has {tower.first - has_class} register or distillation "
            "tokens, which the stock model sends as if they were patches: reduce with encode and "
            "reduce_tokens instead"
        )
    if strategy != (wanted := "default" if has_class else "full"):
        raise ValueError(
            f"vision_feature_select_strategy must be {wanted!r} for an encoder "
            f"{'with' if has_class else 'without'} class token, got {strategy!r}: reduction "
            "chooses among the patches, all of them and nothing else"
        )
    return layer


def check_call(arguments: dict[str, Any]) -> None:
    """Refuse what cannot be shortened, before anything is computed."""
    ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
    keep = arguments.get("logits_to_keep", 0)
    if ids is None or arguments.get("inputs_embeds") is not None:
        raise ValueError("pictures need input_ids: placeholders cannot be found in inputs_embeds")
    check_types(arguments)
    behind = slots_of(cache_in(arguments)) > 0
    if mask is not None and mask.shape != ids.shape and not (behind and mask.ndim == 2):
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, "
            f"got {tuple(mask.shape)}: only padding masks can be shortened"
        )
    if (arguments.get("mm_encoder_outputs") or {}).get("image") is not None:
        raise ValueError("mm_encoder_outputs is not reduced; pass pixel_values, or detach first")
    if arguments.get("image_sizes") is not None:
        raise ValueError("image_sizes is not supported: all pictures must have the encoder's size")
    if isinstance(keep, Tensor):
        raise ValueError("logits_to_keep must be a number: columns move when prompts are shortened")
    if flat := [name for name in PACKED_ARGUMENTS if arguments.get(name) is not None]:
        raise ValueError(
            f"{flat[0]} counts columns of full prompts: leave it out, position_ids that begin "
            "again keep packed documents apart"
        )


def check_types(arguments: dict[str, Any]) -> None:
    """Refuse ids, masks and pictures that are no tensors, and pictures that are no pixel values."""
    for name in ("input_ids", "attention_mask", "position_ids", "pixel_values"):
        value = arguments.get(name)
        fine = (Tensor, Encoded) if name == "pixel_values" else Tensor
        if value is not None and not isinstance(value, fine):
            raise ValueError(
                f"{name} must be a tensor, got {type(value).__name__}: call the processor with "
                'return_tensors="pt"'
            )
    pictures = arguments.get("pixel_values")
    found = pictures.features if isinstance(pictures, Encoded) else pictures
    if found is not None and not found.is_floating_point():
        what = "features" if isinstance(pictures, Encoded) else "pixel_values"
        raise ValueError(
            f"{what} must be floating point, got {found.dtype}: pictures go through the processor "
            "saved with the model, which scales and normalises them"
        )


def check_cache(cache: Any) -> None:
    """Refuse a forward pass with pictures behind a KV cache that holds tokens."""
    if slots_of(cache):
        raise ValueError(
            f"past_key_values already holds {slots_of(cache)} tokens, and forward shortens whole "
            "prompts only: let generate go on from it, or pass an empty cache"
        )
