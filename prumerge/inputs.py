"""Model inputs that match the visual tokens really sent: checked, shortened, embedded."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from prumerge.positions import position_ids, stretch
from prumerge.prompts import ShortPrompts, find_placeholders, shorten
from prumerge.reduction import Reduction

IGNORED_LABEL = -100
PICTURE_ARGUMENTS = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
ONE_PER_COLUMN = {"labels": IGNORED_LABEL, "token_type_ids": 0, "mm_token_type_ids": 0}


@dataclass(frozen=True)
class ShortInputs:
    """A call on full prompts, rewritten for shortened ones.

    Attributes:
        arguments: Keyword arguments for the stock function, ``input_ids`` included.
        prompts: Where each slot came from.
        visual_tokens: All pictures' visual tokens after the projector, end to end.
        embeddings: The shortened prompts, embedded, visual tokens in place.
        continuation: What to add to position ids after the prompt; see
            :class:`prumerge.generation.PromptFeeder`.
    """

    arguments: dict[str, Any]
    prompts: ShortPrompts
    visual_tokens: Float[Tensor, "tokens width"]
    embeddings: Float[Tensor, "prompts short width"]
    continuation: Int[Tensor, "prompts 1"] | None


def shorten_inputs(
    model: LlavaForConditionalGeneration,
    arguments: dict[str, Any],
    reduction: Reduction,
    patches: int,
    positions: Literal["compact", "original", "stretched"] = "compact",
    side: Literal["left", "right"] = "left",
) -> ShortInputs:
    """Rewrite a call so that each picture has one slot per visual token it sends.

    Args:
        model: Supplies token embeddings, projector and the placeholder's id.
        arguments: Keyword arguments of the call on full prompts, checked by :func:`check_call`.
        reduction: The visual tokens to send, with their graph where gradients are wanted.
        patches: Visual tokens the encoder makes of one picture.
        positions: Position ids of the shortened prompts; see :mod:`prumerge.positions`.
        side: Where padding goes.

    Returns:
        The rewritten call. Labels and token types are shortened like the ids.

    Raises:
        ValueError: If placeholders and pictures do not match.
    """
    arguments = {name: v for name, v in arguments.items() if name not in PICTURE_ARGUMENTS}
    full_ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    mask = torch.ones_like(full_ids) if mask is None else mask.to(full_ids)
    token = model.config.image_token_id
    placeholders = find_placeholders(full_ids, token, len(reduction.tokens), patches)
    standing = [place.to(full_ids.device) for place in reduction.positions]
    prompts = shorten(full_ids, mask, placeholders, standing, side)

    for name, fill in ONE_PER_COLUMN.items():
        if arguments.get(name) is not None:
            arguments[name] = prompts.pick(arguments[name].to(full_ids.device), fill)
    if arguments.get("labels") is not None:
        # Nothing predicts a row's first column, and padding put in front of it must not either.
        arguments["labels"] = arguments["labels"].masked_fill(prompts.source == 0, IGNORED_LABEL)
    given = arguments.pop("position_ids", None)
    layout = prompts
    if positions == "stretched":
        spread = [stretch(len(place), patches).to(full_ids.device) for place in standing]
        layout = shorten(full_ids, mask, placeholders, spread, side)
    ids, continuation = position_ids(layout, given, mask, positions)
    if ids is not None:
        arguments["position_ids"] = ids
    arguments |= {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask}
    visual_tokens = model.model.multi_modal_projector(torch.cat(reduction.tokens))
    embeddings = _embed(model, prompts, visual_tokens)
    return ShortInputs(arguments, prompts, visual_tokens, embeddings, continuation)


def _embed(model: nn.Module, prompts: ShortPrompts, visual_tokens: Tensor) -> Tensor:
    words = model.get_input_embeddings()
    embeddings = words(prompts.input_ids.to(words.weight.device))
    visual = prompts.visual.to(embeddings.device)[..., None]
    return embeddings.masked_scatter(visual, visual_tokens.to(embeddings.device, embeddings.dtype))


def feature_layer(model: LlavaForConditionalGeneration, arguments: dict[str, Any]) -> int:
    """The encoder layer whose features a call wants, from its arguments or the model's config.

    Args:
        model: The model called.
        arguments: Keyword arguments of the call.

    Returns:
        Index into the encoder's hidden states, -2 for LLaVA-1.5.

    Raises:
        ValueError: If several layers are concatenated, if the class token would be sent as if it
            were a patch, or if a patch would be dropped in place of it.
    """
    layer, strategy = (
        getattr(model.config, name) if arguments.get(name) is None else arguments[name]
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )
    if not isinstance(layer, int):
        raise ValueError(f"vision_feature_layer must be one layer such as -2, got {layer}")
    weights = model.model.vision_tower.named_parameters()
    has_class = any(name.endswith("class_embedding") for name, _ in weights)
    if strategy != (wanted := "default" if has_class else "full"):
        raise ValueError(
            f"vision_feature_select_strategy must be {wanted!r} for an encoder "
            f"{'with' if has_class else 'without'} class token, got {strategy!r}: reduction "
            "chooses among the patches, all of them and nothing else"
        )
    return layer


def check_call(arguments: dict[str, Any]) -> None:
    """Refuse what cannot be shortened, before anything is computed.

    Args:
        arguments: Keyword arguments of a call that hands in pictures.

    Raises:
        ValueError: With what to pass instead.
    """
    ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
    cache, keep = arguments.get("past_key_values"), arguments.get("logits_to_keep", 0)
    if ids is None or arguments.get("inputs_embeds") is not None:
        raise ValueError("pictures need input_ids: placeholders cannot be found in inputs_embeds")
    if mask is not None and mask.shape != ids.shape:
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
    check_cache(cache)


def check_cache(cache: Any) -> None:
    """Refuse to go on from a KV cache with a prompt that shows pictures.

    Args:
        cache: A cache or None.

    Raises:
        ValueError: If the cache holds tokens already.
    """
    if cache is not None and int(cache.get_seq_length()):
        raise ValueError(
            f"past_key_values already holds {int(cache.get_seq_length())} tokens of shortened "
            "prompts, which do not line up with full prompts: pass an empty cache, or none"
        )
