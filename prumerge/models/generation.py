"""Generation from shortened prompts with the stock ``generate``, which sees the full ones.

``generate`` keeps the full token ids, so lengths, penalties, stopping criteria, streamers and
everything else that looks at ids work as ever. Only where it prepares the inputs of a forward pass
does the shortened prompt take the full one's place: embeddings with the visual tokens among them,
and the attention mask and position ids that belong to it. The KV cache holds what was really sent.

What a generation needs for that belongs to the running call, never to the model: several threads
may generate with one model, and a callback may generate inside a generation.

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prumerge.encoder import device_of, gathered, is_sharded
from prumerge.models.caches import Read, cache_in, forget, read_by, remember, slots_of
from prumerge.models.covers import by_name
from prumerge.models.inputs import ShortInputs

if TYPE_CHECKING:
    from prumerge.models.attachment import Attachment

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")


@dataclass(eq=False)
class Prefill:
    """The shortened prompts of a running ``generate``, put in where it prepares forward passes.

    The first pass reads them; with the KV cache off every pass does, with chunked prefill several
    passes read a piece each, and beams or several returned sequences read them in adjacent copies.
    ``columns`` counts those of ``input_ids`` as handed in, and ``feed`` says what a pass is handed
    of the prompts: see :meth:`prumerge.models.families.Family.feed`.
    """

    model: nn.Module
    short: ShortInputs
    columns: int
    feed: Callable[[Tensor, Tensor, Tensor], dict[str, Any]]

    def __post_init__(self) -> None:
        prompts = self.short.prompts
        self.padded = not bool(prompts.attention_mask.all())
        places = self.short.arguments.get("position_ids")
        if places is None:
            places = (prompts.attention_mask.cumsum(1) - 1).clamp(min=0)
        after = places[..., -1:] + 1
        self.places = places
        self.first = places.shape[-1] - self.short.embeddings.shape[1]
        self.after = after if self.short.continuation is None else after + self.short.continuation

    def prepare(
        self,
        stock: Callable[..., dict[str, Any]],
        input_ids: Int[Tensor, "rows columns"],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Prepare the inputs of a forward pass as ``stock`` does, from the shortened prompts.

        ``input_ids`` are full prompts and new tokens; with chunked prefill a chunk of the prompts.
        """
        stop = self._stop(input_ids, kwargs.get("position_ids"))
        copies = len(input_ids) // self.places.shape[-2]

        def rows(values: Tensor) -> Tensor:
            return values[..., :stop].repeat_interleave(copies, dim=-2).to(input_ids.device)

        new = input_ids[:, self.columns :]
        ones, counted = torch.ones_like(new), torch.arange(new.shape[1], device=new.device)
        prompts = self.short.prompts
        ids = torch.cat([rows(prompts.input_ids), new], dim=1)
        mask = torch.cat([rows(prompts.attention_mask), ones], dim=1) if self.padded else None
        kwargs["attention_mask"] = mask
        behind = rows(self.after) + counted
        kwargs["position_ids"] = torch.cat([rows(self.places), behind.to(self.places)], dim=-1)
        for name in TOKEN_TYPES:
            if kwargs.get(name) is not None:
                types = rows(self.short.arguments[name])
                kwargs[name] = torch.cat([types, torch.zeros_like(new).to(types)], dim=1)
        cache = cache_in(kwargs)
        start = slots_of(cache)
        kwargs["next_sequence_length"] = ids.shape[1] - start
        inputs = stock(ids, **kwargs)
        if cache is None and inputs.get("attention_mask") is None:
            # Without mask and cache, gaps in the position ids would be read as packed sequences.
            inputs["attention_mask"] = torch.ones_like(ids)
        prompt = self.short.embeddings[:, start - self.first : stop - self.first]
        prompt = prompt.repeat_interleave(copies, dim=0)
        if prompt.shape[1]:
            shown = rows(prompts.visual)[:, start:]
            inputs |= self.feed(inputs["input_ids"], prompt, shown)
        return inputs

    def _stop(self, input_ids: Tensor, columns: Tensor | None) -> int:
        """How many columns of the shortened prompts have been read after this pass."""
        short = self.places.shape[-1]
        if input_ids.shape[1] >= self.columns or columns is None:
            return short
        return (int(columns[0, -1]) + 1) * short // self.columns  # a chunk of the full prompts


RUNNING: ContextVar[Prefill | None] = ContextVar("RUNNING", default=None)


@contextmanager
def running(prefill: Prefill | None) -> Iterator[None]:
    """Give ``generate`` in this block its prefill; None, also inside another, leaves it stock."""
    token = RUNNING.set(prefill)
    try:
        yield
    finally:
        RUNNING.reset(token)


