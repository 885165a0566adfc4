"""Training data: conversations about pictures and clips, from a file or drawn.

:class:`InstructionFile` and :class:`SceneInstructions` hand out ``(record, shown)`` by number, so
that a training sees the same data after a resume. LLaVA's format, as in
``llava_v1_5_mix665k.json``, is one JSON array, or one object per line, of

    {"id": "000000033471",
     "image": "coco/train2017/000000033471.jpg",         # below the images folder; none: text only
     "conversations": [
         {"from": "human", "value": "<image>\\nWhat are the colors of the bus?"},
         {"from": "gpt", "value": "The bus is white and red."}, ...]}

with questions and answers in turn, and ``<image>`` exactly once where there is a picture; likewise
``<video>`` and the key ``video``, a folder of frames, or a GIF. A record shows a picture or a clip,
not both. Other keys are ignored. A file of a gigabyte needs the memory of its longest record.

Source: LLaVA, ``docs/Finetune_Custom_Data.md``; the key ``video`` is Video-LLaVA's.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from prumerge.mini.pictures import read_picture
from prumerge.mini.questions import ask_many
from prumerge.mini.scenes import draw_scene, most_objects
from prumerge.mini.styles import PLAIN, Style
from prumerge.models.clip_files import FRAMES, open_frames
from prumerge.models.videos import IMAGE, VIDEO
from prumerge.paths import written_whole

SCENE_SEED = 70_000  # far from the seeds of training from nothing and of the held-out questions
_PIECE_CHARACTERS = 1 << 20
_LONGEST_CHARACTERS = 1 << 26
_KEPT = "surrogateescape"
_BETWEEN = " \t\r\n,\ufeff"
_LOG = logging.getLogger(__name__)


class RecordError(ValueError):
    """A record that cannot be trained on; the message names file, record and reason."""


@dataclass(frozen=True)
class Record:
    where: str  # file and number, as messages name it
    image: str | None  # path below the images folder; None for text alone
    turns: tuple[tuple[str, str], ...]  # questions and answers, without the placeholder
    video: str | None = None  # as image; a record has one of them, or none

    @property
    def kind(self) -> str:
        """What it shows, in the words of chat templates; empty for text alone."""
        return "image" if self.image is not None else "video" if self.video is not None else ""


Example = tuple[Record, Image.Image | list[Image.Image] | None]
"""A record, and its picture or the frames of its clip."""


class InstructionFile:
    """An instruction file in LLaVA's format, of which every record is checked once, in a stream.

    Only the places of the good ones are kept, 24 bytes each. Pictures and clips must be there,
    below the folder ``images``; they are opened when asked for, ``frames`` of each clip, evenly
    spaced. A clip of fewer is as one that cannot be read. ``on_problem="stop"`` raises
    :class:`RecordError` at the first bad record, ``"skip"`` notes it in ``problems``; ``check`` may
    refuse a record by raising it, say for its length in tokens. A file that is missing, begins like
    neither format or has no record left is a ValueError.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path = "",
        on_problem: str = "stop",
        check: Callable[[Record], object] = lambda record: None,
        frames: int = FRAMES,
    ) -> None:
        if on_problem not in ("stop", "skip"):
            raise ValueError(f"on_problem must be 'stop' or 'skip', got {on_problem!r}")
        self.path, self.images, self.on_problem = Path(path), Path(images), on_problem
        self.frames = frames
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
        """Read a record; with ``"skip"``, the next one where picture or clip cannot be read."""
        for shift in range(len(self)):
            number, start, length = map(int, self._places[(index + shift) % len(self)])
            with self.path.open("rb") as file:
                file.seek(start)
                value = _parsed(file.read(length))
            try:
                record = self._checked(value, number)
                return record, self._shown(record)
            except RecordError as error:
                self._note(error)
        raise ValueError(f"no picture or clip of {self.path} can be read: {self.problems[-1]}")

    def _checked(self, value: object, number: int) -> Record:
        record = to_record(value, f"{self.path}, record {number}")
        for what, name in (("picture", record.image), ("video", record.video)):
            path = self.images / (name or "")
            if name is not None and not (path.is_file() or (what == "video" and path.is_dir())):
                raise RecordError(f"{record.where}: no {what} {path}: check the images folder")
        return record

    def _shown(self, record: Record) -> Image.Image | list[Image.Image] | None:
        try:
            if record.video is not None:
                return open_frames(self.images / record.video, self.frames)
            return None if record.image is None else read_picture(self.images / record.image).image
        except ValueError as error:
            raise RecordError(f"{record.where}: {error}") from error

    def _note(self, error: RecordError) -> None:
        if self.on_problem == "stop":
            raise error
        if str(error) not in self.problems:
            self.problems.append(str(error))
            _LOG.warning("left out (%d so far): %s", len(self.problems), error)


class SceneInstructions:
    """Drawn scenes with questions: ``count`` conversations, each about a scene of its own.

    ``turns`` is the most questions in one, of different families; ``grid`` the patches along an
    edge of a scene; ``seed`` fixes them all. ``style`` is that in which the model is asked, and has
    the sizes of scenes where they are several tiles large.
    """

    def __init__(
        self, count: int, turns: int = 1, grid: int = 24, seed: int = 0, style: Style = PLAIN
    ) -> None:
        if count < 1 or turns < 1:
            raise ValueError(f"count and turns must be at least 1, got {count} and {turns}")
        self.count, self.turns, self.grid, self.seed, self.style = count, turns, grid, seed, style

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((SCENE_SEED, self.seed, index))
        grids = self.style.grids(self.grid)
        grid = grids[index % len(grids)]
        asked: list = []
        while not asked:  # an empty scene may allow no question
            scene = draw_scene(rng, grid, objects=(1, most_objects(grid)), style=self.style)
            asked = ask_many(scene, self.turns, rng)
        turns = tuple((question.text, question.answer) for question in asked)
        return Record(f"scene {index}", f"{index:06}.png", turns), Image.fromarray(scene.pixels)


