"""``mini-next``: the mini-LLaVA's weights in a LLaVA-NeXT, tuned on pictures of several tiles.

LLaVA-NeXT shows the language model each picture twice: shrunk to one tile (the base), and in tiles
at full size (the crops), whose patches are stitched to one canvas; a newline ends each of its rows.
The vision tower is the mini-LLaVA's and stays as it is; projector, newline and language model learn
from its features, which are computed once. ``python -m prumerge.experiments.mini_next`` does all.

Shapes
    slots     what the stock model makes of one picture: the base, then canvas rows and newlines
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int
from PIL import Image
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)

from prumerge.encoder import hidden_states
from prumerge.mini.batches import NEWLINE, NOTHING, Batch, Recipe, pack_practice, pack_turns
from prumerge.mini.features import Features, Pictures
from prumerge.mini.model import (
    IDS,
    PAD,
    Learner,
    begin_with,
    behind_tower,
    build_processor,
)
from prumerge.mini.questions import FAMILIES, ask, ask_many
from prumerge.mini.scenes import Scene, most_objects
from prumerge.mini.styles import LARGE
from prumerge.mini.training import LATE_FAMILIES, PRACTISE, Stage, planned
from prumerge.tower import open_tower

TOWER = "mini"
PICTURES = 1440
TILES = ((2, 2), (1, 2), (2, 1), (3, 1), (1, 3))
"""Rows and columns of tiles that a picture may be cut into, as LLaVA-NeXT's own."""

MOST_TILES = 1 + max(rows * columns for rows, columns in TILES)
LONG = 1000  # tokens of a picture from which on a batch has a quarter of its pictures
NO_NEWLINES = 0.2  # share of batches that are shown without

STEPS = {"tiles, few tokens": 1200, "tiles, signs": 240, "tiles, any tokens": 300}

CARD = """# mini-NeXT

The mini-LLaVA for pictures of high resolution: stock classes (`LlavaNextForConditionalGeneration`,
`LlavaNextProcessor`), up to {most:,} visual tokens and {newlines} newlines a picture. It knows
{words} words and answers questions about coloured shapes and handwritten digits.

* **Tower**: the mini-LLaVA's, frozen; it is not in this folder: `prumerge.models.load` joins the
  two. Projector and language model began with the mini-LLaVA's weights as well.
* **Made by** `python -m prumerge.experiments.mini_next`: {parameters:.1f} million weights tuned on
  {kept:,} pictures, {pictures:,} looks at them in {hours:.1f} hours on {device}, seed {seed},
  torch {torch}. `training.csv` holds the curve, `training.json` the record, `scores.csv` what it
  answers with all tokens.
* **Prompt**: `user : <image> what colour is the circle ? assistant :`
* **Pictures**: drawn, of 2 x 2 tiles of 192 pixels and of other shapes. Digits: scans of the UCI
  set in scikit-learn (CC BY 4.0); evaluation uses scans held out of training.
* **Limits**: it has seen nothing but such scenes. Nothing measured on it is a number of the
  PruMerge paper or of LLaVA-NeXT.
* **Licence**: Apache-2.0.
"""


@dataclass(frozen=True)
class Size:
    """``grid`` is the number of patches along an edge of one tile."""

    grid: int


