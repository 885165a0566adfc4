"""``mini-video``: a Video-LLaVA made of the mini-LLaVA, trained on clips.

The vision tower stays as it is, for pictures and for frames; projector and language model go on
from the mini-LLaVA's weights and learn what happens over time. The tower's features are computed
once (``features``), the stages then read them. ``python -m prumerge.experiments.video`` does all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from prumerge.mini.batches import Batch, Recipe, pack_practice, pack_turns
from prumerge.mini.clip_questions import CLIP_FAMILIES, CLIP_PRACTICE, ask_clip
from prumerge.mini.clips import FRAMES, GRID, MOST_THINGS
from prumerge.mini.features import Features
from prumerge.mini.model import (
    CHAT_TEMPLATE,
    IDS,
    IMAGE,
    VIDEO,
    Learner,
    begin_with,
    behind_tower,
    build_processor,
    build_tokenizer,
    words_of,
)
from prumerge.mini.questions import ask_many
from prumerge.mini.styles import MOVING
from prumerge.mini.training import TALK, Stage, planned
from prumerge.models.videos import VideoProcessor

CLIPS, FIRST = 3200, 800
STEPS = {
    "few tokens": 1600,
    "more tokens": 900,
    "any tokens": 200,
    "other clips": 1300,
    "other clips, any tokens": 80,
}

_PICTURE = "{% if part['type'] == 'image' %}"
VIDEO_TEMPLATE = CHAT_TEMPLATE.replace(
    _PICTURE, "{% if part['type'] == 'video' %}<video> {% elif part['type'] == 'image' %}"
)

CARD = """# mini-video

A Video-LLaVA made of the mini-LLaVA, small enough for a laptop: 8 frames of {tokens} visual tokens
and a class token each, stock class (`VideoLlavaForConditionalGeneration`). It knows {words} words
and answers questions about what happens in drawn clips: which way a thing moves, which came first,
how often one blinked, how many came, what they look like, what number is on a sign.

* **Tower**: the mini-LLaVA's, for pictures and frames alike, as it sees the middle 16 x 16 patches
  of its own frame. It was frozen and is not in this folder: `prumerge.models.load` joins the two.
* **Made by** `python -m prumerge.experiments.video`: projector and language model
  ({parameters:.1f} million weights) went on from the mini-LLaVA's, on {kept:,} clips,
  {pictures:,} looks at them in {hours:.1f} hours on {device}, seed {seed}, torch {torch}.
  `training.csv` holds the curve, `training.json` the record, `scores.csv` what it answers.
* **Prompt**: `user : <video> which way does the red circle move ? assistant :`
* **Digits**: scans of the UCI set in scikit-learn (CC BY 4.0); evaluation uses scans held out of
  training. Everything else is drawn.
* **Limits**: it has seen nothing but these clips. How often a thing blinked, and how many came, it
  answers no better than a guess; see `scores.csv`. Nothing measured on it is a number of the
  PruMerge paper or of Video-LLaVA.
