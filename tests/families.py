"""Tiny random models of every family in float64, and prompts that show unequal pictures."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from toy import BOS, EOS, IMAGE, PAD, SIZE, VOCABULARY

from prumerge.models.families import OLDEST

VIDEO = 4
WORDS = 5  # the first id that is a word
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


@dataclass(frozen=True)
class Toy:
    """A model, and what its prompts show: rows of words (their number) and visuals.

    ``draw(kind, number)`` returns the arguments that one picture or video needs.
    """

    model: nn.Module
    rows: Sequence[Sequence[int | tuple[str, int]]]
    draw: Callable[[str, int], dict[str, Any]]
    tokens: dict[str, int]
    joined: bool = False  # tiles of all pictures end to end
    typed: bool = False  # prompts come with the kind of each placeholder
    frames: Callable[[int], int] | None = None  # of a video, where words stand before each

    def inputs(self, *rows: int, side: str = "left") -> dict[str, Any]:
        """Prompts and pixels of some rows, all of them by default."""
        numbers = rows or tuple(range(len(self.rows)))
        chosen = [self.rows[number] for number in numbers]
        ids = [self._ids(row, number) for number, row in zip(numbers, chosen, strict=True)]
        longest = max(map(len, ids))
        padded = [
            [PAD] * (longest - len(own)) + own
            if side == "left"
            else own + [PAD] * (longest - len(own))
            for own in ids
        ]
        input_ids = torch.tensor(padded)
        shown = [part for row in chosen for part in row if isinstance(part, tuple)]
        given = {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}
        if self.typed:
            given["mm_token_type_ids"] = (input_ids == IMAGE) + 2 * (input_ids == VIDEO)
        return given | self.pixels(shown)

    def pixels(self, shown: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """The arguments for pictures and videos, those of a kind stacked."""
        held: dict[str, list[Tensor]] = {}
        for kind, number in sorted(shown, key=lambda part: part[0]):
            for name, value in self.draw(kind, number).items():
                held.setdefault(name, []).append(value)
        return {name: _stack(values, self.joined) for name, values in held.items()}

    def slots(self, kind: str, number: int) -> int:
        """Placeholders of a picture or video, as the stock model counts its features."""
        return _slots(self, kind, number)

    def _ids(self, row: Sequence[int | tuple[str, int]], number: int) -> list[int]:
        generator = torch.Generator().manual_seed(number)
        ids = [BOS]
        for part in row:
            if isinstance(part, tuple):
                runs = self.frames(part[1]) if self.frames and part[0] == "video" else 1
                run = [self.tokens[part[0]]] * (self.slots(*part) // runs)
                ids += run + (runs - 1) * [WORDS + 1, *run]
            else:
                words = torch.randint(WORDS, VOCABULARY, (part,), generator=generator)
                ids += words.tolist()
        return ids


@functools.cache
def _counts(model: nn.Module) -> dict[tuple[str, int], int]:
    return {}


def _slots(toy: Toy, kind: str, number: int) -> int:
    known = _counts(toy.model)
    if (kind, number) not in known:
        features = getattr(toy.model.model, f"get_{kind}_features")
        with torch.no_grad():
            found = features(**toy.pixels([(kind, number)])).pooler_output
        found = torch.cat(list(found)) if isinstance(found, list | tuple) else found
        known[kind, number] = found.numel() // found.shape[-1]
    return known[kind, number]


def _stack(values: list[Tensor], joined: bool) -> Tensor:
    """Stack what differs in its number of tiles, with tiles of zeros as the processor does."""
    if joined:
        return torch.cat(values)
    most = max(len(own) for own in values)
    pad = torch.nn.functional.pad
    return torch.stack([pad(own, (0, 0) * (own.ndim - 1) + (0, most - len(own))) for own in values])


def text_config(**options: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
        **options,
    )


def clip_config(**options: Any) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=SIZE // 4,
        initializer_range=0.3,
        initializer_factor=4.0,
        **options,
    )


def built(kind: type[nn.Module], config: Any) -> nn.Module:
    torch.manual_seed(0)
    model = kind(config).double().eval()
    with torch.no_grad():  # end tokens must be rare
        model.lm_head.weight[[PAD, BOS, EOS, IMAGE, VIDEO]] *= 0.01
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model


def noise(*shape: int, seed: int) -> Tensor:
    """Random pixels, some parts brighter than others."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(*shape, generator=generator, dtype=torch.float64)
    bright = torch.rand(*shape[:-3], 1, 4, 4, generator=generator, dtype=torch.float64) * 4
    step = shape[-1] // 4
    return pixels * bright.repeat_interleave(step, -1).repeat_interleave(step, -2)