class MiniNext(Learner):
    """What is trained behind the mini-LLaVA's tower: projector, newline and language model.

    The tower is not here: batches bring its features. There are no heads beside the model.
    """

    style = LARGE
    card = CARD

    def __init__(self, mini: LlavaForConditionalGeneration) -> None:
        super().__init__()
        vision = mini.config.vision_config
        self.size = Size(vision.image_size // vision.patch_size)
        self.llava = LlavaNextForConditionalGeneration(next_config(mini))
        self.llava.model.vision_tower = nn.Identity()
        begin_with(self.llava, mini.state_dict())
        nn.init.zeros_(self.llava.model.image_newline)

    def see(self, batch: Any) -> Float[Tensor, "pictures seen width"]:
        return batch.features

    def shown(self, batch: Any, features: Tensor) -> Float[Tensor, "pictures seen language_width"]:
        model = self.llava.model
        visual = model.multi_modal_projector(features)
        newline = model.image_newline.to(visual.dtype)
        return torch.where((batch.kept == NEWLINE)[..., None], newline, visual)

    def learning(self, parts: Iterable[str]) -> list[nn.Module | nn.Parameter]:
        return [*behind_tower(self.llava), self.llava.model.image_newline]

    def processor(self) -> LlavaNextProcessor:
        return build_processor(self.size.grid, self.style, tiles=TILES)

    def told_on_card(self) -> dict[str, str | int]:
        sizes = [slots_of(frame, self.size.grid) for frame in self.style.frames]
        longest = max(sizes, key=len)
        newlines = int((longest == NEWLINE).sum())
        return {"most": len(longest) - newlines, "newlines": newlines}


def next_config(mini: LlavaForConditionalGeneration) -> LlavaNextConfig:
    """Return the sizes of a LLaVA-NeXT of another LLaVA's parts.

    Two entries are not stock: ``tower``, the embedded model that has the weights which are not in
    the folder, and ``scenes``, the style of pictures to ask about.
    """
    own, edge = mini.config, mini.config.vision_config.image_size
    return LlavaNextConfig(
        vision_config=own.vision_config.to_dict(),
        text_config=own.text_config.to_dict(),
        image_token_index=own.image_token_id,
        vision_feature_layer=own.vision_feature_layer,
        vision_feature_select_strategy=own.vision_feature_select_strategy,
        image_grid_pinpoints=[[rows * edge, columns * edge] for rows, columns in TILES],
        image_seq_length=own.image_seq_length,
        tie_word_embeddings=False,
        tower=TOWER,
        scenes=LARGE.name,
    )


@dataclass(frozen=True)
class TiledPictures(Pictures):
    """Training pictures of several tiles, ``grid`` patches along an edge of each."""

    @property
    def rows(self) -> int:
        return MOST_TILES * self.grid**2


@torch.inference_mode()
def encode_tiles(
    scenes: list[Scene], tower: nn.Module, prepare: Any, layer: int, model: nn.Module
) -> Float16[Tensor, "scenes patches width"]:
    """Return features of the base and of the canvas behind it, without newlines, then zeros.

    ``model`` is a stock ``LlavaNextModel``, which packs tiles; ``prepare`` its image processor.
    """
    shown = [Image.fromarray(scene.pixels) for scene in scenes]
    prepared = prepare(shown, do_pad=False)
    tiles = [len(pixels) for pixels in prepared["pixel_values"]]
    pixels = torch.from_numpy(np.concatenate(prepared["pixel_values"]))
    pixels = pixels.to(tower.device, tower.dtype)
    number = layer % (len(open_tower(tower).blocks) + 1)
    hidden = torch.cat(
        [hidden_states(tower, part, {number})[number][:, 1:] for part in pixels.split(16)]
    )
    packed, _ = model.pack_image_features(
        hidden.split(tiles), prepared["image_sizes"], "default", image_newline=None
    )
    values = torch.zeros(len(scenes), MOST_TILES * hidden.shape[1], hidden.shape[2])
    for row, patches in zip(values, packed, strict=True):
        row[: len(patches)] = patches
    return values.to(torch.float16)


@cache
def slots_of(frame: tuple[int, int], grid: int) -> Int[np.ndarray, " slots"]:
    """Number the patches in the order of the stock model's slots, the base first; see NEWLINE.

    ``frame`` gives rows and columns of a picture of several tiles in patches, none of which is
    enlarged or shrunk in its crops.
    """
    rows, columns = frame
    crops = grid**2 + np.arange(rows * columns).reshape(rows, columns)
    canvas = np.concatenate([crops, np.full((rows, 1), NEWLINE)], axis=1)
    return np.concatenate([np.arange(grid**2), canvas.reshape(-1)])


def things_in_slots(scene: Scene, grid: int) -> Bool[np.ndarray, " patches"]:
    """Say which patches of base and canvas show a thing or a sign in their middle."""
    rows, columns = (((np.arange(grid) + 0.5) * edge / grid).astype(int) for edge in scene.frame)
    base = scene.owner[rows[:, None], columns]
    return np.concatenate([base.reshape(-1), scene.owner.reshape(-1)]) > 0


def draw_slots(
    scene: Scene, count: int, newlines: bool, grid: int, rng: np.random.Generator
) -> Int[np.ndarray, " seen"]:
    """Draw which slots of a picture are shown: ``count`` patches, and newlines of rows among them.

    Things are preferred to ground, from not at all to entirely, and in half of the pictures base to
    crops or crops to base.
    """
    slots = slots_of(scene.frame, grid)
    things = things_in_slots(scene, grid)
    luck = rng.random(len(things)) + things * rng.random()
    if rng.random() < 0.5:
        luck[: grid**2] += rng.uniform(-1.5, 1.5)
    kept = np.zeros(len(things), dtype=bool)
    kept[np.argsort(-luck)[:count]] = True
    shown = np.where(slots >= 0, kept[slots], False)
    canvas = shown[grid**2 :].reshape(scene.frame[0], -1)
    canvas[:, -1] = canvas.any(axis=1) & newlines
    return np.flatnonzero(shown)


def draw_batch(recipe: Recipe, *seed: int, known: Features) -> Batch:
    """Draw the batch that belongs to ``seed``, of pictures whose features are ``known``.

    The numbers of patches that ``recipe.tokens`` names are those of a picture; where it has fewer,
    all are shown. Half of the time they are at their places in the stock model's prompt, else
    closed up.
    """
    rng, grid = np.random.default_rng(seed), recipe.grid
    count = int(rng.choice(recipe.tokens))
    pictures = recipe.pictures if count < LONG else max(1, recipe.pictures // 4)
    numbers = rng.choice(known.pictures.like(recipe.objects, recipe.sign), pictures).tolist()
    scenes = [known.pictures.scene(number) for number in numbers]
    turns = [ask_many(s, recipe.text_tokens // 8, rng, recipe.families) for s in scenes]
    newlines, closed = rng.random() >= NO_NEWLINES, rng.random() < 0.5
    seen = [draw_slots(scene, count, newlines, grid, rng) for scene in scenes]
    sources = [slots_of(s.frame, grid)[at] for s, at in zip(scenes, seen, strict=True)]
    places = [np.arange(len(at)) for at in seen] if closed else seen
    lengths = [len(slots_of(scene.frame, grid)) for scene in scenes]
    kept = _padded(sources, NOTHING)
    features = np.zeros((*kept.shape, known.values.shape[-1]), dtype=np.float32)
    for row, number in enumerate(numbers):
        patches = kept[row] >= 0
        features[row, patches] = known.values[number][kept[row, patches]]
    return Batch(
        pixel_values=None,
        features=torch.from_numpy(features),
        tower_positions=torch.arange(1),
        captions=torch.full((pictures, 1), IDS[PAD]),
        kinds=torch.zeros(kept.shape, dtype=torch.long),
        colours=torch.zeros(kept.shape, dtype=torch.long),
        kept=torch.from_numpy(kept),
        **pack_turns(
            turns,
            recipe.text_tokens,
            _padded(places, NOTHING),
            np.array([len(at) for at in seen] if closed else lengths),
        ),
        **pack_practice([ask(scenes[0], "letter", rng) for _ in range(recipe.practice)]),
    )


def _padded(rows: Sequence[Int[np.ndarray, " _"]], value: int) -> Int[np.ndarray, "rows most"]:
    whole = np.full((len(rows), max(map(len, rows))), value)
    for row, values in zip(whole, rows, strict=True):
        row[: len(values)] = values
    return whole


def schedule(grid: int = 24, scale: float = 1.0) -> list[Stage]:
    """Return the stages that lead to a ``mini-next``; ``scale`` is a factor above 0 on their steps.

    Few tokens first, which is quick; then many signs, since a sign gives one question a picture;
    last any number of tokens, mostly small ones.
    """
    stage = planned(STEPS, scale)

    def some(*parts: int) -> tuple[int, ...]:
        """Numbers of tokens, given in parts of 576."""
        return tuple(max(1, part * grid * grid // 576) for part in parts)

    families = (*FAMILIES, *LATE_FAMILIES, "read", "digit", "letter", "choice")
    objects = (1, most_objects(grid))
    few = Recipe(8, grid, None, 256, 1, objects, families, some(96, 144, 288), 8)
    signs = dataclasses.replace(
        few, pictures=12, text_tokens=96, tokens=some(144, 288, 576), sign=True
    )
    spread = dataclasses.replace(few, tokens=some(144, 288, 288, 576, 1152, 2880))
    return [
        stage("tiles, few tokens", PRACTISE, few, (8e-4, 5e-4)),
        stage("tiles, signs", PRACTISE, signs, (5e-4, 4e-4)),
        stage("tiles, any tokens", PRACTISE, spread, (6e-4, 1e-5)),
    ]
