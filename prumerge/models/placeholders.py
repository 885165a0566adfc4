"""What stands in a prompt for a picture or clip: placeholders, as its model's processor writes."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from prumerge.models.preprocessing import of_pictures, prepare
from prumerge.models.videos import AnyProcessor
from prumerge.roofline import Shown, shown_by
from prumerge.roofline.shapes import QWEN

CUT = {"crop_to_patches": True}
"""What InternVL's processor, and not the part of it that prepares pictures, asks for by itself."""


def place_of(
    processor: AnyProcessor,
    shown: Image.Image | Sequence[Image.Image],
    do_pad: bool = True,
) -> tuple[list[int], dict[str, Tensor]]:
    """Return the ids that a prompt has in place of a picture's mark, and the model's inputs for it.

    The ids are placeholders, and what the processor puts around them; the inputs are all that it
    returns of a batch of this one picture, such as ``pixel_values`` and ``image_grid_thw``. The
    frames of a clip likewise, of which ``processor`` must be one that prepares clips.
    """
    if isinstance(shown, Image.Image):
        mark, token = processor.image_token, processor.image_token_id
        given = {"images": prepare(of_pictures(processor), [shown], do_pad)}
    else:
        mark, token, given = processor.video_token, processor.video_token_id, {"videos": [shown]}
    inputs = dict(processor(text=[mark], return_tensors="pt", **given))
    ids = inputs.pop("input_ids")[0].tolist()
    alone = processor.tokenizer(mark)["input_ids"]  # perhaps behind a start token
    before = alone.index(token)
    del inputs["attention_mask"]
    return ids[before : len(ids) - (len(alone) - before - 1)], inputs


def shown_of(
    config: Any,
    processor: AnyProcessor | BaseImageProcessor | None,
    size: tuple[int, int] | None = None,
) -> Shown:
    """Count what one picture is in a model's prompt, where its processor decides about it too.

    Args:
        config: Of a model, or the sizes of one, as for :func:`prumerge.roofline.shown_by`.
        processor: None leaves it at what the config says.
        size: Height and width in pixels; None is the picture with the most placeholders.

    Raises:
        ValueError: If neither says it.
    """
    pictures: Any = None if processor is None else of_pictures(processor)
    if pictures is not None and getattr(config, "model_type", None) == "internvl":
        tiles = pictures.get_number_of_image_patches(*size, CUT) if size else None
        return shown_by(config, tiles=tiles or pictures.max_patches + 1)
    if hasattr(pictures, "merge_size"):  # Qwen: any number of patches
        limits = pictures.size["shortest_edge"], pictures.size["longest_edge"]
        if size is None:
            return Shown(1, limits[1] // (pictures.patch_size * pictures.merge_size) ** 2)
        return shown_by(config, size, pixels=limits)
    if size is None and getattr(config, "model_type", None) in QWEN:
        raise ValueError("how large a picture may be its processor says, which is not here")
    cut = getattr(config, "image_grid_pinpoints", None)
    sizes = cut if cut and size is None else [size]
    found = (shown_by(config, own and tuple(own)) for own in sizes)
    return max(found, key=lambda own: own.slots)