def generate(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run the stock ``generate`` on the full prompts, with the shortened ones in its passes."""
    # Pictures and words are embedded before the forward pass that would gather their weights,
    # and FSDP2 wants the whole model to have run before its parts do.
    first = attachment.family.first_layer(model)
    with torch.no_grad():
        if is_sharded(first):
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device_of(first)))
        with gathered(model, first):
            return _generate(attachment, model, stock, *args, **kwargs)


def _generate(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    arguments = by_name(stock, args, kwargs)
    if arguments.get("inputs") is not None:
        arguments["input_ids"] = arguments.pop("inputs")
    family = attachment.family
    read = read_by(arguments, [*family.tokens(model).values()], family.shows(arguments))
    if not family.shows(arguments) and read is None:
        with running(None):
            return stock(**arguments)
    full_ids = arguments.get("input_ids")
    if arguments.get("attention_mask") is None and full_ids is not None:
        arguments["attention_mask"] = infer_mask(arguments, model, full_ids)
    with torch.no_grad():
        short, _ = attachment.shorten(model, arguments, "left", read)
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


def generate_batch(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run the stock ``generate_batch``, which takes words alone."""
    rows = by_name(stock, args, kwargs).get("inputs") or []
    tokens = attachment.family.tokens(model).values()
    if any(token in row for row in rows for token in tokens):
        raise ValueError(
            "generate_batch takes no pictures, so prompts that show some would be answered "
            "without: call generate"
        )
    return stock(*args, **kwargs)


def prepare_inputs_for_generation(
    attachment: "Attachment", model: nn.Module, stock: Callable[..., Any], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Prepare a forward pass of the running ``generate``."""
    prefill = RUNNING.get()
    if prefill is None or prefill.model is not model:
        return stock(*args, **kwargs)
    return prefill.prepare(stock, *args, **kwargs)


def option(arguments: dict[str, Any], model: nn.Module, name: str) -> Any:
    """A generation option as ``generate`` resolves it: call, config handed in, model's config."""
    configs = (arguments.get("generation_config"), model.generation_config)
    values = (arguments.get(name), *(getattr(config, name, None) for config in configs))
    return next((value for value in values if value is not None), None)


def infer_mask(
    arguments: dict[str, Any], model: nn.Module, input_ids: Int[Tensor, "prompts length"]
) -> Int[Tensor, "prompts length"]:
    """The mask ``generate`` infers: 0 for pad tokens, unless they also end sequences."""
    pad, end = (option(arguments, model, f"{name}_token_id") for name in ("pad", "eos"))
    ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
    if pad is None or int(pad) in ends:
        return torch.ones_like(input_ids)
    return (input_ids != pad).to(input_ids.dtype)


def scale_chunks(arguments: dict[str, Any], model: nn.Module, columns: int, short: int) -> None:
    """Let chunked prefill, which cuts the full prompts, read about as much at once as asked."""
    size = option(arguments, model, "prefill_chunk_size")
    if size is not None:
        arguments["prefill_chunk_size"] = math.ceil(size * columns / short)
        # A chunk tells by them where it stands.
        ids = arguments["input_ids"]
        arguments["position_ids"] = torch.arange(columns, device=ids.device).expand(len(ids), -1)


def check_options(arguments: dict[str, Any], model: nn.Module, read: Read | None) -> None:
    """Refuse ways to decode that shortened prompts cannot follow."""
    if read is not None:
        if option(arguments, model, "use_cache") is False:
            raise ValueError("use_cache=False with past_key_values: leave one of them out")
        if option(arguments, model, "prefill_chunk_size") is not None:
            raise ValueError(
                "prefill_chunk_size cannot go on from past_key_values of shortened prompts: the "
                "chunks of full prompts do not line up with them; leave it out"
            )
    assisted = arguments.get("assistant_model") is not None or option(
        arguments, model, "prompt_lookup_num_tokens"
    )
    shown = [n for n in ("attentions", "hidden_states") if option(arguments, model, f"output_{n}")]
    if assisted and shown and option(arguments, model, "return_dict_in_generate"):
        raise ValueError(
            f"output_{shown[0]} with assisted decoding: the stock model cuts them up by columns of "
            "full prompts, which shortened ones lack; leave one of the two out"
        )


def record(
    output: Any,
    arguments: dict[str, Any],
    model: nn.Module,
    short: ShortInputs,
    read: Read | None,
) -> None:
    """Write down on the cache of a generation what it has read, for the next turn."""
    single = isinstance(output, Tensor)
    cache = cache_in(arguments if single else output)
    if (option(arguments, model, "num_beams") or 1) > 1:
        return forget(cache)
    sequences = output if single else output.sequences
    columns = arguments["attention_mask"].shape[1]
    if arguments["input_ids"].shape[1] < columns:  # the new turn alone
        before = read.input_ids.to(sequences.device)
        before = before.repeat_interleave(len(sequences) // len(before), dim=0)
        sequences = torch.cat([before, sequences], dim=1)
    remember(cache, sequences, short.prompts.source, columns, short.behind)
