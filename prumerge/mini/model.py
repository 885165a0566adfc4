"""The mini-LLaVA and its CLIP, in stock transformers classes; words and processors of both models.

The proportions follow LLaVA-1.5: a vision tower with class token, its penultimate layer through a
two-layer projector into a Llama. Sizes are small enough to train on two CPU cores.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from prumerge.mini.glyphs import COLOURS, DIGITS, KINDS, PATCH_PIXELS, SHAPES
from prumerge.mini.styles import MOVING, PLAIN, STYLES, Style
from prumerge.models.loading import Llava

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


CARD = """# mini-LLaVA

A real LLaVA, trained from nothing on drawn scenes, small enough to study on a laptop:
{tokens} visual tokens and a class token, {parameters:.1f} million parameters, stock classes
(`LlavaForConditionalGeneration`, `LlavaProcessor`). It knows {words} words and answers questions
about coloured shapes and handwritten digits.

* **Made by** `notebooks/train_mini_llava.ipynb`: {pictures:,} pictures in {hours:.1f} hours on
  {device}, seed {seed}, torch {torch}. `training.csv` holds the curve, `training.json` the record.
* **Prompt**: `user : <image> what colour is the circle ? assistant :`
* **Digits**: scans of the UCI set in scikit-learn (CC BY 4.0); evaluation uses scans held out of
  training. Everything else is drawn.
* **Limits**: it has seen nothing but these scenes. Nothing measured on it is a number of the
  PruMerge paper or of LLaVA-1.5.
* **Licence**: Apache-2.0.
"""


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


class Learner(nn.Module):
    """A LLaVA in training, with two heads that are no part of it.

    ``naming`` is a linear map to the kind and colour of what lies on a patch, ``placing`` one to
    its row and column. What they read, and what the tower does, subclasses say.
    """

    style: Style
    card: str  # what the export says about itself
    size: Any  # ``size.grid`` counts patches along an edge
    llava: Llava | VideoLlavaForConditionalGeneration
    naming: nn.Linear
    placing: nn.Linear

    def see(self, batch: Any) -> Float[Tensor, "pictures tokens width"]:
        """Return the tower's features; patches stand last."""
        raise NotImplementedError

    def told(self, patches: Tensor) -> Tensor:
        """Return what the heads read of patches' features."""
        raise NotImplementedError

    def shown(self, batch: Any, features: Tensor) -> Float[Tensor, "pictures seen language_width"]:
        """Return the visual tokens of a batch as the language model reads them."""
        patches = features[:, -batch.kinds.shape[1] :]
        patches = patches.gather(1, batch.kept[..., None].expand(-1, -1, patches.shape[-1]))
        return self.llava.model.multi_modal_projector(patches)

    def learning(self, parts: Iterable[str]) -> list[nn.Module]:
        """Return the modules that parts of the loss train."""
        raise NotImplementedError

    def processor(self) -> Any:
        """Make the processor that pictures, or clips, and words go through."""
        raise NotImplementedError

    def told_on_card(self) -> dict[str, Any]:
        """Return what only this model's card tells."""
        return {}


class Pretraining(Learner):
    """Everything that is trained: CLIP, the LLaVA that shares its tower, and two heads.

    The heads read a patch's penultimate feature.
    """

    style = PLAIN
    card = CARD

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

    def see(self, batch: Any) -> Float[Tensor, "pictures tokens width"]:
        """Run the tower on a window or a whole frame up to its penultimate hidden state."""
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding(batch.pixel_values).flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        hidden = torch.cat([first, patches], dim=1)
        hidden = hidden + embeddings.position_embedding(batch.tower_positions)
        hidden = self.tower.pre_layrnorm(hidden)
        for block in self.tower.encoder.layers[:-1]:
            hidden = block(hidden, None)
        return hidden

    def told(self, patches: Tensor) -> Tensor:
        return patches

    def learning(self, parts: Iterable[str]) -> list[nn.Module]:
        """Return what parts of the loss train: the tower, CLIP and heads, or the LLaVA behind it.

        The vision tower is frozen unless a part is about seeing, as in LLaVA's own training.
        """
        heads = {"match": self.clip, "naming": self.naming, "placing": self.placing}
        learning = [module for part, module in heads.items() if part in parts]
        if learning:
            learning.append(self.tower)
        return learning + (behind_tower(self.llava) if "answer" in parts else [])

    def processor(self) -> LlavaProcessor:
        return build_processor(self.size.grid)

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