def llava() -> Toy:
    config = transformers.LlavaConfig(
        vision_config=clip_config(),
        text_config=text_config(),
        image_token_id=IMAGE,
        image_seq_length=16,
    )
    model = built(transformers.LlavaForConditionalGeneration, config)
    return Toy(model, ROWS, _picture, {"image": IMAGE})


def vipllava() -> Toy:
    config = transformers.VipLlavaConfig(
        vision_config=clip_config(),
        text_config=text_config(),
        image_token_id=IMAGE,
        vision_feature_layer=[-2, -3, 1],
    )
    model = built(transformers.VipLlavaForConditionalGeneration, config)
    return Toy(model, ROWS, _picture, {"image": IMAGE})


def _picture(kind: str, number: int) -> dict[str, Any]:
    return {"pixel_values": noise(3, SIZE, SIZE, seed=number)}


SHAPES = [(40, 90), (60, 30), (50, 56), (20, 90)]  # height and width in pixels


def llava_next() -> Toy:
    config = transformers.LlavaNextConfig(
        vision_config=clip_config(),
        text_config=text_config(),
        image_token_id=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    model = built(transformers.LlavaNextForConditionalGeneration, config)
    return Toy(model, ROWS, _tiles, {"image": IMAGE})


def _tiles(kind: str, number: int) -> dict[str, Any]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    size = SHAPES[number]
    tiles = image_size_to_num_patches(list(size), PINPOINTS, SIZE)
    return {
        "pixel_values": noise(tiles, 3, SIZE, SIZE, seed=number),
        "image_sizes": torch.tensor(size),
    }


def video_llava() -> Toy:
    config = transformers.VideoLlavaConfig(
        vision_config=clip_config(),
        text_config=text_config(),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = built(transformers.VideoLlavaForConditionalGeneration, config)
    return Toy(model, VIDEO_ROWS, _frames, {"image": IMAGE, "video": VIDEO})


def _frames(kind: str, number: int) -> dict[str, Any]:
    if kind == "video":
        return {"pixel_values_videos": noise(3, 3, SIZE, SIZE, seed=number)}
    return _picture(kind, number)


def llava_next_video() -> Toy:
    config = transformers.LlavaNextVideoConfig(
        vision_config=clip_config(),
        text_config=text_config(),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        spatial_pool_stride=2,
    )
    model = built(transformers.LlavaNextVideoForConditionalGeneration, config)
    return Toy(model, VIDEO_ROWS, _frames_or_tiles, {"image": IMAGE, "video": VIDEO})


def _frames_or_tiles(kind: str, number: int) -> dict[str, Any]:
    return _frames(kind, number) if kind == "video" else _tiles(kind, number)


def internvl() -> Toy:
    vision = transformers.InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=[2 * SIZE, 2 * SIZE],
        patch_size=[SIZE // 4, SIZE // 4],
        initializer_range=0.3,
    )
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=text_config(),
        image_token_id=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    model = built(transformers.InternVLForConditionalGeneration, config)
    return Toy(model, APART, _some_tiles, {"image": IMAGE}, joined=True)


def _some_tiles(kind: str, number: int) -> dict[str, Any]:
    """Tiles of all pictures end to end, one to three of each."""
    return {"pixel_values": noise(1 + number % 3, 3, 2 * SIZE, 2 * SIZE, seed=number)}


def llava_onevision() -> Toy:
    vision = transformers.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=SIZE // 4,
        initializer_range=0.3,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text_config(),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio="anyres_max_2",  # some pictures are shrunk behind the stitching
        vision_feature_layer=-1,
    )
    model = built(transformers.LlavaOnevisionForConditionalGeneration, config)
    return Toy(model, VIDEO_ROWS, _frames_or_tiles, {"image": IMAGE, "video": VIDEO})


def qwen2_vl() -> Toy:
    text, vision = qwen_text(), qwen_vision()
    widths = {"embed_dim": vision.pop("hidden_size"), "hidden_size": vision.pop("out_hidden_size")}
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 4, "mlp_ratio": 2, **vision, **widths},
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = built(transformers.Qwen2VLForConditionalGeneration, config)
    tokens = {"image": IMAGE, "video": VIDEO}
    return Toy(model, VIDEOS_APART, _any_size, tokens, joined=True, typed=True)


