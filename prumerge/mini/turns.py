"""What the language model is shown in training: some patches of a picture, then question turns.

All turns of one picture stand behind the same visual tokens. No turn sees another (block mask,
positions restart), or the model would copy names from earlier questions instead of looking.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from prumerge.mini.families import Question
from prumerge.mini.scenes import Scene
from prumerge.mini.vocabulary import END, IDS, IMAGE, PAD, token_ids

PROMPT_START = ("<s>", "user", ":")  # what stands in front of the visual tokens
IGNORED = -100


def draw_kept(
    scenes: list[Scene], tokens: int, rng: np.random.Generator
) -> Int[np.ndarray, "pictures tokens"]:
    """Draw which patches of each picture the language model is shown, in raster order.

    How much things are preferred to ground is drawn for each picture: not at all (any patches) up
    to entirely (ground only when all things are in). A language model that has only ever seen whole
    pictures rests on their ground and is lost without it, whichever patches are kept.
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
    rows, columns = (start + np.arange(shown) for start in scene.corner)
    return np.append((rows[:, None] * scene.grid + columns).reshape(-1), scene.grid**2)


def pack_turns(
    turns: list[list[Question]], text_tokens: int, places: np.ndarray, text_place: int
) -> dict[str, Tensor]:
    """Lay the turns of each picture behind its visual tokens.

    Args:
        turns: Questions by picture; those that no longer fit are left out.
        text_tokens: Tokens of all turns of a picture together; the rest is padding.
        places: Places of the visual tokens of each picture behind the prompt start.
        text_place: Place where every turn begins.

    Returns:
        ``input_ids``, ``targets``, ``position_ids`` and ``attention_mask`` of :class:`Batch`.
    """
    start, end_of_head = len(PROMPT_START), len(PROMPT_START) + places.shape[1]
    shape = (len(turns), end_of_head + text_tokens)
    ids, targets = torch.full(shape, IDS[PAD]), torch.full(shape, IGNORED)
    position_ids, turn_of = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    ids[:, :start] = torch.tensor([IDS[word] for word in PROMPT_START])
    ids[:, start:end_of_head] = IDS[IMAGE]
    turn_of[:, :end_of_head] = 0
    position_ids[:, :start] = torch.arange(start)
    position_ids[:, start:end_of_head] = start + torch.from_numpy(places)
    for row, asked in enumerate(turns):
        at = end_of_head
        for number, (words, answer_at) in enumerate(map(_code, asked), start=1):
            end = at + len(words)
            if end > shape[1]:
                continue
            ids[row, at:end] = torch.tensor(words)
            targets[row, at + answer_at - 1 : end - 1] = ids[row, at + answer_at : end]
            position_ids[row, at:end] = start + text_place + torch.arange(len(words))
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
    """Lay conversations about no picture below each other, padded behind.

    Returns:
        ``practice_ids`` and ``practice_targets`` of a batch; both empty when nothing is asked.
    """
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
