"""LLaVA-NeXT: the whole picture, seen small, and tiles stitched, cut to the picture, row by row.

672 x 672 pixels at the usual 336: five tiles and 2,928 slots, 48 of them newlines. Behind the
projector the stock model only copies, so reduction stands before it, as in the paper.

Source: ``LlavaNextForConditionalGeneration`` of transformers.
"""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from prumerge.models.families import Family
from prumerge.models.families.features import check_layers, feature_layers, read_tower
from prumerge.models.slots import Packed, Visual, trace, visual_of
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    core, pixels = model.model, arguments["pixel_values"]
    if isinstance(pixels, Packed):
        return {"image": pixels}
    layers = feature_layers(model, arguments, core.vision_tower)
    sizes = image_sizes(arguments)
    tiles = tiles_of(core, sizes)
    encoded = read_tower(core.vision_tower, cut(pixels, tiles), settings, layers)
    visuals = visuals_of(core, sizes, tiles, encoded.grid)
    newline = core.image_newline[None]
    return {"image": Packed((encoded,), visuals, core.multi_modal_projector, newline)}


def visuals_of(
    core: nn.Module, sizes: list[list[int]], tiles: list[int], grid: tuple[int, int]
) -> tuple[Visual, ...]:
    """How prompts show pictures of these heights and widths."""
    maps = maps_of(core, sizes, tiles, grid[0] * grid[1])
    return tuple(visual_of(own, [grid] * sum(tiles), stitched=True) for own in maps)


def maps_of(
    core: nn.Module, sizes: list[list[int]], tiles: list[int], patches: int
) -> list[Int64[Tensor, " _slots"]]:
    """Which slot shows which patch, by the stock model's own packing."""

    def stock(rows: list[Tensor], newline: Tensor) -> list[Tensor]:
        return core.pack_image_features(rows, sizes, "full", newline)[0]

    return trace(stock, tiles, patches)


def image_sizes(arguments: dict[str, Any]) -> list[list[int]]:
    """Height and width of each picture, as the processor writes them down."""
    sizes, pixels = arguments.get("image_sizes"), arguments["pixel_values"]
    if sizes is None:
        raise ValueError(
            "image_sizes is missing: pass all that the processor returns, which writes the height "
            "and width of each picture there"
        )
    sizes = torch.as_tensor(sizes).tolist()
    if pixels.ndim == 5 and len(pixels) != len(sizes):
        raise ValueError(
            f"pixel_values hold {len(pixels)} pictures and image_sizes {len(sizes)}: pass both as "
            "the processor returns them"
        )
    return sizes


def tiles_of(core: nn.Module, sizes: list[list[int]]) -> list[int]:
    """How many tiles the stock processor makes of pictures of these heights and widths."""
    side = core.config.vision_config.image_size
    return [
        image_size_to_num_patches(size, core.config.image_grid_pinpoints, side) for size in sizes
    ]


def cut(pixels: Tensor, tiles: list[int]) -> Tensor:
    """Lay the tiles of all pictures end to end, those of zeros that fill up a batch left out."""
    if pixels.ndim == 5:
        if max(tiles, default=0) > pixels.shape[1]:
            raise ValueError(
                f"image_sizes ask for {tiles} tiles and pixel_values hold {pixels.shape[1]} of "
                "each picture: use the processor saved with the model, whose image_grid_pinpoints "
                "are the model's"
            )
        return torch.cat([own[:count] for own, count in zip(pixels, tiles, strict=True)])
    if len(pixels) != sum(tiles):
        raise ValueError(
            f"image_sizes ask for {sum(tiles)} tiles ({tiles}) and pixel_values hold "
            f"{len(pixels)}: pass both as the processor returns them"
        )
    return pixels


FAMILY = Family(
    pack,
    check_layers,
    consumed=("image_sizes", "vision_feature_layer", "vision_feature_select_strategy"),
)
