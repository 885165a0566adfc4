"""Training data: an instruction file with its images folder, or drawn scenes.

    InstructionFile     read once in a stream to check it; later record by record, from the disk
    SceneInstructions   mini scenes, drawn when asked for
    write_scenes        such scenes as a file in LLaVA's format, with the pictures beside it

Both hand out ``(record, picture)`` by number, so that a training sees the same data after a resume.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from prumerge.finetuning.records import Record, RecordError, read_at, read_spans, to_record
from prumerge.mini.questions import ask_many
from prumerge.mini.scenes import draw_scene
from prumerge.pictures import read_picture

Example = tuple[Record, Image.Image | None]
SCENE_SEED = 70_000  # far from the seeds of training from nothing and of the held-out questions
_LOG = logging.getLogger(__name__)


class InstructionFile:
    """An instruction file in LLaVA's format.

    Reading it once checks every record (also its length in tokens, with ``check``) and remembers
    where the good ones stand, 16 bytes each. Pictures must be there; they are opened when asked
    for.

    Args:
        path: JSON array or JSON lines, see :mod:`prumerge.finetuning.records`.
        images: Folder that the records' paths start from.
        on_problem: ``"stop"`` raises at the first bad record; ``"skip"`` leaves it out.
        check: Called with each good record; raises :class:`RecordError` to refuse it.

    Attributes:
        problems: What is wrong with each record left out.

    Raises:
        RecordError: With ``"stop"``, naming file and record.
        ValueError: If no record is left.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path = "",
        on_problem: str = "stop",
        check: Callable[[Record], object] = lambda record: None,
    ) -> None:
        if on_problem not in ("stop", "skip"):
            raise ValueError(f"on_problem must be 'stop' or 'skip', got {on_problem!r}")
        self.path, self.images, self.on_problem = Path(path), Path(images), on_problem
        self.problems: list[str] = []
        good = []
        for number, start, length, value in read_spans(self.path):
            try:
                record = self._checked(value, number)
                check(record)
                good.append((number, start, length))
            except RecordError as error:
                self._note(error)
        if not good:
            raise ValueError(f"{path} holds no record to train on: {self.problems[:1]}")
        self._places = np.array(good, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        """Read a record; with ``"skip"``, the next one in place of an unreadable picture."""
        for shift in range(len(self)):
            number, start, length = map(int, self._places[(index + shift) % len(self)])
            try:
                record = self._checked(read_at(self.path, start, length), number)
                return record, None if record.image is None else self._picture(record)
            except RecordError as error:
                self._note(error)
        raise ValueError(f"no picture of {self.path} can be read: {self.problems[-1]}")

    def _checked(self, value: object, number: int) -> Record:
        record = to_record(value, f"{self.path}, record {number}")
        if record.image is not None and not (self.images / record.image).is_file():
            raise RecordError(
                f"{record.where}: no picture {self.images / record.image}: check the images folder"
            )
        return record

    def _picture(self, record: Record) -> Image.Image:
        path = self.images / str(record.image)
        try:
            return read_picture(path).image
        except ValueError as error:
            raise RecordError(f"{record.where}: {error}") from error

    def _note(self, error: RecordError) -> None:
        if self.on_problem == "stop":
            raise error
        if str(error) not in self.problems:
            self.problems.append(str(error))
            _LOG.warning("left out (%d so far): %s", len(self.problems), error)


class SceneInstructions:
    """Drawn scenes with questions, as many conversations as asked for; a seed fixes them all.

    Args:
        count: Conversations, each about a scene of its own.
        turns: Most questions in a conversation, of different families.
        grid: Patches along an edge of a scene.
        seed: Of the scenes and questions.
    """

    def __init__(self, count: int, turns: int = 1, grid: int = 24, seed: int = 0) -> None:
        if count < 1 or turns < 1:
            raise ValueError(f"count and turns must be at least 1, got {count} and {turns}")
        self.count, self.turns, self.grid, self.seed = count, turns, grid, seed
        self.problems: list[str] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        """Draw conversation ``index``."""
        rng = np.random.default_rng((SCENE_SEED, self.seed, index))
        most = 12 if self.grid >= 20 else 6
        asked: list = []
        while not asked:  # an empty scene may allow no question
            scene = draw_scene(rng, self.grid, objects=(1, most))
            asked = ask_many(scene, self.turns, rng)
        record = Record(
            f"scene {index}", f"{index:06}.png", tuple((q.text, q.answer) for q in asked)
        )
        return record, Image.fromarray(scene.pixels)


def write_scenes(folder: Path, scenes: SceneInstructions, lines: bool = False) -> Path:
    """Write scenes as LLaVA's instruction data: ``instructions.json`` (or ``.jsonl``) and pictures.

    Args:
        folder: Where to; pictures go below ``images``.
        scenes: What to write.
        lines: One record per line instead of one array.

    Returns:
        The instruction file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(len(scenes)):
        record, picture = scenes[index]
        picture.save(folder / "images" / record.image)
        said = [text for turn in record.turns for text in turn]
        said[0] = f"<image>\n{said[0]}"
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
        records.append({"id": str(index), "image": record.image, "conversations": turns})
    path = folder / ("instructions.jsonl" if lines else "instructions.json")
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    partial.replace(path)
    return path
