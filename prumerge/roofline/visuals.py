"""What a prompt shows of one picture or clip: tiles or frames to encode, visual tokens, markers.

It follows from a model's config and, where pictures are cut into tiles or take any number of
patches, from a picture's size, by the stock model's own packing of tiles, or its processor's own
rule of sizes. Weights are not needed.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from prumerge.roofline.shapes import QWEN, read_config, read_shape, sides

_PACKED = {
    "llava_next": "LlavaNextModel",
    "llava_next_video": "LlavaNextVideoModel",
    "llava_onevision": "LlavaOnevisionModel",
}
_WHOLE = ("llava", "vipllava", "video_llava")
_FRAMES = ("video_llava", "llava_next_video", "llava_onevision")
# Least and most pixels by default, of all Qwens' Qwen2VLImageProcessor, and of a frame or of all
# frames of a clip: of Qwen2VLVideoProcessor, which wants torchvision, and Qwen3VLVideoProcessor.
_PICTURE = (56 * 56, 1280 * 28 * 28)
_CLIP = {"qwen2": (128 * 28 * 28, 768 * 28 * 28), "qwen3": (128 * 32 * 32, 768 * 32 * 32)}


@dataclass(frozen=True)
class Shown:
    """What a prompt shows of one picture or clip, before any reduction.

    Args:
        tiles: Tiles or frames that the vision tower encodes, each by itself; of a Qwen's clip pairs
            of frames, which are one.
        tokens: Visual tokens.
        markers: Newlines and class tokens among them, which carry nothing of the place they are at.
        grid: Rows and columns of patches of each tile, where they are not always as many (Qwen):
            what :func:`prumerge.roofline.estimate_costs` takes.
    """

    tiles: int
    tokens: int
    markers: int = 0
    grid: tuple[int, int] | None = None

    @property
    def slots(self) -> int:
        """Placeholders of the prompt."""
        return self.tokens + self.markers


def shown_by(
    model: Any,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    tiles: int | None = None,
    pixels: tuple[int, int] | None = None,
) -> Shown:
    """Count what one picture, or one clip, is in a model's prompt.

    Args:
        model: As for :func:`prumerge.roofline.read_shape`.
        size: Height and width of a picture or frame in pixels, where they decide how it is cut into
            tiles (LLaVA-NeXT, LLaVA-NeXT-Video, LLaVA-OneVision) or how many patches it has (Qwen).
        frames: Of a clip, where the model takes some (Video-LLaVA, the latter two, Qwen: those that
            its processor leaves); None for a picture.
        tiles: Of a picture or clip, where the processor decides about them (InternVL).
        pixels: Least and most pixels that a Qwen's processor leaves a picture: its ``size``,
            ``shortest_edge`` and ``longest_edge``; of a clip that of its video processor, a frame's
            (Qwen2-VL, Qwen2.5-VL) or all frames' (Qwen3-VL). None takes the default of the
            processor's class. Checkpoints mostly set others, and the config does not tell, so large
            and small pictures are then not what a checkpoint makes of them.

    Raises:
        ValueError: If the family is not known here, or what decides is missing.

    Example:
        >>> shown_by("7b")
        Shown(tiles=1, tokens=576, markers=0, grid=None)
    """
    config = read_config(model)
    if not hasattr(config, "vision_config"):  # a ModelShape, or a language model alone
        vision = read_shape(config).vision
        if vision is None:
            raise ValueError("a language model alone shows no pictures: name a model with a tower")
        if vision.merger:
            raise ValueError(
                "a ModelShape says no edge of patches, which decides here: pass a config"
            )
        return Shown(1, vision.patches)
    kind = config.model_type
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if kind in QWEN:
        return _canvas(config, size, frames, pixels)
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
        known = ", ".join([*_WHOLE, *_PACKED, "internvl", *QWEN])
        raise ValueError(
            f"how many visual tokens a {kind!r} shows is not known here, only of {known}: count "
            "the placeholders that its processor makes"
        )
    return _stitched(config, list(_known(size, kind)))


def _known(size: tuple[int, int] | None, kind: str) -> tuple[int, int]:
    if size is None:
        raise ValueError(
            f"what a {kind!r} makes of a picture depends on its size: pass size=(height, width) in "
            "pixels"
        )
    return size


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
            f"a {kind!r} shows no frames here, only {', '.join([*_FRAMES, *QWEN])}: leave frames "
            "out"
        )
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


def _canvas(
    config: Any, size: tuple[int, int] | None, frames: int | None, pixels: tuple[int, int] | None
) -> Shown:
    """Let the stock processors' rules resize a picture, or the frames of a clip.

    Frames are encoded two by two, an odd last one twice; patches are merged square by square.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_clip

    vision, family = config.vision_config, config.model_type[:5]
    patch, side, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    height, width = _known(size, config.model_type)
    limits = pixels or (_PICTURE if frames is None else _CLIP[family])
    if frames is None or family == "qwen2":
        resized = smart_resize(height, width, patch * side, *limits)
    else:
        resized = of_clip(frames, height, width, pair, patch * side, *limits)
    tiles = -(-(frames or 1) // pair)
    rows, columns = (edge // patch for edge in resized)
    return Shown(tiles, tiles * rows * columns // side**2, grid=(rows, columns))
