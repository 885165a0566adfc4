"""Send fewer visual tokens through a stock LLaVA model, without editing it.

    reducer = prumerge.attach(model, "prumerge+")
    output = model.generate(**inputs, max_new_tokens=32)   # unchanged; begins with the full prompt
    reducer.kept                                           # visual tokens each picture sent
    reducer.detach()

The reducer sits after the encoder and before the projector, as in the paper. A call with pictures
encodes and reduces them, shortens the prompts to match (:mod:`prumerge.prompts`), and hands
embeddings to the language model. Calls without pictures pass through untouched.

Source: paper, figure of the architecture. The release edits the encoder's source file instead, and
works for one picture at a time.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import LlavaForConditionalGeneration

from prumerge.attachment import Attachment
from prumerge.covers import BoundCover
from prumerge.inputs import feature_layer
from prumerge.methods import Method, resolve
from prumerge.reduction import Reduction
from prumerge.scores import check_tower


def attach(
    model: nn.Module,
    method: str | Callable[..., Reduction] | Method = "prumerge+",
    *,
    full_logits: bool = False,
    **overrides: Any,
) -> Attachment:
    """Let a stock LLaVA model send reduced visual tokens from now on.

    Nothing is set on classes, weights or configs; the model's own ``generate`` and ``forward`` are
    covered until :meth:`Attachment.detach`. Attaching again replaces the method.

    ``generate`` is called as before and returns the full prompts followed by the new tokens. All
    that looks at token ids sees the full prompts too: lengths, penalties, stopping criteria,
    processors, streamers. Only the KV cache is short (a static one is made for full prompts).

    A conversation goes on from the ``past_key_values`` of an earlier turn as with the stock model:
    pass the whole conversation and the pictures shown behind the cache. The answer is that of one
    call on the whole conversation, up to rounding, unless the method draws at random or pools over
    the pictures of a call. Caches filled by beams, cropped ones and those of other calls are
    refused; once detached, the stock model cannot tell a cache of shortened prompts from its own.

    ``forward`` shortens labels like the prompts, and its
    logits have one row per slot of the *shortened* prompts: padded on the left, so that
    ``logits[:, -1]`` predicts the next token, or on the right where the call was padded there.
    Documents packed in a row, by ``position_ids`` that begin again and no mask, are kept apart
    with compact positions and ``use_cache=False``.

    Args:
        model: A ``LlavaForConditionalGeneration``, on any device, in any precision, offloaded or
            not. In a wrapper of ``torch.compile``, PEFT or ``DataParallel`` the model inside is
            attached to, and calls through the wrapper are reduced.
        method: Name of a registered method (:func:`prumerge.methods.names`) or a function of
            your own, ``(encoded, settings) -> Reduction``.
        full_logits: Put the logits of ``forward`` into the columns of the full prompts, zeros for
            patches that were not sent, as labels stand: what the Trainer's label smoothing and
            ``compute_metrics`` need. Labels on image placeholders must be -100 then. The loss is
            the same.
        **overrides: Settings to change, such as ``budget=64`` or ``positions="original"``.

    Returns:
        The attachment, which tells what was kept and detaches, also as a context manager.

    Raises:
        ValueError: If the model, the method or a setting is not one that works here.

    Source:
        Paper, Algorithm 1, for what happens to the visual tokens; ``positions`` offers the compact
        ids of the release and the original ones.
    """
    model = _unwrap(model)
    if not isinstance(model, LlavaForConditionalGeneration):
        raise ValueError(
            f"attach needs a LlavaForConditionalGeneration, got {type(model).__name__}: load one "
            'with LlavaForConditionalGeneration.from_pretrained("...")'
        )
    resolved = resolve(method, **overrides)
    check_tower(model.model.vision_tower, resolved.settings, feature_layer(model, {}))
    previous = attachment_of(model)
    if previous is not None:
        previous.detach()
    return Attachment(model, resolved, full_logits)


def _unwrap(model: nn.Module) -> nn.Module:
    """Find the stock model inside what compiles, adapts or distributes it, if there is one."""
    inside = model
    while inside is not None and not isinstance(inside, LlavaForConditionalGeneration):
        if hasattr(inside, "get_base_model"):  # PEFT
            inside = inside.get_base_model()
        else:  # torch.compile; DataParallel and its kin
            inside = getattr(inside, "_orig_mod", getattr(inside, "module", None))
    return model if inside is None else inside


def attachment_of(model: nn.Module) -> Attachment | None:
    """Find the attachment that is at work in a model.

    Args:
        model: Any model, wrapped or not.

    Returns:
        The attachment, or None.
    """
    wrapper = vars(_unwrap(model)).get("generate")
    return wrapper.__func__.attachment if isinstance(wrapper, BoundCover) else None
