"""Methods that drop visual tokens inside the language model, by masks: the answers, not the speed.

::

    with inside(model, "fastv", budget=192):
        model.generate(**processor(images=picture, text=prompt, return_tensors="pt"))

All visual tokens enter. From the layer on where a method drops some, no other token attends to
those; nothing that is read later can then depend on them, so that logits and answers are those of
really dropping them at their original position ids, at any batch size and padding, in the prompt
and in every decoding step behind it. The stock layers compute everything. What a method drops it
decides by the stock module's own attention, run once more by the eager backend.

Masks save nothing. What dropping would cost is stated by the roofline
(:func:`prumerge.roofline.estimate_prefill`), at an equal mean number of tokens over the layers.

:mod:`prumerge.models.stages` has the three methods: when they drop, and what layers read.
"""

import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from prumerge.models.attachment import attachment_of
from prumerge.models.caches import cache_in
from prumerge.models.loading import patches_of
from prumerge.models.ratings import additive, attention_of, last_of, raters
from prumerge.models.recycling import cluster_means, density_peaks, split
from prumerge.models.stages import Dropping, find_dropping
from prumerge.settings import Settings

BACKENDS = ("sdpa", "eager")
REDUCED = "the model's visual tokens are reduced already: detach, or end the block before"
RECORD = "_dropped_inside"  # hangs on the cache, so that copies of a cache have it too


def inside(model: nn.Module, method: str | Dropping, budget: int | float | None = None) -> "Inside":
    """Let a LLaVA drop visual tokens between its layers until the block ends.

    Args:
        model: A ``LlavaForConditionalGeneration``, nothing attached, with attention backend
            ``sdpa`` or ``eager``.
        method: ``fastv``, ``pyramiddrop`` or ``sparsevlm``, or one of these with parts changed:
            ``dataclasses.replace(find_dropping("sparsevlm"), recycles=False)``.
        budget: Visual tokens that the layers read on average, an int or a share of all. None: the
            published shares.

    Raises:
        ValueError: If model or method is another, or the budget cannot be had; and from calls that
            show several pictures in a prompt, pass embeddings, labels or ``use_cache=False``, or
            go on from a cache in any other way than token by token.
    """
    if not isinstance(model, LlavaForConditionalGeneration):
        raise ValueError(
            f"inside needs a LlavaForConditionalGeneration, got {type(model).__name__}: load one "
            'with LlavaForConditionalGeneration.from_pretrained("...")'
        )
    if attachment_of(model) is not None or inside_of(model) is not None:
        raise ValueError(REDUCED)
    dropping = find_dropping(method)
    backend = model.config.get_text_config()._attn_implementation
    if backend not in BACKENDS:
        raise ValueError(
            f"attn_implementation={backend!r} takes no masks that differ between layers: load the "
            "model with attn_implementation='sdpa'"
        )
    return Inside(model, dropping, budget)


