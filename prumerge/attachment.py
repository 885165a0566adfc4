"""A reducer at work inside one model: what it covers, what it remembers, how it is undone."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prumerge.encoder import check_pictures, open_tower
from prumerge.generation import Options, PromptFeeder, restore_prompts
from prumerge.inputs import ShortInputs, check_cache, check_call, feature_layer, shorten_inputs
from prumerge.methods import Method
from prumerge.prompts import ShortPrompts
from prumerge.reduction import Reduction
from prumerge.scores import Encoded, encode
from prumerge.settings import Settings


class Attachment:
    """A reducer at work in one model; made by :func:`prumerge.attach`, undone by :meth:`detach`.

    Also a context manager that detaches at its end. One generation at a time per model.

    Attributes:
        model: The model it is attached to.
        method: The reduction method, with its settings.
        reduction: What the last call with pictures kept, without gradients. None before the first.
        prompts: The shortened prompts of that call: which columns its logits belong to, and the
            attention mask to continue with by hand.
    """

    def __init__(self, model: LlavaForConditionalGeneration, method: Method) -> None:
        self.model = model
        self.method = method
        self.reduction: Reduction | None = None
        self.prompts: ShortPrompts | None = None
        self._wrappers: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {}
        for name, ours in (("forward", self._forward), ("generate", self._generate)):
            stock = getattr(model, name)
            # The stock signature must show through: generate() and trainers look at forward's.
            wrapper = functools.update_wrapper(functools.partial(ours, stock), stock)
            self._wrappers[name] = (wrapper, vars(model).get(name))
            setattr(model, name, wrapper)

    @property
    def settings(self) -> Settings:
        """The settings of the method."""
        return self.method.settings

    @property
    def kept(self) -> list[int]:
        """Visual tokens per picture, extra tokens included, in the last call with pictures."""
        return [] if self.reduction is None else self.reduction.kept

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
        kept = f", last call kept {self.kept}" if self.reduction else ""
        return f"<{self.method.name!r} {state} {type(self.model).__name__}{kept}>"

    def encode(self, pixel_values: Float[Tensor, "pictures ..."], layer: int = -2) -> Encoded:
        """Encode pictures without reducing them.

        The result may be passed as ``pixel_values`` in later calls, which then skip the encoder:
        useful for trying many settings on one picture.

        Args:
            pixel_values: Preprocessed pictures of the encoder's size.
            layer: Encoder layer of the features.

        Returns:
            Features, keys and scores under this attachment's settings.

        Raises:
            ValueError: If the pictures do not have the encoder's size.
        """
        tower = self.model.model.vision_tower
        check_pictures(open_tower(tower), pixel_values)
        return self._complete(encode(tower, pixel_values, self.settings, layer))

    def _complete(self, encoded: Encoded) -> Encoded:
        """Add what a method may ask of the model, also to what was encoded elsewhere."""
        return dataclasses.replace(encoded, project=self.model.model.multi_modal_projector)

    def _shorten(self, arguments: dict[str, Any], side: Literal["left", "right"]) -> ShortInputs:
        check_call(arguments)
        layer = feature_layer(self.model, arguments)
        pictures = arguments["pixel_values"]
        given = isinstance(pictures, Encoded)
        # Training under autocast must keep the tokens that inference without it keeps.
        with torch.autocast(self.model.device.type, enabled=False):
            encoded = self._complete(pictures) if given else self.encode(pictures, layer)
            reduction = self.method(encoded)
        patches = encoded.features.shape[1]
        short = shorten_inputs(
            self.model, arguments, reduction, patches, self.settings.positions, side
        )
        tokens = [tokens.detach() for tokens in reduction.tokens]
        self.reduction = dataclasses.replace(reduction, tokens=tokens)
        self.prompts = short.prompts
        return short

    def _forward(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._wrappers or (len(args) < 2 and kwargs.get("pixel_values") is None):
            return stock(*args, **kwargs)
        arguments = _by_name(stock, args, kwargs)
        if arguments.get("pixel_values") is None:
            return stock(**arguments)
        mask = arguments.get("attention_mask")
        right = mask is not None and bool(mask[:, 0].all()) and not bool(mask[:, -1].all())
        short = self._shorten(arguments, "right" if right else "left")
        arguments = short.arguments | {"input_ids": None, "inputs_embeds": short.embeddings}
        outputs = stock(**arguments)
        if not isinstance(outputs, tuple):
            outputs.image_hidden_states = short.visual_tokens
        return outputs

    @torch.no_grad()
    def _generate(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._wrappers:
            return stock(*args, **kwargs)
        arguments = _by_name(stock, args, kwargs)
        if arguments.get("inputs") is not None:
            arguments["input_ids"] = arguments.pop("inputs")
        full_ids = arguments.get("input_ids")
        if arguments.get("pixel_values") is None:
            if full_ids is not None and bool((full_ids == self.model.config.image_token_id).any()):
                check_cache(arguments.get("past_key_values"))
            return stock(**arguments)
        options = Options(arguments, self.model)
        if arguments.get("attention_mask") is None and full_ids is not None:
            arguments["attention_mask"] = options.mask(full_ids)
        short = self._shorten(arguments, "left")
        length = short.prompts.input_ids.shape[1]
        options = Options(short.arguments, self.model)
        options.shift_lengths(full_ids.shape[1] - length)
        with PromptFeeder(self.model, short.embeddings, short.continuation).feeding():
            output = stock(**short.arguments)
        if isinstance(output, Tensor):
            return restore_prompts(output, full_ids, length)
        output.sequences = restore_prompts(output.sequences, full_ids, length)
        return output


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    arguments = dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    return arguments | arguments.pop("kwargs", {})