def behind_tower(llava: Llava | VideoLlavaForConditionalGeneration) -> list[nn.Module]:
    """What LLaVA trains behind its frozen tower: projector, language model and its head."""
    return [llava.model.multi_modal_projector, llava.model.language_model, llava.lm_head]


@torch.no_grad()
def begin_with(
    llava: nn.Module, known: Mapping[str, Tensor], like: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Copy weights by their names, those of words first; return weights that are not known.

    New words begin as the mean of the words ``like`` them, or stay as they are.
    """
    own = llava.state_dict()
    for name in own.keys() & known:
        start = known[name]
        own[name][: len(start)] = start
        if like and len(new := own[name][len(start) :]):
            new[:] = start[like].mean(dim=0)
    return {name: weight for name, weight in own.items() if name not in known}


def build_processor(
    grid: int,
    style: Style = PLAIN,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    deviation: Sequence[float] = (0.5, 0.5, 0.5),
    *,
    tiles: Sequence[tuple[int, int]] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat_template: str = CHAT_TEMPLATE,
) -> LlavaProcessor | LlavaNextProcessor:
    """Return the processor: pictures to ``grid`` patches on an edge, words to tokens.

    With ``tiles``, rows and columns that a picture may be cut into, it is LLaVA-NeXT's.
    ``tokenizer``: None makes that of the style's words.
    """
    edge = grid * style.patch_px
    pictures, kind, more = CLIPImageProcessorPil, LlavaProcessor, {}
    if tiles:
        pictures, kind = LlavaNextImageProcessorPil, LlavaNextProcessor
        more["image_grid_pinpoints"] = [[rows * edge, columns * edge] for rows, columns in tiles]
    return kind(
        image_processor=pictures(
            size={"shortest_edge": edge},
            crop_size={"height": edge, "width": edge},
            image_mean=list(mean),
            image_std=list(deviation),
            **more,
        ),
        tokenizer=tokenizer or build_tokenizer(words_of(style)),
        patch_size=style.patch_px,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=chat_template,
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


def language_config(words: int, width: int, blocks: int, heads: int) -> LlamaConfig:
    """Return the sizes of a language model that knows as many ``words``."""
    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        **SPECIAL_IDS,
        tie_word_embeddings=False,
    )


def _llava_config(size: Size) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision_config(size)),
        text_config=language_config(
            len(WORDS), size.language_width, size.language_blocks, size.heads
        ),
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
VIDEO = "<video>"
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
MORE_WORDS = tuple(dict.fromkeys(c for s in STYLES.values() for c in s.colours if c not in COLOURS))
"""Colours that only other styles have, behind the words that the mini-LLaVA knows."""
VIDEO_WORDS = (
    VIDEO,
    *"way does move left right up down nowhere came first last often did blink".split(),
)
"""Words for what happens in clips, behind all others."""
IDS = {word: index for index, word in enumerate(WORDS + MORE_WORDS + VIDEO_WORDS)}
SPECIAL_IDS = {"bos_token_id": IDS[START], "eos_token_id": IDS[END], "pad_token_id": IDS[PAD]}


def words_of(style: Style) -> tuple[str, ...]:
    """Return the vocabulary of a model that is trained on a style."""
    if style is MOVING:
        return WORDS + MORE_WORDS + VIDEO_WORDS
    return WORDS if style.colours is COLOURS else WORDS + MORE_WORDS


def token_ids(text: str) -> list[int]:
    """Return the tokens of a text whose words stand between single spaces."""
    return [IDS[word] for word in text.split()]


def build_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Return the tokenizer: a word-level vocabulary, start token in front, padding on the left."""
    ids = {word: index for index, word in enumerate(words)}
    if len(ids) != len(words):
        raise ValueError("a word stands twice in the vocabulary")
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # Hyphened words stay whole, other punctuation stands alone.
    parts = Regex(r"[\w-]+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(parts, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, IDS[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[mark for mark in (IMAGE, VIDEO) if mark in ids],
        padding_side="left",
    )
