"""Inputs of models that see clips: from the frames of videos, and words, to what they are given.

VideoProcessor   what stock ``VideoLlavaProcessor`` is, which torchvision alone can construct
load_video       a Video-LLaVA, or another model that is shown clips, and its processor, by name
load_clips       what prepares clips for a model that is loaded already
clip_inputs      a question about evenly spaced frames, with their times where prompts hold them

What reads frames from files is in :mod:`prumerge.models.clip_files`.
"""

import importlib
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    VideoLlavaConfig,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.video_processing_utils import BaseVideoProcessor

from prumerge.models.clip_files import (
    FRAMES,
    SHOWN_MS,
    Frame,
    evenly_spaced,
    tells_times,
)
from prumerge.models.clip_files import open_frames as open_frames  # its public place
from prumerge.models.frames import FRAMES_OF, frames_for
from prumerge.models.loading import (
    check_device,
    find_precision,
    find_source,
    load,
    load_processor,
    load_weights,
    told,
)
from prumerge.models.preprocessing import to_rgb
from prumerge.roofline import shown_by

IMAGE, VIDEO = "<image>", "<video>"
FPS = 24.0
"""Frames per second that stock processors assume of a clip that does not tell."""

_CLIPS = {
    "video_llava": "VideoLlava",
    "llava_next_video": "LlavaNextVideo",
    "llava_onevision": "LlavaOnevision",
}
"""What transformers' names of models that are shown clips begin with, by ``model_type``."""
_FORM = "size crop_size do_resize do_center_crop do_rescale rescale_factor do_normalize".split()
_FORM += "image_mean image_std resample".split()


