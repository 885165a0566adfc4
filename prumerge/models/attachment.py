"""Send fewer visual tokens through a stock vision-language model, without editing it.

    reducer = prumerge.attach(model, "prumerge+")
    output = model.generate(**inputs, max_new_tokens=32)   # unchanged; begins with the full prompt
    reducer.kept                                           # visual tokens each picture sent
    reducer.detach()

The reducer sits after the encoder and before the projector, as in the paper. A call with pictures
encodes and reduces them as its family does (:mod:`prumerge.models.families`), shortens the prompts
to match (:mod:`prumerge.models.prompts`), and hands embeddings to the language model. Calls without
pictures pass through untouched.

Source: paper, Algorithm 1 and figure of the architecture. The release edits the encoder's source
file instead, and works for one picture at a time.
"""

import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from prumerge.encoder import Encoded, device_of, gathered, is_sharded
from prumerge.methods import Method, resolve
from prumerge.models.caches import Read, cache_in, check_mask, read_by, remember, step_ids
from prumerge.models.canvases import TiledReduction, reduce_packed, sent_by
from prumerge.models.covers import BoundCover, Cover
from prumerge.models.families import FAMILIES, Family, Kind, family_of
from prumerge.models.families.generic import can_drop, offer
from prumerge.models.families.generic import generic as dropping
from prumerge.models.generation import (
    RUNNING,
    Prefill,
    check_options,
    infer_mask,
    record,
    running,
    scale_chunks,
)
from prumerge.models.inputs import (
    IGNORED_LABEL,
    Sent,
    ShortInputs,
    check_cache,
    check_call,
    shorten_inputs,
)
from prumerge.models.prompts import UNSENT, ShortPrompts, is_placeholder, spread_logits
from prumerge.models.slots import Packed
from prumerge.reduction import Reduction
from prumerge.settings import Settings

COVERED = (
    "forward",
    "generate",
    "generate_batch",
    "prepare_inputs_for_generation",
    "_replicate_for_data_parallel",
)


def attach(
    model: nn.Module,
    method: str | Callable[..., Reduction] | Method = "prumerge+",
    *,
    full_logits: bool = False,
    generic: bool = False,
    **overrides: Any,
) -> "Attachment":
    """Let a stock vision-language model send reduced visual tokens from now on.

    Nothing is set on classes, weights or configs; the model's own ``generate`` and ``forward`` are
    covered until :meth:`Attachment.detach`, or to the end of a ``with`` block. Attaching again
    replaces the method. The attachment that is returned tells what was kept.

    ``generate`` is called as before and returns the full prompts followed by the new tokens. All
    that looks at token ids sees the full prompts too: lengths, penalties, stopping criteria,
    processors, streamers. Only the KV cache is short (a static one is made for full prompts).

    A conversation goes on from the ``past_key_values`` of an earlier turn as with the stock model:
    pass the whole conversation and the pictures shown behind the cache. The answer is that of one
    call on the whole conversation, up to rounding, unless the method draws at random or pools over
    the pictures of a call. Caches filled by beams, cropped ones and those of other calls are
    refused; once detached, the stock model cannot tell a cache of shortened prompts from its own.

    ``forward`` shortens labels like the prompts, and its logits have one row per slot of the
    *shortened* prompts: padded on the left, so that ``logits[:, -1]`` predicts the next token, or
    on the right where the call was padded there. Documents packed in a row, by ``position_ids``
    that begin again and no mask, are kept apart with compact positions and ``use_cache=False``.

    Args:
        model: Of one of the families of :mod:`prumerge.models.families`, such as a
            ``LlavaForConditionalGeneration``, on any device, in any precision, offloaded or not. In
            a wrapper of ``torch.compile``, PEFT or ``DataParallel`` the model inside is attached
            to, and calls through the wrapper are reduced.
        method: Name of a registered method (:func:`prumerge.methods.names`) or a function of
            your own, ``(encoded, settings) -> Reduction``.
        full_logits: Put the logits of ``forward`` into the columns of the full prompts, zeros for
            patches that were not sent, as labels stand: what the Trainer's label smoothing and
            ``compute_metrics`` need. Labels on image placeholders must be -100 then. The loss is
            the same.
        generic: Take a model of a family that is not known, too, and only drop of what it makes of
            its pictures: see :mod:`prumerge.models.families.generic` for what that saves.
        **overrides: Settings to change, such as ``budget=64`` or ``positions="original"``.

    Raises:
        ValueError: If the model, the method or a setting is not one that works here.
    """
    model = _unwrap(model)
    family = family_of(model)
    if family is None and generic and can_drop(model):
        family = dropping(model)
    if family is None:
        raise ValueError(
            f"attach needs a model of a family it knows ({', '.join(FAMILIES)}), got "
            f"{type(model).__name__}{offer(model)}"
        )
    if family.received:  # a score that was asked for needs its class token, and is refused
        overrides = {"score": "received"} | overrides
    if family.places is not None:
        overrides = {"positions": "original"} | overrides
    resolved = resolve(method, **overrides)
    family.check(model, resolved.settings)
    previous = attachment_of(model)
    if previous is not None:
        previous.detach()
    return Attachment(model, family, resolved, full_logits)