def write_scenes(folder: Path, scenes: SceneInstructions, lines: bool = False) -> Path:
    """Write scenes in LLaVA's format, a record per line with ``lines``; return that file's path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(len(scenes)):
        record, picture = scenes[index]
        picture.save(folder / "images" / record.image)
        said = [text for turn in record.turns for text in turn]
        said[0] = f"{IMAGE}\n{said[0]}"
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
        records.append({"id": str(index), "image": record.image, "conversations": turns})
    path = folder / ("instructions.jsonl" if lines else "instructions.json")
    with written_whole(path) as partial:
        partial.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return path


class Span(NamedTuple):
    """Where a record stands in its file, in bytes, and what stands there."""

    number: int  # from 1; in JSON lines, of the line
    start: int
    length: int
    value: Any  # the error where it is no JSON or no UTF-8


def read_spans(path: Path) -> Iterator[Span]:
    """Read record by record; broken JSON ends an array, but no file of lines; bad UTF-8 neither."""
    if not path.is_file():
        raise ValueError(f"no instruction file {path}: name a JSON or JSON lines file")
    # Bytes that are no UTF-8 come as surrogates, and line ends as they are: places are in bytes.
    with path.open(encoding="utf-8", errors=_KEPT, newline="") as file:
        first = file.read(64).lstrip(_BETWEEN)[:1]
        if first not in ("[", "{"):
            raise ValueError(f"{path} begins with {first!r}: neither a JSON array nor JSON lines")
        file.seek(0)
        yield from _array(file) if first == "[" else _lines(path)


def _lines(path: Path) -> Iterator[Span]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Span(number, start, len(line), _parsed(line))
            start += len(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return error


def _array(file: Any) -> Iterator[Span]:
    decoder, text, at = json.JSONDecoder(), "", 0
    number, start, opened = 1, 0, False
    while True:
        while at < len(text) and (text[at] in _BETWEEN or not opened):
            opened = opened or text[at] == "["
            start, at = start + len(text[at].encode(errors=_KEPT)), at + 1
        if text[at : at + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            text, at = text[at:], 0
            more = file.read(max(_PIECE_CHARACTERS, len(text)))
            if more and len(text) < _LONGEST_CHARACTERS:
                text += more
                continue
            yield Span(number, start, len(text.encode(errors=_KEPT)), error)
            return
        source = text[at:end].encode(errors=_KEPT)
        # A surrogate in the text is a byte that is no UTF-8; parsed as bytes, it is told.
        yield Span(number, start, len(source), value if source.isascii() else _parsed(source))
        number, start, at = number + 1, start + len(source), end


def to_record(value: Any, where: str) -> Record:
    """Check one record, as parsed from JSON or the error it gave; ``where`` begins the messages."""
    if isinstance(value, UnicodeDecodeError):
        wrong, place = value.object[value.start : value.end], value.start
        raise RecordError(
            f"{where}: {wrong!r} at byte {place} of it is no UTF-8: save the file in UTF-8"
        )
    if isinstance(value, json.JSONDecodeError):
        raise RecordError(f"{where}: broken or truncated JSON ({value.msg}): mend or delete it")
    turns = value.get("conversations") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        raise RecordError(f"{where}: no 'conversations' with turns")
    texts = []
    for number, turn in enumerate(turns):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise RecordError(f"{where}: turn {number + 1} must be from {speaker!r}, got {turn!r}")
        texts.append(_text(turn.get("value"), f"{where}: turn {number + 1}"))
    if len(texts) % 2:
        raise RecordError(f"{where}: the last question has no answer")
    image, video = (_path_of(value, kind, where) for kind in ("image", "video"))
    if image is not None and video is not None:
        raise RecordError(f"{where}: both 'image' and 'video': make two records of it")
    texts = _unmarked(texts, image, "picture", IMAGE, where)
    if video is not None:  # without one, only some models read a mark in these letters
        texts = _unmarked(texts, video, "video", VIDEO, where)
    turns = tuple(zip(texts[::2], texts[1::2], strict=True))
    return Record(where, image, turns, video)


def _path_of(value: dict[str, Any], kind: str, where: str) -> str | None:
    path = value.get(kind)
    if path is not None and (not isinstance(path, str) or not path):
        raise RecordError(f"{where}: {kind!r} must be one path below the images folder: {path!r}")
    return path


def _unmarked(texts: list[str], path: str | None, what: str, mark: str, where: str) -> list[str]:
    """Take out the one mark of a picture or video; more or fewer are refused."""
    marks, wanted = sum(text.count(mark) for text in texts), int(path is not None)
    if marks != wanted:
        raise RecordError(
            f"{where}: {marks} {mark} for {wanted} {what}{'' if wanted == 1 else 's'}: "
            f"write {mark} once where {mark[1:-1]!r} names a {what}, else not at all"
        )
    return [text.replace(mark, "").strip() for text in texts]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where} has no text as its 'value'")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise RecordError(f"{where} has half a character, {half!a}: mend or delete it") from error
    return value
