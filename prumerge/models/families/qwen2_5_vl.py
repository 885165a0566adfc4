"""Qwen2-VL and Qwen2.5-VL: pictures of any size, four patches to a slot; videos frame by frame.

The encoder's merger norms patches, lays each square of 2 x 2 side by side and sends it through an
MLP. Reduction stands before that MLP, where one row is one slot, so that it runs on kept rows only.
Inside, the later encoder orders squares by windows; here, as in prompts, they are in raster order.

There is no class token. The score is the attention that a patch receives in the last block whose
attention is not cut into windows, summed over the four of a slot. Pictures do not see each other
there, nor do frames of a video, each of which merges two that were handed in. Keys are of that
block, rotated, and averaged over the four: side by side they would make two squares that show the
same, shifted by a patch, unlike each other. Neither carries gradients.

``pixel_values`` and grids are the processor's: patches of all pictures end to end, and frames, rows
and columns of patches of each.

Source: ``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration`` of
transformers; arXiv 2409.12191 and 2502.13923.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from prumerge.encoder import Encoded, device_of, gathered, needed_layers
from prumerge.models.caches import Read
from prumerge.models.families import Family
from prumerge.models.families.features import through
from prumerge.models.slots import Packed, Visual, single, visual_of
from prumerge.scores import InFloat32, at_least_float32, received_attention
from prumerge.settings import Settings

VISUALS = {
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw"),
}


def check(model: nn.Module, settings: Settings) -> None:
    if settings.positions == "compact":
        raise ValueError(
            "positions='compact' counts tokens 0, 1, 2, and the ids of this model are of frames, "
            "rows and columns (M-RoPE): pass positions='original' or 'stretched'"
        )
    _scored(model.model.visual, settings)


def _scored(visual: nn.Module, settings: Settings) -> tuple[int, int]:
    """Number the blocks of scores and keys."""
    count = len(visual.blocks)
    whole = list(getattr(visual, "fullatt_block_indexes", range(count)))
    if settings.score != "received":
        raise ValueError(
            f"score={settings.score!r} needs a class token and {type(visual).__name__} has none: "
            "use score='received'"
        )
    named = {name: getattr(settings, name) for name in ("score_layer", "key_layer")}
    last = max(whole, default=count - 1)
    named = {name: last if layer is None else layer for name, layer in named.items()}
    _, score, key = needed_layers(settings.with_changes(**named), -1, count)
    if score not in whole:
        raise ValueError(
            f"score_layer={named['score_layer']}: this block attends within windows, whose scores "
            f"do not compare; choose one of {whole}, which see whole pictures"
        )
    return score, key


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    merger = model.model.visual.merger

    def rows(last: Tensor, _: Sequence[Tensor]) -> Tensor:
        return through(merger.ln_q, last).view(-1, merger.hidden_size)

    return packed_of(model, arguments, settings, rows, merger.mlp)


def packed_of(
    model: nn.Module,
    arguments: dict[str, Any],
    settings: Settings,
    rows: Callable[[Tensor, Sequence[Tensor]], Tensor],
    project: Callable[[Tensor], Tensor],
    *,
    beside: Callable[[Tensor], Tensor] | None = None,
    apart: bool = False,
) -> dict[str, Packed]:
    """Encode what a call shows.

    Args:
        rows: Makes features, a row per square, of what comes to the merger, and of what comes to
            those of earlier blocks, if there are any.
        project, beside: As for :class:`prumerge.models.slots.Packed`.
        apart: Whether text stands between the frames of a video.
    """
    packed = {}
    for kind, (name, grid) in VISUALS.items():
        shown = arguments.get(name)
        if isinstance(shown, Packed):
            packed[kind] = shown
        elif isinstance(shown, Encoded):
            packed[kind] = dataclasses.replace(single(shown, project), beside=beside)
        elif shown is not None:
            visual = model.model.visual
            grids = _grids(shown, arguments.get(grid), (name, grid), visual.spatial_merge_size)
            frames = _frames(grids, visual.spatial_merge_size)
            parts = tuple(_read(visual, shown, grids, settings, rows))
            packed[kind] = Packed(parts, _visuals(frames, apart), project, beside=beside)
    return packed


def _grids(
    pixels: Tensor, grid: Any, names: tuple[str, str], side: int
) -> Int[Tensor, "visuals 3"]:
    """Frames, rows and columns of patches of each picture or video."""
    if grid is None:
        raise ValueError(
            f"{names[1]} is missing: pass all that the processor returns, which writes frames, "
            "rows and columns of patches there"
        )
    grid = torch.as_tensor(grid)
    counted = int(grid.prod(1).sum()) if grid.ndim == 2 and grid.shape[1] == 3 else None
    if counted != len(pixels) or bool((grid[:, 1:] % side).any()):
        raise ValueError(
            f"{names[1]} {grid.tolist()} and {len(pixels)} patches in {names[0]} do not belong "
            f"together: there must be frames x rows x columns, rows and columns multiples of {side}"
        )
    return grid


class _Passed(nn.Module):
    """Stands in for a part of the encoder, and remembers what was handed to it."""

    def __init__(self, part: Callable[..., Tensor]) -> None:
        super().__init__()
        self.part = part
        self.given: tuple[Tensor, dict[str, Any]] | None = None

    def forward(self, hidden: Tensor, **options: Any) -> Tensor:
        self.given = hidden, options
        return self.part(hidden, **options)


def _frames(grid: Int[Tensor, "visuals 3"], side: int) -> list[list[tuple[int, int]]]:
    """Rows and columns of squares of each frame, for each picture or video."""
    return [[(high // side, wide // side)] * count for count, high, wide in grid.tolist()]


def _visuals(frames: Sequence[Sequence[tuple[int, int]]], apart: bool) -> tuple[Visual, ...]:
    """How prompts show pictures and videos of frames of these sizes."""
    grids = list(itertools.chain.from_iterable(frames))
    runs = [tuple(high * wide for high, wide in own) for own in frames]
    sources = torch.arange(sum(map(sum, runs))).split([sum(own) for own in runs])
    return tuple(
        visual_of(source, grids, runs=own if apart else None)
        for source, own in zip(sources, runs, strict=True)
    )


def _read(
    visual: nn.Module,
    pixels: Float[Tensor, "patches pixels"],
    grid: Int[Tensor, "visuals 3"],
    settings: Settings,
    featured: Callable[[Tensor, Sequence[Tensor]], Tensor],
) -> list[Encoded]:
    """Encode frames as far as the merger's MLP; neighbours of one size stay together."""
    layers, square = _scored(visual, settings), visual.spatial_merge_size**2
    hidden, early, seen, order = _run(visual, pixels, grid, layers)
    read = {number: _attention(visual.blocks[number], *seen[number]) for number in set(layers)}
    scores = read[layers[0]][0].view(-1, square).sum(1)
    keys = read[layers[1]][1].unflatten(0, (-1, square)).mean(1)
    features, heads = featured(hidden, early), visual.blocks[0].attn.num_heads
    device, parts, start = features.device, [], 0
    features, keys, scores = (own.to(device)[order.to(device)] for own in (features, keys, scores))
    frames = itertools.chain.from_iterable(_frames(grid, visual.spatial_merge_size))
    for size, some in itertools.groupby(frames):
        count, each = len(list(some)), size[0] * size[1]
        own = slice(start, start := start + count * each)
        rows = (values[own].unflatten(0, (count, each)) for values in (features, keys, scores))
        parts.append(Encoded(*rows, size, heads=heads))
    return parts


