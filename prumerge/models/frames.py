"""Frames of clips for Qwen2-VL, Qwen2.5-VL, Qwen3-VL and InternVL, prepared by Pillow.

Their stock processors write prompts, placeholders and times. What prepares frames in them wants
torchvision; the classes here stand in for it, with the sizes and patches of the stock ones, and
with Pillow's pixels, as pictures have here. All frames of a clip have one size.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_clip
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import make_batched_metadata, make_batched_videos


class InternVLFrames(CLIPImageProcessorPil):
    """Frames as they are, resized: ``[clips, frames, 3, height, width]``."""

    size: ClassVar = {"height": 384, "width": 384}
    do_center_crop = False

    def __call__(self, videos: Sequence[Any], **options: Any) -> dict[str, Any]:
        """Take what the stock class takes; frames are not sampled again."""
        clips, about = _clips(videos, **options)
        pixels = [self.preprocess(list(c), return_tensors="pt")["pixel_values"] for c in clips]
        return {"pixel_values_videos": torch.stack(pixels)} | about


class Qwen2VLFrames(Qwen2VLImageProcessorPil):
    """Patches of ``temporal_patch_size`` frames each; the last frame fills up an odd clip."""

    # pixels of a frame
    size: ClassVar = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}

    def __call__(self, videos: Sequence[Any], **options: Any) -> dict[str, Any]:
        """Take what the stock class takes; frames are not sampled again."""
        clips, about = _clips(videos, **options)
        pixels, grids = zip(*map(self._patches, clips), strict=True)
        grids = torch.tensor(grids)
        return {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": grids} | about

    def _patches(self, clip: Any) -> tuple[torch.Tensor, list[int]]:
        """Take those of each frame from the stock class for pictures, which repeats a frame."""
        height, width = self.fitted(*clip.shape[:3])
        frames = [Image.fromarray(own).resize((width, height), self.resample) for own in clip]
        given = self.preprocess(frames, do_resize=False, return_tensors="pt")
        _, *grid = given["image_grid_thw"][0].tolist()
        deep, square = self.temporal_patch_size, self.patch_size**2
        patches = given["pixel_values"].view(len(clip), math.prod(grid), -1, deep, square)
        patches = patches[:, :, :, 0]
        last = patches[-1:].expand(-len(clip) % deep, -1, -1, -1)
        patches = torch.cat([patches, last]).unflatten(0, (-1, deep))
        shown = patches.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1)
        return shown, [len(patches), *grid]

    def fitted(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of each frame in pixels."""
        size, factor = self.size, self.patch_size * self.merge_size
        return smart_resize(height, width, factor, size["shortest_edge"], size["longest_edge"])


class Qwen3VLFrames(Qwen2VLFrames):
    """The same with bounds on the pixels of all frames together."""

    size: ClassVar = {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}
    patch_size = 16
    image_mean, image_std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

    def fitted(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of each frame in pixels; one frame alone is a ValueError."""
        factor, deep = self.patch_size * self.merge_size, self.temporal_patch_size
        if frames < deep:
            raise ValueError(f"a clip of {frames} frame: a Qwen3-VL takes {deep} or more")
        least, most = self.size["shortest_edge"], self.size["longest_edge"]
        return of_clip(frames, height, width, deep, factor, least, most)


FRAMES_OF = {
    "internvl": InternVLFrames,
    "qwen2_vl": Qwen2VLFrames,
    "qwen2_5_vl": Qwen2VLFrames,
    "qwen3_vl": Qwen3VLFrames,
    "qwen3_vl_moe": Qwen3VLFrames,
}
"""By the ``model_type`` of a config."""


def frames_for(kind: str, source: str, revision: str) -> BaseImageProcessor:
    """Read what prepares a checkpoint's frames; entries it lacks are those of the stock class."""
    found, _ = BaseVideoProcessor.get_video_processor_dict(source, revision=revision)
    if found.get("cap_pixels_per_frame"):
        raise ValueError(
            "its settings for videos have cap_pixels_per_frame, which is not done here"
        )
    made = FRAMES_OF[kind]
    known = made.valid_kwargs.__annotations__
    return made(**{name: value for name, value in found.items() if name in known})


def _clips(
    videos: Sequence[Any],
    video_metadata: Any = None,
    do_sample_frames: bool | None = None,
    return_metadata: bool | None = None,
    return_tensors: Any = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Clips as arrays ``[frames, height, width, 3]``, and what is told about them."""
    if do_sample_frames:
        raise ValueError(
            "do_sample_frames=True, and frames are taken as they are here: choose some with "
            "prumerge.models.videos.clip_inputs"
        )
    clips = make_batched_videos(videos)
    return clips, {"video_metadata": make_batched_metadata(clips, video_metadata)}
