"""The forward pass of an attached model: what it is handed, and its logits and labels.

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from prumerge.models.caches import cache_in, check_mask, remember, step_ids
from prumerge.models.covers import by_name
from prumerge.models.inputs import IGNORED_LABEL, check_cache
from prumerge.models.prompts import UNSENT, ShortPrompts, is_placeholder, spread_logits

if TYPE_CHECKING:
    from prumerge.models.attachment import Attachment


@torch.compiler.disable(recursive=False)
def forward(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run the stock ``forward`` on shortened prompts; calls without pictures pass through."""
    if len(args) < 2 and not attachment.family.shows(kwargs):
        named = {"input_ids": args[0]} | kwargs if args else kwargs
        check_mask(named)
        return stock(*args, **kwargs | step_ids(named))
    arguments = by_name(stock, args, kwargs)
    if not attachment.family.shows(arguments):
        check_mask(arguments)
        return stock(**arguments | step_ids(arguments))
    check_cache(cache_in(arguments))
    mask = arguments.get("attention_mask")
    right = mask is not None and bool(mask[:, 0].all()) and not bool(mask[:, -1].all())
    short, sent = attachment.shorten(model, arguments, "right" if right else "left")
    fed = attachment.family.feed(
        model, short.prompts.input_ids, short.embeddings, short.prompts.visual
    )
    outputs = stock(**short.arguments | fed)
    if attachment.full_logits:
        placeholder = is_placeholder(arguments["input_ids"], [own.token for own in sent])
        outputs = _with_full_logits(outputs, short.prompts, arguments, placeholder)
    if isinstance(outputs, tuple):
        return outputs
    for own in sent:
        if own.tokens is None:
            continue
        tokens = own.tokens[:, : model.config.get_text_config().hidden_size]
        if hasattr(outputs, f"{own.kind}_outputs"):  # from transformers 5.24 on
            each = list(tokens.split([len(slots) for slots in own.slots]))
            shown = BaseModelOutputWithPooling(pooler_output=each)
            setattr(outputs, f"{own.kind}_outputs", shown)
        elif hasattr(outputs, f"{own.kind}_hidden_states"):
            setattr(outputs, f"{own.kind}_hidden_states", tokens)
    full = short.behind is None and not bool(short.prompts.attention_mask.all())
    if not full:  # else positions count padding, and later do not
        full_ids, source = arguments["input_ids"], short.prompts.source
        remember(cache_in(outputs), full_ids, source, full_ids.shape[1], short.behind)
    return outputs


def _with_full_logits(
    outputs: Any, prompts: ShortPrompts, arguments: dict[str, Any], placeholder: Tensor
) -> Any:
    if arguments.get("logits_to_keep"):
        raise ValueError("full_logits=True needs all logits: leave logits_to_keep out")
    slots, labels = prompts.slots(placeholder), arguments.get("labels")
    if labels is not None and bool((labels[placeholder & (slots < 0)] != IGNORED_LABEL).any()):
        raise ValueError(UNSENT)
    if isinstance(outputs, tuple):
        place = int(labels is not None)  # behind the loss
        full = spread_logits(outputs[place], slots.to(outputs[place].device))
        return (*outputs[:place], full, *outputs[place + 1 :])
    outputs.logits = spread_logits(outputs.logits, slots.to(outputs.logits.device))
    return outputs