def _run(
    visual: nn.Module, pixels: Tensor, grid: Tensor, layers: Sequence[int]
) -> tuple[Tensor, list[Tensor], dict[int, Any], Tensor]:
    """What comes to the mergers and to some blocks, and where the squares of prompts are in it.

    The stock forward pass runs in a copy of the encoder that has the same parts. Only its mergers
    number their squares, and so tell how it puts them in order.
    """

    def number(hidden: Tensor) -> Tensor:
        squares = len(hidden) // visual.spatial_merge_size**2
        return torch.arange(squares, device=hidden.device)[:, None]

    blocks = {layer: _Passed(visual.blocks[layer]) for layer in layers}
    mergers = [_Passed(number) for _ in getattr(visual, "deepstack_merger_list", ())]
    last, twin, first = _Passed(number), copy.copy(visual), visual.patch_embed.proj
    parts = {
        "blocks": nn.ModuleList(blocks.get(i, own) for i, own in enumerate(visual.blocks)),
        "merger": last,
        "deepstack_merger_list": nn.ModuleList(mergers),
    }
    # Hooks that capture outputs would stay on the parts, which are shared.
    vars(twin).update(_modules=visual._modules | parts, _output_capturing_hooks_installed=True)
    pixels, grid = pixels.to(device_of(first), visual.dtype), grid.to(device_of(first))
    order = type(visual).forward(twin, pixels, grid_thw=grid, return_dict=True).pooler_output
    early = [own.given[0] for own in mergers]
    return last.given[0], early, {i: own.given for i, own in blocks.items()}, order[:, 0]


