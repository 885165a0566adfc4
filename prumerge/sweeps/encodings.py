"""What the encoder makes of a question set: computed once, on disk, shared by all points.

Kept are the pictures, the questions, and the hidden states asked for so far; features, keys and
scores of any settings follow from these by one LayerNorm and two linear maps. A folder per weights
and set in ``data/runs/encodings``; files get their names when they are complete.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge import paths
from prumerge.encoder import Encoded, hidden_states, needed_layers, open_tower, shrunk_features
from prumerge.mini import families, glyphs, scenes
from prumerge.mini import questions as mini_questions
from prumerge.models import load
from prumerge.models.loading import fingerprint
from prumerge.pictures import grid_of, to_pixels
from prumerge.scores import read_states
from prumerge.settings import Settings
from prumerge.sweeps import questions
from prumerge.sweeps.questions import QuestionSet, draw_questions

BATCH = 15  # pictures encoded at a time


@dataclass(frozen=True)
class Encodings:
    """A model with a question set that it has seen, or will see when needed.

    Attributes:
        model: A LLaVA.
        processor: Its processor.
        weights: Names the checkpoint.
        folder: Where hidden states are kept.
        questions: Pictures and questions.
    """

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    weights: str
    folder: Path
    questions: QuestionSet

    @torch.inference_mode()
    def read(self, settings: Settings) -> Encoded:
        """Return features, keys and scores of all pictures, as these settings want them.

        Args:
            settings: ``score``, ``softmax_class``, ``score_layer`` and ``key_layer`` are read.

        Returns:
            On the model's device. ``at_grid`` encodes smaller pictures when it is called.

        Raises:
            ValueError: If the score needs a class token that the encoder does not have, or a layer
                does not exist.
        """
        tower = open_tower(self.model.model.vision_tower)
        feature_layer = self.model.config.vision_feature_layer
        layers = needed_layers(settings, feature_layer, len(tower.encoder.layers))
        hidden = self.states(layers)
        encoded = read_states(tower, hidden, layers, settings, (grid_of(self.model),) * 2)
        return dataclasses.replace(
            encoded,
            at_grid=functools.partial(self._shrunk, tower, layers[0]),
            rerun=functools.partial(self._again, tower, layers[0]),
        )

    def states(self, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Return hidden states of all pictures; those that are not on disk are computed."""
        paths_of = {layer: self.folder / f"state-{layer}.npy" for layer in layers}
        missing = {layer for layer, path in paths_of.items() if not path.exists()}
        if missing:
            self._compute(missing)
        weight = next(self.model.parameters())
        return {
            layer: torch.from_numpy(np.load(path)).to(weight) for layer, path in paths_of.items()
        }

    @torch.inference_mode()
    def _compute(self, layers: set[int]) -> None:
        tower = open_tower(self.model.model.vision_tower)
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        for start in range(0, len(self.questions.pixels), BATCH):
            pixels = self._pixels(range(start, min(start + BATCH, len(self.questions.pixels))))
            for layer, state in hidden_states(tower, pixels, layers).items():
                parts[layer].append(state.float().cpu().numpy())
        for layer, found in parts.items():
            _write(self.folder / f"state-{layer}.npy", np.save, np.concatenate(found))

    def _pixels(self, pictures: Iterable[int]) -> torch.Tensor:
        images = [Image.fromarray(self.questions.pixels[picture]) for picture in pictures]
        return to_pixels(self.processor, images)

    def _again(self, tower, layer, function, pictures) -> Any:
        return function(tower, self._pixels(pictures.tolist()), layer)

    def _shrunk(self, tower, layer, grid, pictures) -> torch.Tensor:
        chosen = pictures.tolist()
        return shrunk_features(tower, self._pixels(chosen), layer, grid, torch.arange(len(chosen)))


@functools.lru_cache(maxsize=2)
def open_encodings(model: str, name: str, per_family: int, device: str = "cpu") -> Encodings:
    """Load a model and a question set; what was drawn and encoded before is read from disk.

    Args:
        model: As for :func:`prumerge.models.load`.
        name: A question set.
        per_family: Questions of each family.
        device: Where the model lives.

    Returns:
        Model and set. Two are held; a third pushes out the one used least.
    """
    llava, processor = load(model, device)
    weights = fingerprint(model, llava)
    drawn = paths.RUNS / "encodings" / f"{name}-{per_family}-{_drawing()}-{grid_of(llava)}"
    seen = drawn / f"{weights}-{next(llava.parameters()).dtype}".replace("torch.", "")
    seen.mkdir(parents=True, exist_ok=True)
    asked = _questions(drawn, lambda: draw_questions(name, per_family, grid_of(llava)))
    return Encodings(llava, processor, weights, seen, asked)


def _questions(folder: Path, draw: Callable[[], QuestionSet]) -> QuestionSet:
    pixels, table = folder / "pixels.npy", folder / "questions.parquet"
    if not (pixels.exists() and table.exists()):
        drawn = draw()
        _write(pixels, np.save, drawn.pixels)
        _write(table, lambda file, rows: rows.to_parquet(file), drawn.table)
    return QuestionSet(np.load(pixels), pd.read_parquet(table))


def _drawing() -> str:
    """Name the code that draws, so that an old drawing is not taken for a new one."""
    modules = (scenes, glyphs, families, mini_questions, questions)
    sources = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(sources.encode()).hexdigest()[:8]


def _write(path: Path, write: Callable, content: object) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        write(file, content)
    partial.replace(path)


def main(arguments: list[str]) -> None:
    """Encode a question set: ``[model, set, per_family]`` as JSON, then the device."""
    of, device = json.loads(arguments[0]), arguments[1]
    seen = open_encodings(*of, device)
    layers = open_tower(seen.model.model.vision_tower).encoder.layers
    read = needed_layers(Settings(), seen.model.config.vision_feature_layer, len(layers))
    # The block before the last too: most rivals read their scores there.
    seen.states({*read, len(layers) - 2})


if __name__ == "__main__":
    main(sys.argv[1:])
