"""Generation from shortened prompts with the stock ``generate``, which knows nothing of them.

``generate`` gets shortened token ids, so penalties on repeated tokens, lengths and the KV cache all
see the prompt that is really sent. Only where it prepares the inputs of a forward pass are the
prompt's ids replaced by embeddings, with the visual tokens in their places. Handing the embeddings
to ``generate`` itself would be shorter, but it then forces the cache on, refuses chunked prefill
and hides the prompt from the penalties.

Source: an engineering need of stock ``transformers`` models; neither paper nor release covers it.
"""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

STEP = "prepare_inputs_for_generation"


@dataclass(eq=False)
class PromptFeeder:
    """Replace the prompt's ids by its embeddings in every forward pass that reads the prompt.

    The first pass reads it; with the KV cache off every pass does, with chunked prefill several
    passes read a piece each, and beams or several returned sequences read it in adjacent copies.

    Attributes:
        model: The model that generates.
        embeddings: The shortened prompts, embedded, visual tokens in place.
        continuation: What to add to the position ids after the prompt, one row per prompt, when
            position ids have gaps and the prompt ends with a picture. None adds nothing.
    """

    model: nn.Module
    embeddings: Float[Tensor, "prompts short width"]
    continuation: Int[Tensor, "prompts 1"] | None = None

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Feed the prompt within this block. One generation at a time per model."""
        stock = getattr(self.model, STEP)
        outer = vars(self.model).get(STEP)
        step = functools.partial(self._prepare, stock)
        setattr(self.model, STEP, functools.update_wrapper(step, stock))
        try:
            yield
        finally:
            delattr(self.model, STEP)
            if outer is not None:
                setattr(self.model, STEP, outer)

    def _prepare(self, stock: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = stock(input_ids, *args, **kwargs)
        ids, cache = inputs["input_ids"], inputs.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        prompt = self.embeddings[:, start : start + ids.shape[1]]
        copies = len(ids) // len(prompt)
        if prompt.shape[1]:
            answer = self.model.get_input_embeddings()(ids[:, prompt.shape[1] :])
            prompt = prompt.repeat_interleave(copies, dim=0)
            inputs["inputs_embeds"] = torch.cat([prompt, answer], dim=1)
            inputs["input_ids"] = None
        if self.continuation is not None:
            move = self.continuation.repeat_interleave(copies, dim=0)
            after = torch.arange(ids.shape[1], device=move.device) >= prompt.shape[1]
            inputs["position_ids"] = inputs["position_ids"] + move * after
        if cache is None and inputs.get("attention_mask") is None:
            # Without mask and cache, gaps in the position ids would be read as packed sequences.
            inputs["attention_mask"] = torch.ones_like(ids)
        return inputs


class Options:
    """Generation options as ``generate`` resolves them: call, then config handed in, then model's.

    Args:
        kwargs: Keyword arguments of the call. Changed in place by :meth:`shift_lengths`.
        model: The model that generates.
    """

    def __init__(self, kwargs: dict[str, Any], model: nn.Module) -> None:
        self.kwargs = kwargs
        self.model = model

    def get(self, name: str) -> Any:
        """The value ``generate`` will use, or None."""
        configs = (self.kwargs.get("generation_config"), self.model.generation_config)
        values = (self.kwargs.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    def shift_lengths(self, removed: int) -> None:
        """Lower total lengths by the columns the prompt lost, so that as many tokens are new.

        Args:
            removed: Columns of the full prompts minus columns of the shortened ones.
        """
        for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = self.get(total)
            if not value or not removed or self.get(new) is not None:
                continue
            config = self.kwargs.get("generation_config")
            if self.kwargs.get(total) is None and getattr(config, total, None) is not None:
                self.kwargs["generation_config"] = config = copy.deepcopy(config)
                setattr(config, total, max(value - removed, 0))
            else:
                self.kwargs[total] = max(value - removed, 0)

    def mask(self, input_ids: Int[Tensor, "prompts length"]) -> Int[Tensor, "prompts length"]:
        """The attention mask ``generate`` infers when none is given: pad tokens are not real.

        Args:
            input_ids: Token ids of the full prompts.

        Returns:
            1 for real tokens. All 1 where no pad token is known or it also ends sequences.
        """
        pad, end = self.get("pad_token_id"), self.get("eos_token_id")
        ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
        if pad is None or int(pad) in ends:
            return torch.ones_like(input_ids)
        return (input_ids != pad).to(input_ids.dtype)


def restore_prompts(
    sequences: Int[Tensor, "rows generated"],
    input_ids: Int[Tensor, "prompts length"],
    short: int,
) -> Int[Tensor, "rows restored"]:
    """Put the full prompts back in front of the new tokens.

    Args:
        sequences: What ``generate`` returned, each row beginning with its shortened prompt.
        input_ids: Token ids of the full prompts, as the caller handed them in.
        short: Columns of the shortened prompts.

    Returns:
        The full prompt and the new tokens of each row, several rows per prompt side by side.
    """
    prompts = input_ids.to(sequences.device)
    prompts = prompts.repeat_interleave(len(sequences) // len(prompts), dim=0)
    return torch.cat([prompts, sequences[:, short:]], dim=1)