def qwen2_5_vl() -> Toy:
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "fullatt_block_indexes": [0, 2],
            "window_size": 16,
            "tokens_per_second": 2,
            **qwen_vision(),
        },
        text_config=qwen_text(),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = built(transformers.Qwen2_5_VLForConditionalGeneration, config)
    tokens = {"image": IMAGE, "video": VIDEO}
    return Toy(model, VIDEOS_APART, _any_size, tokens, joined=True, typed=True)


def qwen3_vl(
    config_class: Any = transformers.Qwen3VLConfig,
    model_class: Any = transformers.Qwen3VLForConditionalGeneration,
    **more: Any,
) -> Toy:
    config = config_class(
        vision_config={
            "depth": 4,
            "deepstack_visual_indexes": [0, 2],
            "num_position_embeddings": 16,
            **qwen_vision(),
        },
        text_config=qwen_text() | {"head_dim": 12, "num_hidden_layers": 3} | more,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = built(model_class, config)
    tokens = {"image": IMAGE, "video": VIDEO}
    return Toy(
        model, VIDEOS_APART, _any_size, tokens, joined=True, typed=True, frames=frames_of_video
    )


def qwen3_vl_moe() -> Toy:
    classes = transformers.Qwen3VLMoeConfig, transformers.Qwen3VLMoeForConditionalGeneration
    made = qwen3_vl(*classes, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    made.model.set_experts_implementation("eager")  # the grouped one has no float64
    return made


def qwen_vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": QWEN_PATCH,
        "out_hidden_size": 48,
        "initializer_range": 0.3,
    }


def qwen_text() -> dict[str, Any]:
    own = text_config().to_dict()
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "vocab_size", "max_position_embeddings", "initializer_range")
    ends = ("pad_token_id", "bos_token_id", "eos_token_id")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    return {name: own[name] for name in names + more + ends} | {"rope_parameters": rope}


QWEN_PATCH = 4
GRIDS = [(4, 8), (6, 4), (10, 6), (2, 14), (6, 6)]  # rows and columns of patches


def frames_of_video(number: int) -> int:
    """Frames behind the merging of two."""
    return 2 + number % 2


def _any_size(kind: str, number: int) -> dict[str, Any]:
    """Patches of a picture or video, as the processor lays them end to end, and their grid."""
    rows, columns = GRIDS[number]
    frames = frames_of_video(number) if kind == "video" else 1
    generator = torch.Generator().manual_seed(number)
    width = 3 * 2 * QWEN_PATCH**2
    pixels = torch.randn(frames * rows * columns, width, generator=generator, dtype=torch.float64)
    pixels *= 4 * torch.rand(len(pixels), 1, generator=generator, dtype=torch.float64)
    grid = torch.tensor([[frames, rows, columns]])
    if kind == "image":
        return {"pixel_values": pixels, "image_grid_thw": grid}
    return {"pixel_values_videos": pixels, "video_grid_thw": grid}


ROWS = ([3, ("image", 0), 5], [2, ("image", 1), ("image", 2), 9], [4, ("image", 3), 2], [7])
# InternVL's processor puts words between pictures.
APART = ([3, ("image", 0), 5], [2, ("image", 1), 1, ("image", 2), 9], [4, ("image", 3), 2], [7])
VIDEO_ROWS = (
    [3, ("video", 0), 5],
    [2, ("video", 1), 3, ("image", 2), 4],
    [4, ("image", 3), 2, ("video", 4), 1],
    [7],
)
# Words stand between all that Qwen's processor shows; the second video is long.
VIDEOS_APART = (
    [3, ("video", 0), 5],
    [2, ("video", 1), 3, ("image", 2), 4],
    [4, ("image", 3), 2, ("video", 4), 1, ("image", 0), 2],
    [7],
)
BUILDERS = {
    "llava": llava,
    "vipllava": vipllava,
    "llava_next": llava_next,
    "llava_next_video": llava_next_video,
    "video_llava": video_llava,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
}
TRIED = pytest.mark.skipif(
    Version(transformers.__version__) < Version(OLDEST), reason=f"transformers before {OLDEST}"
)


@functools.cache
def toy(family: str) -> Toy:
    return BUILDERS[family]()
