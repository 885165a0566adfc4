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
import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prumerge.encoder import Encoded, device_of
from prumerge.methods import Method, resolve
from prumerge.models.caches import Read
from prumerge.models.canvases import TiledReduction, reduce_packed, sent_by
from prumerge.models.covers import BoundCover, Cover, replicate
from prumerge.models.families import FAMILIES, Family, Kind, family_of
from prumerge.models.families.generic import can_drop, offer
from prumerge.models.families.generic import generic as dropping
from prumerge.models.forward import forward
from prumerge.models.generation import generate, generate_batch, prepare_inputs_for_generation
from prumerge.models.inputs import Sent, ShortInputs, check_call, shorten_inputs
from prumerge.models.prompts import ShortPrompts
from prumerge.models.slots import Packed
from prumerge.reduction import Reduction
from prumerge.settings import Settings

COVERS = {
    "forward": forward,
    "generate": generate,
    "generate_batch": generate_batch,
    "prepare_inputs_for_generation": prepare_inputs_for_generation,
    "_replicate_for_data_parallel": replicate,
}


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
    resolved = resolve(method, **family.defaults | overrides)
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

    covers = COVERS

    def __init__(
        self, model: nn.Module, family: Family, method: Method, full_logits: bool = False
    ) -> None:
        self.model = model
        self.family = family
        self.method = method
        self.full_logits = full_logits
        self._last = LastCall()
        self._wrappers: dict[str, tuple[BoundCover, Callable[..., Any] | None]] = {}
        for name in self.covers:
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

    def __exit__(self, *raised: object) -> None:
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
    def shorten(
        self,
        model: nn.Module,
        arguments: dict[str, Any],
        side: Literal["left", "right"],
        read: Read | None = None,
    ) -> tuple[ShortInputs, list[Sent]]:
        """Encode and reduce what a call shows, and rewrite the call; see ``shorten_inputs``."""
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
