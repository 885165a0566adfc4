"""Training batches: pictures, captions, patch names and many question turns per picture.

A batch depends only on its seed, so an interrupted training goes on with the same batches. All
turns of one picture stand behind the same visual tokens. No turn sees another (block mask,
positions restart), or the model would copy names from earlier questions instead of looking.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prumerge.mini.families import Question
from prumerge.mini.features import Features
from prumerge.mini.glyphs import KINDS
from prumerge.mini.model import END, IDS, IMAGE, PAD, token_ids
from prumerge.mini.questions import FAMILIES, ask, ask_many, caption
from prumerge.mini.scenes import Scene, draw_scene

PROMPT_START = ("<s>", "user", ":")  # what stands in front of the visual tokens
IGNORED = -100
NEWLINE, NOTHING = -1, -2  # what stands instead of a patch at a row's end, behind a short picture


@dataclass(frozen=True)
class Recipe:
    pictures: int
    grid: int  # patches along an edge of the frame
    window: int | None  # patches along an edge of the part shown; None shows the whole frame
    text_tokens: int  # room for the question turns of each picture; as many as fit are asked
    caption_tokens: int  # room for the caption; what is longer is cut
    objects: tuple[int, int]  # least and largest number of things
    families: tuple[str, ...] = tuple(FAMILIES)  # in turn; one named twice is asked twice as often
    tokens: tuple[int, ...] = ()  # numbers shown, one drawn for each batch; empty shows all
    practice: int = 0  # conversations about no picture, see questions.PRACTICE
    sign: bool | None = None  # whether each picture has one to read; None leaves it to chance
    among: tuple[int, int] | None = None  # first and last number of the clips drawn; None: all


@dataclass(frozen=True)
class Batch:
    """Tensors of one training step; ``tokens`` counts prompt start, patches and all turns."""

    pixel_values: Float[Tensor, "pictures 3 height width"] | None  # None where features are there
    features: Float[Tensor, "pictures patches width"] | None  # of a frozen tower; None: it is run
    tower_positions: Int[Tensor, " places"]  # class token and the patches shown
    captions: Int[Tensor, "pictures words"]
    kinds: Int[Tensor, "pictures patches"]  # 0 ground, else 1 + index into KINDS
    colours: Int[Tensor, "pictures patches"]  # 0 none, else 1 + index into the style's colours
    kept: Int[Tensor, "pictures seen"]  # patches the language model is shown, in raster order;
    # of a picture in tiles NEWLINE and NOTHING as well
    input_ids: Int[Tensor, "pictures tokens"]
    targets: Int[Tensor, "pictures tokens"]  # the answer's next token, IGNORED elsewhere
    position_ids: Int[Tensor, "pictures tokens"]
    attention_mask: Bool[Tensor, "pictures 1 tokens tokens"]
    practice_ids: Int[Tensor, "conversations practice_words"]
    practice_targets: Int[Tensor, "conversations practice_words"]

    def to(self, device: str) -> "Batch":
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v if v is None else v.to(device) for k, v in held.items()})


def make_batch(recipe: Recipe, *seed: int, known: Features | None = None) -> Batch:
    """Draw the batch that belongs to ``seed``; of pictures whose features are ``known``, if any."""
    rng = np.random.default_rng(seed)
    shown = recipe.window or recipe.grid
    # One window per batch: the tower's position embeddings are then the same for all its pictures.
    corner = tuple(int(c) for c in rng.integers(0, recipe.grid - shown + 1, size=2))
    if known is None:
        options = {"window": recipe.window, "sign": recipe.sign, "corner": corner}
        scenes = [
            draw_scene(rng, recipe.grid, objects=recipe.objects, **options)
            for _ in range(recipe.pictures)
        ]
    else:
        numbers = rng.choice(known.pictures.like(recipe.objects, recipe.sign), recipe.pictures)
        scenes = [known.pictures.scene(number) for number in numbers.tolist()]
    # A turn takes 8 tokens at least; questions that find no room are left out.
    most = recipe.text_tokens // 8
    turns = [ask_many(scene, most, rng, recipe.families) for scene in scenes]
    captions = _captions(scenes, recipe.caption_tokens, rng)
    names = [patch_names(scene) for scene in scenes]
    places = draw_places(scenes[0], shown, rng)
    count = int(rng.choice(recipe.tokens)) if recipe.tokens else shown * shown
    in_a_row = np.tile(range(count), (len(scenes), 1))
    kept = draw_kept(scenes, count, rng) if recipe.tokens else in_a_row
    seen, text_place = places[kept], int(places[-1])
    if recipe.tokens and rng.random() < 0.5:  # closed up, as a reduced prompt is, without gaps
        seen, text_place = in_a_row, count
    return Batch(
        pixel_values=pixel_values(scenes) if known is None else None,
        features=None if known is None else known.read(numbers),
        tower_positions=torch.from_numpy(
            np.concatenate([[0], 1 + _places_in_frame(corner, shown, recipe.grid)])
        ),
        captions=captions,
        kinds=torch.tensor(np.stack([kinds for kinds, _ in names])),
        colours=torch.tensor(np.stack([colours for _, colours in names])),
        kept=torch.from_numpy(kept),
        **pack_turns(turns, recipe.text_tokens, seen, text_place),
        **pack_practice([ask(scenes[0], "letter", rng) for _ in range(recipe.practice)]),
    )


def pixel_values(scenes: list[Scene]) -> Float[Tensor, "pictures 3 height width"]:
    """Return the pictures as the processor would: channels first, from -1 to 1."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def patch_names(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return kind and colour of what lies on each patch shown, flattened row by row."""
    kinds = np.zeros(len(scene.things) + 2, dtype=np.int64)
    colours = np.zeros_like(kinds)
    for index, thing in enumerate(scene.things, start=1):
        kinds[index] = 1 + KINDS.index(thing.kind)
        colours[index] = 1 + list(scene.style.colours).index(thing.colour)
    kind_map = kinds[scene.owner]
    if scene.sign is not None:
        rows, columns = np.nonzero(scene.owner == len(scene.things) + 1)
        left = scene.sign.column - scene.corner[1]
        digits = np.array([1 + KINDS.index(digit) for digit in scene.sign.number])
        kind_map[rows, columns] = digits[(columns - left) // scene.style.sign_rows]
    return kind_map.reshape(-1), colours[scene.owner].reshape(-1)


def _captions(
    scenes: list[Scene], length: int, rng: np.random.Generator
) -> Int[Tensor, "pictures words"]:
    captions = torch.full((len(scenes), length), IDS[PAD])
    for row, scene in enumerate(scenes):
        words = [IDS["<s>"], *token_ids(caption(scene, rng))][: length - 1]
        words.append(IDS[END])
        captions[row, : len(words)] = torch.tensor(words)
    return captions


def _places_in_frame(corner: tuple[int, int], shown: int, grid: int) -> np.ndarray:
    rows, columns = (start + np.arange(shown) for start in corner)
    return (rows[:, None] * grid + columns).reshape(-1)


def draw_kept(
    scenes: list[Scene], tokens: int, rng: np.random.Generator
) -> Int[np.ndarray, "pictures tokens"]:
    """Draw which patches of each picture the language model is shown, in raster order.

    Things are preferred to ground from not at all to entirely, as drawn for each picture: a
    language model that has only seen whole pictures rests on their ground and is lost without it.
    """
    owner = np.stack([scene.owner.reshape(-1) > 0 for scene in scenes])
    preference = rng.random((len(scenes), 1))
    luck = rng.random(owner.shape) + owner * preference
    best = np.argsort(-luck, axis=1)[:, :tokens]
    return np.sort(best, axis=1)


def draw_places(scene: Scene, shown: int, rng: np.random.Generator) -> np.ndarray:
    """Return the visual tokens' places behind the prompt start, then the place where text begins.

    A window is half of the time numbered as it lies in the frame (with gaps) and half of the time
    closed up, so that the language model does not lean on distances between tokens.
    """
    if shown == scene.grid or rng.random() < 0.5:
        return np.arange(shown * shown + 1)
    return np.append(_places_in_frame(scene.corner, shown, scene.grid), scene.grid**2)


def pack_turns(
    turns: list[list[Question]],
    text_tokens: int,
    places: Int[np.ndarray, "pictures seen"],
    text_place: int | Int[np.ndarray, " pictures"],
) -> dict[str, Tensor]:
    """Lay the turns of each picture behind its visual tokens, as many as fit.

    ``places`` are those of visual tokens, and below 0 where a picture has none any more;
    ``text_place`` is where the text begins.
    """
    text_places = np.broadcast_to(text_place, len(turns)).tolist()
    start, end_of_head = len(PROMPT_START), len(PROMPT_START) + places.shape[1]
    shape = (len(turns), end_of_head + text_tokens)
    ids, targets = torch.full(shape, IDS[PAD]), torch.full(shape, IGNORED)
    position_ids, turn_of = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    ids[:, :start] = torch.tensor([IDS[word] for word in PROMPT_START])
    ids[:, start:end_of_head] = IDS[IMAGE]
    turn_of[:, :end_of_head] = 0
    turn_of[:, start:end_of_head][torch.from_numpy(places < 0)] = -1  # seen by no other token
    position_ids[:, :start] = torch.arange(start)
    position_ids[:, start:end_of_head] = start + torch.from_numpy(places.clip(min=0))
    for row, asked in enumerate(turns):
        at = end_of_head
        for number, (words, answer_at) in enumerate(map(_code, asked), start=1):
            end = at + len(words)
            if end > shape[1]:
                continue
            ids[row, at:end] = torch.tensor(words)
            targets[row, at + answer_at - 1 : end - 1] = ids[row, at + answer_at : end]
            position_ids[row, at:end] = start + text_places[row] + torch.arange(len(words))
            turn_of[row, at:end] = number
            at = end
    same = turn_of[:, :, None] == turn_of[:, None, :]
    causal = torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
    return {
        "input_ids": ids,
        "targets": targets,
        "position_ids": position_ids,
        "attention_mask": ((same | (turn_of[:, None, :] == 0)) & causal)[:, None],
    }


def pack_practice(asked: list[Question]) -> dict[str, Tensor]:
    """Lay conversations about no picture below each other, padded behind."""
    start = [IDS[word] for word in PROMPT_START]
    coded = [_code(question) for question in asked]
    shape = (len(coded), len(start) + max((len(words) for words, _ in coded), default=0))
    ids, targets = torch.full(shape, IDS[PAD]), torch.full(shape, IGNORED)
    for row, (words, answer_at) in enumerate(coded):
        end, answer_at = len(start) + len(words), len(start) + answer_at
        ids[row, :end] = torch.tensor(start + words)
        targets[row, answer_at - 1 : end - 1] = ids[row, answer_at:end]
    return {"practice_ids": ids, "practice_targets": targets}


def _code(question: Question) -> tuple[list[int], int]:
    """Return a turn's tokens and the index at which its answer begins."""
    asked = token_ids(f"{question.text} assistant :")
    return [*asked, *token_ids(question.answer), IDS[END]], len(asked)
