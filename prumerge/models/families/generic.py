"""Any other model: its own features, of which some are dropped and none merged.

The stock ``get_image_features`` encodes, pools and projects everything, and what it returns is cut
down. That saves the language model's work and its KV cache; it saves nothing of the encoder, its
last block or the projector, and methods do not see the attention or the keys of the encoder. The
score stands in for it: how much rows would attend to each other by their features alone, which no
paper proposes. Methods that compare features or places (divprune, dpp, uniform, random) need none.

Tried with PaliGemma, Gemma 3, Mistral 3, Idefics 3 and SmolVLM, whose pictures are one grid, or
rows and tiles with text between.

Source: an engineering need; neither paper nor release covers it.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from prumerge.encoder import Encoded
from prumerge.models.families import Family
from prumerge.models.prompts import runs_in
from prumerge.models.slots import Packed, visual_of
from prumerge.settings import Settings

AT_ONCE = 256  # rows that are compared with all others at a time


def can_drop(model: nn.Module) -> bool:
    """Whether a model encodes pictures in a way that is known here."""
    core, config = getattr(model, "model", None), getattr(model, "config", None)
    known = hasattr(core, "get_image_features") and hasattr(config, "image_token_id")
    return known and not hasattr(core, "get_rope_index") and not _reads_ids(config)


def _reads_ids(config: Any) -> bool:
    """Whether each layer of the language model looks token ids up, which embeddings lack."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    return bool(getattr(text, "hidden_size_per_layer_input", 0))


def offer(model: nn.Module) -> str:
    """What to say of a model of no known family."""
    if hasattr(getattr(model, "model", None), "get_rope_index"):
        return ", whose positions count rows and columns (M-RoPE): of such, no other is reduced"
    if _reads_ids(getattr(model, "config", None)):
        return ", whose layers look up token ids, and visual tokens have none: it is not reduced"
    if can_drop(model):
        return ": pass generic=True, which drops tokens of any model that encodes pictures so"
    return ': load one with LlavaForConditionalGeneration.from_pretrained("...")'


def generic(model: nn.Module) -> Family:
    """What is known of a model of no family of its own."""
    taken = inspect.signature(model.model.get_image_features).parameters
    consumed = [name for name in taken if name not in ("pixel_values", "kwargs")]
    return Family(pack, check, consumed=tuple(consumed), first_layer=_words, received=True)


def check(model: nn.Module, settings: Settings) -> None:
    if settings.neighbours or settings.extra_token or settings.merging == "across":
        raise ValueError(
            "generic=True drops tokens and merges none: pass neighbours=0, extra_token=False, or a "
            "method that merges nothing, such as 'divprune'"
        )


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, pixels = model.model, arguments["pixel_values"]
    if isinstance(pixels, Packed):
        return {"image": pixels}
    if arguments.get("pixel_values_videos") is not None:
        raise ValueError("generic=True reduces pictures: leave pixel_values_videos out")
    taken = ("pixel_values", *inspect.signature(core.get_image_features).parameters)
    given = {k: v for k, v in arguments.items() if k in taken and v is not None}
    rows = core.get_image_features(**given | {"return_dict": True}).pooler_output
    parts = tuple(_seen(own.reshape(-1, own.shape[-1])) for own in rows)
    sizes = [part.scores.shape[1] for part in parts]
    runs = runs_of(arguments["input_ids"], model.config.image_token_id, sizes)
    sources = torch.arange(sum(sizes)).split(sizes)
    grids = [part.grid for part in parts]
    visuals = tuple(visual_of(own, grids, runs=cut) for own, cut in zip(sources, runs, strict=True))
    return {"image": Packed(parts, visuals, lambda sent: sent)}


def _seen(features: Float[Tensor, "rows width"]) -> Encoded:
    """What there is to know of a picture's rows; a square grid where their number is a square."""
    count = len(features)
    side = math.isqrt(count)
    grid = (side, side) if side * side == count else (1, count)
    return Encoded(features[None], features[None], attended(features)[None], grid)


def attended(features: Float[Tensor, "rows width"]) -> Float32[Tensor, " rows"]:
    """The mean attention rows would pay each by their features; sums to 1."""
    like = nn.functional.normalize(features.detach().float(), dim=-1)
    scale = math.sqrt(like.shape[1])
    shares = [(own @ like.T * scale).softmax(dim=-1).sum(dim=0) for own in like.split(AT_ONCE)]
    return functools.reduce(torch.add, shares) / len(like)


def runs_of(
    input_ids: Int[Tensor, "prompts length"], token: int, sizes: Sequence[int]
) -> list[tuple[int, ...]]:
    """Deal the last runs of placeholders out to pictures of these sizes, as text cuts them."""
    lengths = runs_in(input_ids, token)[1].tolist()
    dealt = []
    for size in reversed(sizes):
        own: list[int] = []
        while lengths and sum(own) < size:
            run = lengths.pop()
            piece = min(run, size - sum(own))
            own.insert(0, piece)
            lengths += [run - piece] if run > piece else []  # the picture before it ends there too
        dealt.insert(0, tuple(own) if sum(own) == size else (size,))
    return dealt


def _words(model: nn.Module) -> nn.Module:
    return model.get_input_embeddings()