def _attention(
    block: nn.Module, hidden: Tensor, options: dict[str, Any]
) -> tuple[Float32[Tensor, " patches"], Float[Tensor, "patches width"]]:
    """The attention that patches receive in a block, and their keys; neither with gradients."""
    attention = block.attn
    with torch.autocast(hidden.device.type, enabled=False), InFloat32(), torch.no_grad():
        with gathered(block, attention.qkv):
            mixed = attention.qkv(block.norm1(at_least_float32(hidden.detach())))
        queries, keys, _ = mixed.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
        queries, keys = apply_rotary_pos_emb_vision(queries, keys, *options["position_embeddings"])
        queries, keys, scores, start = queries.flatten(1), keys.flatten(1), [], 0
        for length, some in itertools.groupby(options["cu_seqlens"].diff().tolist()):
            count = len(list(some))
            own = slice(start, start := start + count * length)
            pair = (values[own].unflatten(0, (count, length)) for values in (queries, keys))
            scores.append(received_attention(*pair, attention.num_heads).flatten())
    return torch.cat(scores), keys


def places(
    model: nn.Module, arguments: dict[str, Any], read: Read | None
) -> Int[Tensor, "3 prompts length"]:
    """Position ids of full prompts, by the stock model; what a cache has read needs none."""
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    start = 0 if read is None else read.columns
    new, real = ids[:, ids.shape[1] - (mask.shape[1] - start) :], mask[:, start:]
    kinds = (new == model.config.image_token_id) + 2 * (new == model.config.video_token_id)
    about = {name: arguments.get(name) for name in CONSUMED}
    about = {name: v if v is None else torch.as_tensor(v) for name, v in about.items()}
    own, _ = model.model.get_rope_index(new, mm_token_type_ids=kinds, attention_mask=real, **about)
    if read is None:
        return own
    behind = read.behind
    if behind is None:  # words alone
        behind = mask[:, :start].sum(1, keepdim=True).expand(-1, 2)
    behind = behind.to(own)
    before = (behind[:, 1:] - 1).expand(3, -1, start)
    return torch.cat([before, own + behind[:, :1]], dim=-1)


def first_layer(model: nn.Module) -> nn.Module:
    return model.model.visual.patch_embed.proj


CONSUMED = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
FAMILY = Family(
    pack,
    check,
    pixels={kind: (name,) for kind, (name, _) in VISUALS.items()},
    consumed=CONSUMED,
    first_layer=first_layer,
    received=True,
    places=places,
    projector=("visual.merger",),
)