class VideoProcessor:
    """Prepares prompts with videos, or pictures, for Video-LLaVA, without torchvision.

    Its pixels and ids are those of the stock processor. Each ``<video>`` becomes a slot for every
    token of every frame, class tokens included; each ``<image>`` one for every patch. For another
    model ``clip_slots`` says how many slots a clip of so many frames has; pictures are none of its.
    """

    image_token, video_token = IMAGE, VIDEO

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        patch_size: int = 14,
        chat_template: str | None = None,
        clip_slots: Callable[[int], int] | None = None,
    ) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.patch_size, self.clip_slots = patch_size, clip_slots
        self.chat_template = chat_template or tokenizer.chat_template

    @property
    def image_token_id(self) -> int:
        """The id of a picture's placeholders."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @property
    def video_token_id(self) -> int:
        """The id of a video's."""
        return self.tokenizer.convert_tokens_to_ids(self.video_token)

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        height, width = (self.image_processor.crop_size[edge] for edge in ("height", "width"))
        return (height // self.patch_size) * (width // self.patch_size)

    def __call__(
        self,
        text: Sequence[str],
        videos: Sequence[Sequence[Frame]] = (),
        images: Sequence[Frame] = (),
        **options: Any,
    ) -> BatchFeature:
        """Return ids, mask and pixels; ``options`` are the tokenizer's, tensors the default.

        Raises:
            ValueError: If marks and videos differ in number, a frame is no picture, a video has no
                frames, or videos of a batch have different numbers of them.
        """
        text = [text] if isinstance(text, str) else list(text)
        _check_count(text, self.video_token, len(videos))
        _check_count(text, self.image_token, len(images))
        pixels, slots = {}, {}
        if len(videos):
            pixels["pixel_values_videos"] = self.video_pixels(videos)
            count = self.clip_slots or (lambda frames: frames * (1 + self.patches))
            slots[self.video_token] = count(len(videos[0]))
        if len(images):
            if self.clip_slots:
                raise ValueError("clips alone are prepared here; pictures by the stock processor")
            slots[self.image_token] = self.patches
            pixels["pixel_values"] = self._pixels([_picture(i, n) for n, i in enumerate(images)])
        for mark, count in slots.items():
            text = [prompt.replace(mark, mark * count) for prompt in text]
        encoding = self.tokenizer(text, **{"return_tensors": "pt"} | options)
        return BatchFeature({**encoding, **pixels})

    def video_pixels(
        self, videos: Sequence[Sequence[Frame]]
    ) -> Float[Tensor, "videos frames 3 height width"]:
        """Return the videos' frames, resized, cut and normalised as the stock processor does."""
        counts = [len(video) for video in videos]
        if 0 in counts:
            empty = counts.index(0)
            raise ValueError(f"video {empty} has no frames: give it pictures, or leave it out")
        check_frames(counts)
        frames = [
            _picture(frame, place, f" of video {number}")
            for number, video in enumerate(videos)
            for place, frame in enumerate(video)
        ]
        return self._pixels(frames).unflatten(0, (len(videos), counts[0]))

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.image_processor(pictures, return_tensors="pt")["pixel_values"]

    def apply_chat_template(self, conversation: list[dict], **options: Any) -> str:
        """Return a conversation as the prompt that the model was trained on."""
        if self.chat_template is None:
            raise ValueError("the processor has no chat template: write the prompt out, with marks")
        return self.tokenizer.apply_chat_template(
            conversation, chat_template=self.chat_template, tokenize=False, **options
        )

    def batch_decode(self, ids: Tensor, **options: Any) -> list[str]:
        """Turn ids into words, as the tokenizer does."""
        return self.tokenizer.batch_decode(ids, **options)

    def save_pretrained(self, folder: Path) -> None:
        """Write what :func:`load_video` reads beside the weights."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(folder)


AnyProcessor = ProcessorMixin | VideoProcessor


def video_prompt(processor: AnyProcessor, question: str) -> str:
    """Put a question behind one video as the chat template says."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    return processor.apply_chat_template(conversation, add_generation_prompt=True)


def check_frames(counts: Iterable[int]) -> None:
    """Refuse videos of unequal numbers of frames in one batch."""
    if len(found := sorted(set(counts))) > 1:
        raise ValueError(
            f"videos of {' and '.join(map(str, found))} frames in one batch, which takes equally "
            f"many of each; evenly_spaced(video, {found[0]}) chooses some"
        )


def clip_inputs(
    processor: AnyProcessor,
    question: str,
    frames: Sequence[Frame],
    count: int = FRAMES,
    fps: int | float | None = None,
) -> BatchFeature:
    """Prepare a question about evenly spaced frames of a clip, for a model of :func:`load_video`.

    Prompts of Qwen3-VL hold the times of frames in words, position ids of Qwen2.5-VL how long a
    pair of frames lasts, by the stock processors' rules. Each frame has the time that it had in the
    whole clip: the clip's own, where all of a moving picture's frames last for more than 0 ms.

    Args:
        frames: All of the clip.
        count: How many are shown; of a shorter clip all are.
        fps: Frames per second of a clip that tells no times; None is the stock processors' 24.

    Raises:
        ValueError: If there are no frames, one is no picture, their sizes differ where the model
            takes one, or ``fps`` is not above 0 or given where prompts hold no times.
    """
    fps = frame_rate(processor, fps)
    if not len(frames):
        raise ValueError("a clip of no frames: give it pictures, or leave it out")
    places = evenly_spaced(range(len(frames)), min(count, len(frames)))
    shown = [_picture(frames[place], place, " of the clip") for place in places]
    sizes = sorted({picture.size for picture in shown})
    if len(sizes) > 1 and not isinstance(processor, VideoProcessor):
        told = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
        raise ValueError(f"frames of {told} pixels in one clip: resize or crop them to one size")
    times = {} if fps is None else {"video_metadata": [_times(frames, places, fps)]}
    prompt = video_prompt(processor, question)
    return processor(text=prompt, videos=[shown], return_tensors="pt", **times)


def frame_rate(processor: AnyProcessor, fps: Any) -> float | None:
    """Return what is assumed of clips that tell no times, None where prompts hold none.

    See :func:`clip_inputs` for ``fps``, and for what is refused.
    """
    writes_times = transformers.Qwen2_5_VLProcessor, transformers.Qwen3VLProcessor
    timed = isinstance(processor, writes_times)
    if fps is None:
        return FPS if timed else None
    if isinstance(fps, bool) or not isinstance(fps, numbers.Real) or not 0 < fps < math.inf:
        raise ValueError(
            f"fps={fps!r} is no frame rate: give frames per second above 0, such as 24"
        )
    if not timed:
        raise ValueError(f"fps={fps}, and this model's prompts hold no times: leave fps out")
    return float(fps)


def _times(frames: Sequence[Frame], places: Sequence[int], fps: float) -> dict[str, Any]:
    """What stock processors call the metadata of a video, of which some frames were chosen."""
    if not tells_times(frames):
        return {"fps": fps, "total_num_frames": len(frames), "frames_indices": list(places)}
    # As if there were a frame each millisecond: they last differently long.
    shown = [frame.info[SHOWN_MS] for frame in frames]
    begins, lasts = [round(shown[place][0]) for place in places], shown[-1][1] - shown[0][0]
    return {"fps": 1000.0, "total_num_frames": round(lasts), "frames_indices": begins}


def _picture(frame: Any, place: int, where: str = "") -> Image.Image:
    kind = "frame" if where else "picture"
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3:
        frame = Image.fromarray(frame)
    if not isinstance(frame, Image.Image):
        raise ValueError(
            f"{kind} {place}{where} is no picture but {type(frame).__name__}: give a Pillow image, "
            "or an array [height, width, 3] of 8-bit values"
        )
    try:
        return to_rgb(frame)
    except (OSError, ValueError) as error:
        raise ValueError(f"{kind} {place}{where} cannot be read: {error}") from error


def _check_count(text: list[str], mark: str, given: int) -> None:
    marks = sum(prompt.count(mark) for prompt in text)
    if marks != given:
        raise ValueError(f"the prompts have {marks} marks {mark} and {given} were given: one each")


def load_video(
    name: str | Path = "mini-video",
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    any_family: bool = False,
) -> tuple[PreTrainedModel, AnyProcessor]:
    """Load a Video-LLaVA in evaluation mode and its processor, ready to generate.

    ``name`` is ``mini-video`` for the trained model in ``data/mini-video``, a folder, or a hub id
    such as ``LanguageBind/Video-LLaVA-7B-hf@REVISION``. With ``any_family`` it may be another model
    that is shown clips too: a LLaVA-NeXT-Video or LLaVA-OneVision; an InternVL, Qwen2-VL,
    Qwen2.5-VL or Qwen3-VL, whose processor is the stock one. Frames are prepared by Pillow, as the
    checkpoint's own settings for videos say. What is missing or of another kind is a ValueError;
    ``device`` and ``dtype`` are as in :func:`prumerge.models.load`.
    """
    check_device(device)
    dtype = find_precision(dtype, device)
    source, revision = find_source(name)
    kind = _kind_of(name)
    with told(name):
        taken = [*_CLIPS, *FRAMES_OF] if any_family else ["video_llava"]
        if kind not in taken:
            raise ValueError(f"model_type {kind!r}, where {', '.join(map(repr, taken))} is read")
    if kind in FRAMES_OF:
        model, processor = load(name, device, dtype, any_family=True)
        with told(name):
            processor.video_processor = frames_for(kind, source, revision)
        return model, processor
    with told(name):
        made = getattr(transformers, f"{_CLIPS[kind]}ForConditionalGeneration")
        config = made.config_class.from_pretrained(source, revision=revision)
    model = load_weights(name, config, made, dtype)
    return model.to(device).eval(), load_clips(name, config)


def load_clips(name: str | Path, config: PreTrainedConfig) -> VideoProcessor | None:
    """Load what prepares clips for a model, by its name and config; None for any but these three.

    They are Video-LLaVA, for which it prepares pictures too, LLaVA-NeXT-Video and LLaVA-OneVision.
    """
    kind = config.model_type
    if kind not in _CLIPS:
        return None
    source, revision = find_source(name)
    with told(name):
        pictures = _for_frames(kind, source, revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, padding_side="left")
        whole, _ = ProcessorMixin.get_processor_dict(source, revision=revision)
    slots = None if kind == "video_llava" else lambda frames: shown_by(config, frames=frames).slots
    template = whole.get("chat_template")
    return VideoProcessor(pictures, tokenizer, config.vision_config.patch_size, template, slots)


def _for_frames(kind: str, source: str, revision: str) -> BaseImageProcessor:
    """What prepares frames; stock classes for videos, which want torchvision, tell how alone."""
    if kind == "video_llava":
        return CLIPImageProcessorPil.from_pretrained(source, revision=revision)
    module = importlib.import_module(f"transformers.models.{kind}.video_processing_{kind}")
    stock = getattr(module, f"{_CLIPS[kind]}VideoProcessor")
    own, _ = BaseVideoProcessor.get_video_processor_dict(source, revision=revision)
    return CLIPImageProcessorPil(**{name: own.get(name, getattr(stock, name)) for name in _FORM})


def open_model(
    name: str | Path = "mini", device: str = "cpu", dtype: torch.dtype | str | None = None
) -> tuple[PreTrainedModel, AnyProcessor]:
    """Load a model of any family and what prepares its pictures, of a Video-LLaVA its clips too.

    What is missing or of no family is a ValueError; see :func:`prumerge.models.load`.
    """
    if _kind_of(name) == "video_llava":
        return load_video(name, device, dtype)
    return load(name, device, dtype, any_family=True)


def open_processor(name: str | Path = "mini") -> AnyProcessor:
    """Load the processor alone; see :func:`open_model`."""
    if _kind_of(name) != "video_llava":
        return load_processor(name)
    source, revision = find_source(name)
    with told(name):
        config = VideoLlavaConfig.from_pretrained(source, revision=revision)
    return load_clips(name, config)


def _kind_of(name: str | Path) -> str | None:
    source, revision = find_source(name)
    with told(name):
        return PreTrainedConfig.get_config_dict(source, revision=revision)[0].get("model_type")