* **Licence**: Apache-2.0.
"""


@dataclass(frozen=True)
class Size:
    """Patches along an edge of a frame, and frames."""

    grid: int = GRID
    frames: int = FRAMES


class Filmed(Learner):
    """What is trained behind the mini-LLaVA's frozen tower: projector and language model.

    The tower is not here: batches bring its features, class tokens of the frames included.
    """

    style, card, size = MOVING, CARD, Size()

    def __init__(self, mini: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.llava = VideoLlavaForConditionalGeneration(video_config(mini))
        self.llava.model.video_tower = self.llava.model.image_tower = nn.Identity()
        begin_with(self.llava, mini.state_dict())

    def see(self, batch: Any) -> Float[Tensor, "clips slots width"]:
        return batch.features

    def learning(self, parts: Iterable[str]) -> list[nn.Module]:
        return behind_tower(self.llava)

    def processor(self) -> VideoProcessor:
        pictures = build_processor(self.size.grid).image_processor
        words = build_tokenizer(words_of(MOVING))
        return VideoProcessor(pictures, words, MOVING.patch_px, VIDEO_TEMPLATE)


def video_config(mini: LlavaForConditionalGeneration) -> VideoLlavaConfig:
    """Return the sizes of a mini-video: the mini-LLaVA's, for frames of 16 x 16 patches.

    Two entries are not stock: ``tower``, by whose name the loader finds the weights that are not in
    the folder, and ``scenes``, the style of pictures to ask about.
    """
    vision = mini.config.vision_config.to_dict() | {"image_size": GRID * MOVING.patch_px}
    text = mini.config.text_config.to_dict() | {"vocab_size": len(words_of(MOVING))}
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IDS[IMAGE],
        video_token_index=IDS[VIDEO],
        image_seq_length=GRID**2,
        video_seq_length=FRAMES * (1 + GRID**2),
        vision_feature_layer=mini.config.vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        tower="mini",
        scenes=MOVING.name,
    )


def make_clip_batch(recipe: Recipe, *seed: int, known: Features) -> Batch:
    """Draw the batch that belongs to ``seed``: clips, questions, and the patches shown.

    The frames' class tokens are always shown. Patches of things are preferred to ground from not
    at all to entirely, as drawn for each clip.
    """
    rng = np.random.default_rng(seed)
    found = known.pictures.like(recipe.objects)
    if recipe.among is not None:
        found = found[(recipe.among[0] <= found) & (found <= recipe.among[1])]
    numbers = rng.choice(found, recipe.pictures)
    clips = [known.pictures.scene(number) for number in numbers.tolist()]
    most = recipe.text_tokens // 8
    turns = [ask_many(clip, most, rng, recipe.families, ask_clip) for clip in clips]
    frames, patches = len(clips[0].owner), clips[0].owner[0].size
    count = int(rng.choice(recipe.tokens)) if recipe.tokens else frames * patches
    kept = np.stack([draw_slots(clip.owner.reshape(frames, -1) > 0, count, rng) for clip in clips])
    seen, text_place = kept, frames * (1 + patches)
    if rng.random() < 0.5:  # closed up, without gaps
        seen, text_place = np.tile(np.arange(kept.shape[1]), (len(clips), 1)), kept.shape[1]
    nothing = torch.zeros((len(clips), frames * (1 + patches)), dtype=torch.long)
    return Batch(
        pixel_values=None,
        features=known.read(numbers),
        tower_positions=torch.zeros(0, dtype=torch.long),
        captions=torch.zeros((len(clips), 0), dtype=torch.long),
        kinds=nothing,
        colours=nothing,
        kept=torch.from_numpy(kept),
        **pack_turns(turns, recipe.text_tokens, seen, text_place),
        **pack_practice([]),
    )


def draw_slots(things: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` patches of all frames and add each frame's class token; slots, in order.

    ``things`` tells for each frame which patches lie on one.
    """
    frames, patches = things.shape
    luck = rng.random(things.shape) + things * rng.random()
    chosen = np.argsort(-luck, axis=None)[:count]
    slots = chosen // patches * (1 + patches) + 1 + chosen % patches
    return np.sort(np.concatenate([slots, np.arange(frames) * (1 + patches)]))


def schedule(scale: float = 1.0, clips: int = CLIPS) -> list[Stage]:
    """Return the stages that lead to a ``mini-video``; ``scale`` is a factor above 0 on the steps.

    Few tokens first, which is quick and leaves room for many questions, then more, then any number:
    all of that on the first quarter of the clips. What happens in these it then knows by heart, and
    what happens in others it often does not see; so the last two stages go on with the others.
    """
    stage = planned(STEPS, scale, warmup=100)
    first = min(FIRST, max(2 * MOST_THINGS, clips // 4))
    over_time = ("motion", "order", "blinks")
    asked = (*CLIP_FAMILIES, *over_time, *CLIP_PRACTICE)
    few = Recipe(8, GRID, None, 320, 1, (1, MOST_THINGS), asked, (96, 128, 192))
    few = replace(few, among=(0, first - 1))
    more = replace(few, tokens=(128, 256, 512))
    whole = FRAMES * GRID**2
    spread = replace(few, pictures=4, tokens=(128, 256, 512, 1024, whole))
    others = (*asked, *over_time, "arrivals", "arrivals")
    other = {"families": others, "among": (first % clips, clips - 1)}

    return [
        stage("few tokens", TALK, few, (1e-3, 6e-4), growth=0.3),
        stage("more tokens", TALK, more, (6e-4, 2e-4)),
        stage("any tokens", TALK, spread, (3e-4, 1e-5)),
        stage("other clips", TALK, replace(few, **other), (8e-4, 1e-4)),
        stage("other clips, any tokens", TALK, replace(spread, **other), (2e-4, 1e-5)),
    ]