def inside_of(model: nn.Module) -> "Inside | None":
    """Find what drops tokens inside a model."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Inside)), None)


class Inside:
    """Hooks on one model, made by :func:`inside`; they are there within its block.

    Attributes:
        reads: Visual tokens that each layer reads of a picture.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, dropping: Dropping, budget: int | float | None
    ) -> None:
        self.model, self.dropping = model, dropping
        self._layers, patches = model.model.language_model.layers, patches_of(model)
        self._patches, total = patches, Settings(budget=budget).tokens_of(patches)
        self.reads = dropping.reads(len(self._layers), patches, total)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._covered: Callable[..., Any] | None = None
        self._now = threading.local()

    @property
    def mean_tokens(self) -> float:
        """Visual tokens that the layers read on average: the budget, or just below."""
        return sum(self.reads) / len(self.reads)

    def __enter__(self) -> "Inside":
        hooks = [self.model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        hooks.append(self.model.register_forward_hook(self._end, always_call=True))
        for index, layer in enumerate(self._layers):
            hook = functools.partial(self._before, index)
            hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        self._hooks, self._covered = hooks, vars(self.model).get("generate")
        self.model.generate = functools.partial(self._generate, self.model.generate)
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        del self.model.generate
        if self._covered is not None:
            self.model.generate = self._covered

    def __repr__(self) -> str:
        return f"<{self.dropping.name!r} inside {type(self.model).__name__}, reads {self.reads}>"

    def _generate(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or self.model.generation_config
        chunk = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if chunk is not None:
            raise ValueError(
                f"prefill_chunk_size={chunk}: {self.dropping.name} asks the end of the prompt "
                "before the picture has been read; leave it out"
            )
        return stock(*args, **kwargs)

    @torch.compiler.disable
    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out what a call is: a prompt with pictures, or a step behind one."""
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        arguments = arguments | arguments.get("kwargs", {})
        ids, cache = arguments.get("input_ids"), cache_in(arguments)
        if attachment_of(model) is not None:
            raise ValueError(REDUCED)
        if ids is None or arguments.get("labels") is not None:
            raise ValueError(
                f"{self.dropping.name} finds pictures in input_ids, and asks the last tokens of "
                "the prompt: pass no embeddings, no labels, and no answer"
            )
        if arguments.get("use_cache") is False:
            raise ValueError(
                f"without a cache {self.dropping.name} would decide anew by every token of the "
                "answer: leave use_cache out"
            )
        read = 0 if cache is None else int(cache.get_seq_length())
        if read:
            self._now.call = _go_on(getattr(cache, RECORD, None), ids, read, self.dropping.name)
        else:
            visual = ids == model.config.image_token_id
            real = _real_columns(arguments.get("attention_mask"), visual)
            self._now.call = _start(visual, real, self._patches, len(self._layers))

    def _end(self, model: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        self._now.call = None

    @torch.compiler.disable
    @torch.no_grad()
    def _before(
        self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let a layer read less, and decide what the next one reads."""
        call: _Call | None = getattr(self._now, "call", None)
        if call is None:
            raise ValueError("call the whole model inside this block, not its language model alone")
        hidden, mask = args[0], kwargs.get("attention_mask")
        if (cache := cache_in(kwargs)) is not None:
            setattr(cache, RECORD, call)
            call.keys, gone = cache.get_mask_sizes(hidden.shape[1], index)
            if gone:
                raise ValueError("a layer's window is shorter than the prompt: its masks differ")
        else:
            call.keys = hidden.shape[1]
        if call.reading:
            hidden = self._decide(index, layer, call, hidden, kwargs)
        kwargs = kwargs | {"attention_mask": call.masked(index, layer, hidden, mask)}
        return (hidden, *args[1:]), kwargs

    def _decide(
        self, index: int, layer: nn.Module, call: "_Call", hidden: Tensor, kwargs: dict[str, Any]
    ) -> Tensor:
        """Rate visual tokens and drop some before a layer; return the states that it reads."""
        method, behind = self.dropping, self.dropping.layer == "behind"
        if index == 0 and method.rated_by == "raters":
            call.asking = raters(hidden, call.columns, call.asking)
        elif index == 0:
            call.asking = last_of(call.asking)

        def rate(at: int) -> None:
            mask = call.masked(at, layer, hidden, kwargs.get("attention_mask"))
            seen = attention_of(layer, hidden, mask, kwargs["position_embeddings"])
            asked = seen.masked_fill(
                ~call.asking[..., None], 0
            )  # rows of padding may be no numbers
            call.ratings = asked.sum(dim=1).gather(1, call.columns)

        if index and self.reads[index] < self.reads[index - 1]:
            if behind:
                rate(index - 1)  # before it drops, it sees what the layer before it saw
            hidden = call.drop(hidden, self.reads[index], method.recycles)
        call.dropped[index] = call.hidden_columns()
        following = index + 1
        if following < len(self.reads) and self.reads[following] < self.reads[index] and not behind:
            rate(index)
        return hidden


@dataclasses.dataclass(eq=False)
class _Call:
    """What a call and the steps behind it must know, one per prompt batch.

    ``asking`` marks the columns behind the picture at first, then those whose attention rates;
    ``dropped`` marks, layer by layer, the columns that it does not read.
    """

    columns: Int64[Tensor, "prompts patches"]
    asking: Bool[Tensor, "prompts length"]
    kept: Bool[Tensor, "prompts patches"]
    dropped: list[Bool[Tensor, "prompts length"] | None]
    reading: bool = True
    read: int = 0  # columns in the cache before this step
    keys: int = 0  # columns of this step's masks: what is read, or the room of a static cache
    ratings: Float[Tensor, "prompts patches"] | None = None

    def hidden_columns(self) -> Bool[Tensor, "prompts length"] | None:
        """Mark the columns of visual tokens that were dropped so far; None where all are kept."""
        if bool(self.kept.all()):
            return None
        return torch.zeros_like(self.asking).scatter(1, self.columns, ~self.kept)

    def drop(
        self, hidden: Float[Tensor, "prompts length width"], reads: int, recycles: bool
    ) -> Float[Tensor, "prompts length width"]:
        """Keep the best-rated visual tokens, with clusters of the next best in some slots."""
        ratings = self.ratings.masked_fill(~self.kept, -torch.inf)
        best = ratings.sort(dim=1, descending=True, stable=True).indices
        before = int(self.kept[0].sum())
        count, recycled, clusters = split(before, reads) if recycles else (reads, 0, 0)
        chosen = best[:, :count]
        if clusters:
            pool = best[:, count : count + recycled]
            slots = self.columns.gather(1, pool)[..., None].expand(-1, -1, hidden.shape[-1])
            points = hidden.gather(1, slots)
            centres, owner = density_peaks(points, clusters)
            places = slots.gather(1, centres[..., None].expand(-1, -1, hidden.shape[-1]))
            hidden = hidden.scatter(1, places, cluster_means(points, owner, clusters))
            chosen = torch.cat([chosen, pool.gather(1, centres)], dim=1)
        self.kept = torch.zeros_like(self.kept).scatter(1, chosen, True)
        return hidden

    def masked(
        self, index: int, layer: nn.Module, hidden: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        """Take the columns that a layer does not read out of its mask."""
        dropped = self.dropped[index]
        if dropped is None:
            return mask
        place = torch.arange(self.keys, device=hidden.device)
        own = self.read + torch.arange(hidden.shape[1], device=hidden.device)[:, None]
        away = nn.functional.pad(dropped, (0, self.keys - dropped.shape[1]))[:, None, None]
        away = away & (place != own)  # a row that sees nothing would have no softmax
        if mask is None:
            mask = (place <= own).expand(len(away), 1, -1, -1)
            backend = layer.self_attn.config._attn_implementation
            mask = mask if backend == "sdpa" else additive(mask, hidden.dtype)
        if mask.dtype == torch.bool:
            return mask & ~away
        return mask.masked_fill(away, torch.finfo(mask.dtype).min)


def _real_columns(
    mask: Tensor | None, visual: Bool[Tensor, "prompts length"]
) -> Bool[Tensor, "prompts length"]:
    """Tell words from padding, by a mask per column or, before a static cache, per pair."""
    if mask is None:
        return torch.ones_like(visual)
    if mask.ndim == 4:  # what is no padding sees itself
        own = mask[:, 0].diagonal(dim1=1, dim2=2)
        mask = own if mask.dtype == torch.bool else own == 0
    if mask.shape != visual.shape:
        raise ValueError(f"attention_mask must have the shape of input_ids, {tuple(visual.shape)}")
    return mask.bool()


def _start(
    visual: Bool[Tensor, "prompts length"],
    real: Bool[Tensor, "prompts length"],
    patches: int,
    layers: int,
) -> _Call:
    counts = visual.sum(dim=1)
    empty = [None] * layers
    if not bool(visual.any()):  # text alone: nothing to drop
        nowhere = visual.new_zeros(len(visual), 0, dtype=torch.long)
        return _Call(nowhere, real, nowhere.bool(), empty, reading=False)
    if bool((counts != patches).any()):
        raise ValueError(
            f"prompts have {counts.tolist()} image placeholders: show one picture in each, which "
            f"takes {patches}, in one piece with the words behind it"
        )
    columns = visual.nonzero()[:, 1].reshape(len(visual), patches)
    place = torch.arange(visual.shape[1], device=visual.device)
    words = real & (place > columns[:, -1:])
    if not bool(words.any(dim=1).all()):
        raise ValueError("a prompt ends with its picture: put the question behind it, it rates")
    return _Call(columns, words, torch.ones_like(columns, dtype=torch.bool), empty)


def _go_on(before: _Call | None, ids: Tensor, read: int, name: str) -> _Call:
    if before is None or len(before.columns) != len(ids) or ids.shape[1] != 1:
        raise ValueError(
            f"{name} goes on from the cache of a call in this block, token by token: pass a new "
            "turn as one whole prompt without cache, and no prefill_chunk_size or assistant"
        )
    return dataclasses.replace(before, reading=False, read=read)
