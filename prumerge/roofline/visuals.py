"""What a prompt shows of one picture or clip: tiles or frames to encode, visual tokens, markers.

It follows from a model's config and, where pictures are cut into tiles, from a picture's size, by
the stock model's own packing of tiles. Weights are not needed.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from prumerge.roofline.shapes import read_config, read_shape, sides

_PACKED = {
    "llava_next": "LlavaNextModel",
    "llava_next_video": "LlavaNextVideoModel",
    "llava_onevision": "LlavaOnevisionModel",
}
_WHOLE = ("llava", "vipllava", "video_llava")
_FRAMES = ("video_llava", "llava_next_video", "llava_onevision")


@dataclass(frozen=True)
class Shown:
    """What a prompt shows of one picture or clip, before any reduction.

    Args:
        tiles: Tiles or frames that the vision tower encodes.
        tokens: Visual tokens.
        markers: Newlines and class tokens among them, which carry nothing of the place they are at.
    """

    tiles: int
    tokens: int
    markers: int = 0

    @property
    def slots(self) -> int:
        """Placeholders of the prompt."""
        return self.tokens + self.markers


def shown_by(
    model: Any,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    tiles: int | None = None,
) -> Shown:
    """Count what one picture, or one clip, is in a model's prompt.

    Args:
        model: As for :func:`prumerge.roofline.read_shape`.
        size: Height and width of a picture in pixels, where they decide how it is cut into tiles
            (LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision).
        frames: Of a clip, where the model takes some (Video-LLaVA and the latter two); None for a
            picture.
        tiles: Of a picture or clip, where the processor decides about them (InternVL).

    Raises:
        ValueError: If the family is not known here, or what decides is missing.

    Example:
        >>> shown_by("7b")
        Shown(tiles=1, tokens=576, markers=0)
    """
    config = read_config(model)
    if not hasattr(config, "vision_config"):  # a ModelShape, or a language model alone
        vision = read_shape(config).vision
        if vision is None:
            raise ValueError("a language model alone shows no pictures: name a model with a tower")
        return Shown(1, vision.patches)
    kind = config.model_type
    if frames is not None:
        return _clip(config, frames)
    if kind == "internvl":
        if tiles is None:
            raise ValueError(
                "how many tiles an InternVL gets of a picture its processor decides, not its "
                "config: pass tiles=1 to 13, the whole picture among them"
            )
        return Shown(tiles, tiles * (_patches(config) // int(1 / config.downsample_ratio) ** 2))
    if kind in _WHOLE:
        return Shown(1, _patches(config))
    if kind not in _PACKED:
        known = ", ".join([*_WHOLE, *_PACKED, "internvl"])
        raise ValueError(
            f"how many visual tokens a {kind!r} shows is not known here, only of {known}: count "
            "the placeholders that its processor makes"
        )
    if size is None:
        raise ValueError(
            f"how a {kind!r} cuts a picture into tiles depends on its size: pass size=(height, "
            "width) in pixels"
        )
    return _stitched(config, list(size))


def _patches(config: Any) -> int:
    """Patches of one tile or frame."""
    (height, width), (rows, columns) = (
        sides(getattr(config.vision_config, f"{name}_size")) for name in ("image", "patch")
    )
    return (height // rows) * (width // columns)


def _clip(config: Any, frames: int) -> Shown:
    kind = config.model_type
    if kind not in _FRAMES:
        raise ValueError(
            f"a {kind!r} shows no frames here, only {', '.join(_FRAMES)}: leave frames out"
        )
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    side = config.vision_config.image_size // config.vision_config.patch_size
    if kind == "video_llava":  # each frame behind its class token
        return Shown(frames, frames * side * side, frames)
    if kind == "llava_next_video":
        return Shown(frames, frames * (side // config.spatial_pool_stride) ** 2)
    return Shown(frames, frames * (-(-side // 2)) ** 2, 1)  # one newline behind all


def _stitched(config: Any, size: list[int]) -> Shown:
    """Let the stock model pack row numbers, with -1 as newline."""
    import torch
    import transformers
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    vision, kind = config.vision_config, config.model_type
    tiles = image_size_to_num_patches(size, config.image_grid_pinpoints, vision.image_size)
    patches = (vision.image_size // vision.patch_size) ** 2
    rows = torch.zeros(tiles, patches, 1)
    how = {"vision_feature_select_strategy": "full"}
    if kind == "llava_onevision":
        how = {"vision_aspect_ratio": config.vision_aspect_ratio}
    pack = getattr(transformers, _PACKED[kind]).pack_image_features
    newline = rows.new_full((1,), -1)
    (packed,), _ = pack(
        SimpleNamespace(config=config), [rows], [size], image_newline=newline, **how
    )
    markers = int((packed < 0).sum())
    return Shown(tiles, len(packed) - markers, markers)