def _unwrap(model: nn.Module) -> nn.Module:
    """Find the stock model inside what compiles, adapts or distributes it, if there is one."""
    inside = model
    while inside is not None and family_of(inside) is None:
        if hasattr(inside, "get_base_model"):  # PEFT
            inside = inside.get_base_model()
        else:  # torch.compile; DataParallel and its kin
            wrapped = getattr(inside, "_orig_mod", getattr(inside, "module", None))
            if wrapped is None and can_drop(inside):
                break
            inside = wrapped
    return model if inside is None else inside


def attachment_of(model: nn.Module) -> "Attachment | None":
    """Find the attachment that is at work in a model, wrapped or not."""
    wrapper = vars(_unwrap(model)).get("generate")
    return wrapper.__func__.attachment if isinstance(wrapper, BoundCover) else None


class LastCall(threading.local):
    """What this thread's last call with pictures sent; copied and saved empty."""

    reductions: dict[Kind, Reduction] | None = None
    prompts: ShortPrompts | None = None

    def __reduce__(self) -> tuple[type["LastCall"], tuple[()]]:
        return LastCall, ()


class Attachment:
    """A reducer at work in one model; made by :func:`prumerge.attach`, undone by :meth:`detach`.

    Also a context manager that detaches at its end. Several threads may call the model; each sees
    its own last call in :attr:`kept`, :attr:`reduction` and :attr:`prompts`.
    """

    def __init__(
        self, model: nn.Module, family: Family, method: Method, full_logits: bool = False
    ) -> None:
        self.model = model
        self.family = family
        self.method = method
        self.full_logits = full_logits
        self._last = LastCall()
        self._wrappers: dict[str, tuple[BoundCover, Callable[..., Any] | None]] = {}
        for name in COVERED:
            before = vars(model).get(name)
            wrapper = BoundCover(model, Cover(self, name, before))
            self._wrappers[name] = (wrapper, before)
            setattr(model, name, wrapper)

    @property
    def settings(self) -> Settings:
        return self.method.settings

    @property
    def reductions(self) -> dict[Kind, Reduction]:
        """What this thread's last call with pictures or videos kept, by kind, without gradients.

        A :class:`prumerge.models.canvases.TiledReduction` where there are tiles or frames.
        """
        return self._last.reductions or {}

    @property
    def reduction(self) -> Reduction | None:
        """That of the pictures, or of the videos where there were no pictures; None before it."""
        return next(iter(self.reductions.values()), None)

    @property
    def prompts(self) -> ShortPrompts | None:
        """That call's shortened prompts: columns of its logits, and the mask to go on by hand."""
        return self._last.prompts

    @property
    def kept(self) -> list[int]:
        """Visual tokens per picture, extra tokens included, in that call; empty before it.

        Those of pictures, then those of videos; newlines and class tokens are not counted.
        """
        return [kept for own in self.reductions.values() for kept in own.kept]

    @property
    def kept_by_tile(self) -> list[list[int]]:
        """The same for each tile of a picture, the whole picture first, or frame of a video."""
        return [
            tiles
            for own in self.reductions.values()
            for tiles in (
                own.kept_by_tile if isinstance(own, TiledReduction) else [[k] for k in own.kept]
            )
        ]

    @property
    def attached(self) -> bool:
        """Whether the model's calls still come through here."""
        return bool(self._wrappers)

    def detach(self) -> None:
        """Give the model its own methods back; calling it again does nothing."""
        for name, (wrapper, before) in self._wrappers.items():
            # A wrapper that someone else has wrapped stays, and passes every call on.
            if vars(self.model).get(name) is wrapper:
                delattr(self.model, name)
                if before is not None:
                    setattr(self.model, name, before)
        self._wrappers = {}

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        kept = f", last call kept {self.kept}" if self.reductions else ""
        return f"<{self.method.name!r} {state} {type(self.model).__name__}{kept}>"

    def encode(
        self,
        pixel_values: Float[Tensor, "pictures ..."] | None = None,
        layer: int | None = None,
        **options: Any,
    ) -> Encoded | Packed:
        """Encode pictures without reducing them; a wrong size is a ``ValueError``.

        The result may be passed as ``pixel_values`` in later calls, which then skip the encoder:
        useful for trying many settings on one picture. ``layer`` is that of the features, the
        config's where None; ``options`` are what else the processor returns about the pictures,
        such as ``image_sizes``. Videos, ``pixel_values_videos``, are encoded in place of pictures.
        """
        named = options | {"pixel_values": pixel_values, "vision_feature_layer": layer}
        (packed,) = self._pack(self.model, named).values()
        return packed.parts[0] if packed.plain else packed

    def _pack(self, model: nn.Module, arguments: dict[str, Any]) -> dict[Kind, Packed]:
        """Encode what a call shows, and add what a method may ask of the model."""
        packed = self.family.pack(model, arguments, self.settings)
        return {
            kind: dataclasses.replace(
                own,
                parts=tuple(dataclasses.replace(part, project=own.project) for part in own.parts),
            )
            for kind, own in packed.items()
        }

    # Under torch.compile the stock forward pass is compiled: how much is kept depends on pictures.
    @torch.compiler.disable
    def _shorten(
        self,
        model: nn.Module,
        arguments: dict[str, Any],
        side: Literal["left", "right"],
        read: Read | None = None,
    ) -> tuple[ShortInputs, list[Sent]]:
        family = self.family
        check_call(arguments, family.names, family.consumed)
        packed, reductions = {}, {}
        if family.shows(arguments):
            # Training under autocast must keep the tokens that inference without it keeps.
            with torch.autocast(device_of(model.get_input_embeddings()).type, enabled=False):
                packed = self._pack(model, arguments)
                reductions = {k: reduce_packed(own, self.method) for k, own in packed.items()}
        each = family.each and family.each(model)
        sent = [
            sent_by(reductions[kind], packed[kind], token, kind)
            if kind in packed
            else Sent(token, kind=kind, each=each)
            for kind, token in family.tokens(model).items()
        ]
        left = {
            name: value
            for name, value in arguments.items()
            if name not in (*family.names, *family.consumed)
        }
        places = family.places and functools.partial(family.places, model, arguments, read)
        short = shorten_inputs(model, left, sent, self.settings.positions, side, read, places)
        if reductions:
            self._last.reductions = {
                kind: dataclasses.replace(own, tokens=[tokens.detach() for tokens in own.tokens])
                for kind, own in reductions.items()
            }
            self._last.prompts = short.prompts
        return short, sent

    @torch.compiler.disable(recursive=False)
    def _forward(
        self, model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if len(args) < 2 and not self.family.shows(kwargs):
            named = {"input_ids": args[0]} | kwargs if args else kwargs
            check_mask(named)
            return stock(*args, **kwargs | step_ids(named))
        arguments = _by_name(stock, args, kwargs)
        if not self.family.shows(arguments):
            check_mask(arguments)
            return stock(**arguments | step_ids(arguments))
        check_cache(cache_in(arguments))
        mask = arguments.get("attention_mask")
        right = mask is not None and bool(mask[:, 0].all()) and not bool(mask[:, -1].all())
        short, sent = self._shorten(model, arguments, "right" if right else "left")
        fed = self.family.feed(
            model, short.prompts.input_ids, short.embeddings, short.prompts.visual
        )
        outputs = stock(**short.arguments | fed)
        if self.full_logits:
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

    def _generate(
        self, model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        # Pictures and words are embedded before the forward pass that would gather their weights,
        # and FSDP2 wants the whole model to have run before its parts do.
        first = self.family.first_layer(model)
        with torch.no_grad():
            if is_sharded(first):
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device_of(first)))
            with gathered(model, first):
                return self._generate_gathered(model, stock, *args, **kwargs)

    def _generate_gathered(
        self, model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        arguments = _by_name(stock, args, kwargs)
        if arguments.get("inputs") is not None:
            arguments["input_ids"] = arguments.pop("inputs")
        family = self.family
        read = read_by(arguments, [*family.tokens(model).values()], family.shows(arguments))
        if not family.shows(arguments) and read is None:
            with running(None):
                return stock(**arguments)
        full_ids = arguments.get("input_ids")
        if arguments.get("attention_mask") is None and full_ids is not None:
            arguments["attention_mask"] = infer_mask(arguments, model, full_ids)
        with torch.no_grad():
            short, _ = self._shorten(model, arguments, "left", read)
        otherwise = (*family.names, *family.consumed, "position_ids")
        passed = {name: v for name, v in arguments.items() if name not in otherwise}
        check_options(passed, model, read)
        scale_chunks(passed, model, full_ids.shape[1], short.prompts.input_ids.shape[1])
        if family.places is not None:
            # Else the stock model would number full prompts, and leave their deltas behind.
            mask = arguments["attention_mask"]
            passed["position_ids"] = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        feed = functools.partial(family.feed, model)
        with running(Prefill(model, short, full_ids.shape[1], feed)):
            output = stock(**passed)
        record(output, arguments, model, short, read)
        return output

    def _generate_batch(
        self, model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        rows = _by_name(stock, args, kwargs).get("inputs") or []
        tokens = self.family.tokens(model).values()
        if any(token in row for row in rows for token in tokens):
            raise ValueError(
                "generate_batch takes no pictures, so prompts that show some would be answered "
                "without: call generate"
            )
        return stock(*args, **kwargs)

    def _prepare_inputs_for_generation(
        self, model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        prefill = RUNNING.get()
        if prefill is None or prefill.model is not model:
            return stock(*args, **kwargs)
        return prefill.prepare(stock, *args, **kwargs)

    def _replicate_for_data_parallel(
        self, model: nn.Module, stock: Callable[..., nn.Module]
    ) -> nn.Module:
        """DataParallel copies the attributes: the covers among them must be the replica's own."""
        replica = stock()
        for name, cover in list(vars(replica).items()):
            if isinstance(cover, BoundCover):
                setattr(replica, name, BoundCover(replica, cover.__func__))
        return replica


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


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    return arguments | arguments.pop("kwargs", {})
