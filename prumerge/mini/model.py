"""The mini-LLaVA and its CLIP, in stock transformers classes.

The proportions follow LLaVA-1.5: a vision tower with class token, its penultimate layer through a
two-layer projector into a Llama. Sizes are small enough to train on two CPU cores.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge.mini.glyphs import COLOURS, DIGITS, KINDS, PATCH_PIXELS, SHAPES

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths of the parts; ``grid`` is the number of patches along an edge."""

    grid: int = 24
    vision_width: int = 128
    vision_blocks: int = 6
    text_width: int = 128
    language_width: int = 128
    language_blocks: int = 4
    heads: int = 4


class Pretraining(nn.Module):
    """Everything that is trained: CLIP, the LLaVA that shares its tower, and two heads.

    ``naming`` is a linear map from a patch's penultimate feature to the kind and colour of what
    lies on it, ``placing`` one to its row and column. Neither is part of the LLaVA.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.clip = CLIPModel(_clip_config(size))
        self.llava = LlavaForConditionalGeneration(_llava_config(size))
        self.clip.vision_model = self.llava.model.vision_tower  # one tower, two users
        self.naming = nn.Linear(size.vision_width, (len(KINDS) + 1) + (len(COLOURS) + 1))
        self.placing = nn.Linear(size.vision_width, 2)
        positions = self.tower.embeddings.position_embedding.weight
        with torch.no_grad():
            positions[1:] = torch.from_numpy(_waves(size.grid, size.vision_width)) * 0.1

    @property
    def tower(self) -> nn.Module:
        """The vision tower, which CLIP and the LLaVA share."""
        return self.llava.model.vision_tower

    @torch.no_grad()
    def hand_over_places(self, length: float = 6.0) -> None:
        """Let the projector pass on what the placing head reads, in directions of their own.

        Of the projector's hidden units the four that do least are given away: since gelu(x) -
        gelu(-x) = x, two of them carry a row or column exactly. ``length`` is that of a visual
        token's part that tells the edge's row or column; whole tokens are about 20 long.
        """
        projector = self.llava.model.multi_modal_projector
        first, second = projector.linear_1, projector.linear_2
        effect = first.weight.norm(dim=1) * second.weight.norm(dim=0)
        units = effect.argsort()[:4].view(2, 2)
        across = torch.randn(second.out_features, 2, generator=torch.Generator().manual_seed(0))
        directions = torch.linalg.qr(across)[0].T * length
        for axis, (plus, minus) in enumerate(units.tolist()):
            for unit, sign in ((plus, 1.0), (minus, -1.0)):
                first.weight[unit] = sign * self.placing.weight[axis]
                first.bias[unit] = sign * self.placing.bias[axis]
                second.weight[:, unit] = sign * directions[axis]


def build_processor(grid: int) -> LlavaProcessor:
    """Return the processor: pictures to ``grid`` patches on an edge, words to tokens."""
    edge = grid * PATCH_PIXELS
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": edge},
        crop_size={"height": edge, "width": edge},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _vision_config(size: Size) -> dict:
    return {
        "hidden_size": size.vision_width,
        "intermediate_size": 4 * size.vision_width,
        "hidden_act": "gelu",  # one fused kernel; quick_gelu takes a third of a step on a CPU
        "num_hidden_layers": size.vision_blocks,
        "num_attention_heads": size.heads,
        "image_size": size.grid * PATCH_PIXELS,
        "patch_size": PATCH_PIXELS,
        "projection_dim": size.text_width,
    }


def _clip_config(size: Size) -> CLIPConfig:
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": size.text_width,
        "intermediate_size": 4 * size.text_width,
        "hidden_act": "gelu",
        "num_hidden_layers": 3,
        "num_attention_heads": size.heads,
        "max_position_embeddings": 64,
        # transformers pools at the largest token id when the end is 2, at this token otherwise
        **SPECIAL_IDS,
    }
    vision = _vision_config(size)
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=size.text_width)


def _llava_config(size: Size) -> LlavaConfig:
    language = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=size.language_width,
        intermediate_size=3 * size.language_width,
        num_hidden_layers=size.language_blocks,
        num_attention_heads=size.heads,
        max_position_embeddings=4096,
        **SPECIAL_IDS,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision_config(size)),
        text_config=language,
        image_token_index=IDS[IMAGE],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _waves(grid: int, width: int) -> np.ndarray:
    """Return sine-cosine codes of row and column, ``[grid * grid, width]``, to start from."""
    rates = 1.0 / 50 ** (np.arange(width // 4) / (width // 4))
    angles = np.arange(grid)[:, None] * rates  # [grid, width / 4]
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(line, grid, axis=0), np.tile(line, (grid, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


PAD, START, UNKNOWN, END, IMAGE = SPECIAL = ("<pad>", "<s>", "<unk>", "</s>", "<image>")
_TALK = (
    "user assistant : ? . , a b c d e is there what colour the shape which digit how many objects "
    "are where top-left top-right bottom-left bottom-right on sign number yes no at nothing an it "
    "of in"
)
_SPARE = (
    "10 11 12 answer question using single word or phrase with option letter directly given "
    "choices from"
)
WORDS = (*SPECIAL, *_TALK.split(), *COLOURS, *SHAPES, *DIGITS, *_SPARE.split())
IDS = {word: index for index, word in enumerate(WORDS)}
SPECIAL_IDS = {"bos_token_id": IDS[START], "eos_token_id": IDS[END], "pad_token_id": IDS[PAD]}


def token_ids(text: str) -> list[int]:
    """Return the tokens of a text whose words stand between single spaces."""
    return [IDS[word] for word in text.split()]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: a word-level vocabulary, start token in front, padding on the left."""
    if len(IDS) != len(WORDS):
        raise ValueError("a word stands twice in the vocabulary")
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # Hyphened words stay whole, other punctuation stands alone.
    words = Regex(r"[\w-]+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, IDS[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )
