"""Instruction data in LLaVA's JSON format, read in a stream.

The format of ``llava_v1_5_mix665k.json``: one JSON array, or one object per line, of

    {"id": "000000033471",
     "image": "coco/train2017/000000033471.jpg",         # below the images folder; none: text only
     "conversations": [
         {"from": "human", "value": "<image>\\nWhat are the colors of the bus?"},
         {"from": "gpt", "value": "The bus is white and red."}, ...]}

with questions and answers in turn, and ``<image>`` exactly once where there is a picture. Other
keys are ignored. A file of a gigabyte needs the memory of its longest record.

Source: LLaVA, ``docs/Finetune_Custom_Data.md`` and ``llava/train/train.py``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

IMAGE = "<image>"
_PIECE_CHARACTERS = 1 << 20
_LONGEST_CHARACTERS = 1 << 26
_KEPT = "surrogateescape"
_BETWEEN = " \t\r\n,\ufeff"


class RecordError(ValueError):
    """A record that cannot be trained on; the message names file, record and reason."""


class Span(NamedTuple):
    """Where a record stands in its file.

    Attributes:
        number: Of the record, from 1; in JSON lines, of the line.
        start: First byte.
        length: Bytes.
        value: What stands there; the error where it is no JSON or no UTF-8.
    """

    number: int
    start: int
    length: int
    value: Any


@dataclass(frozen=True)
class Record:
    """One conversation.

    Attributes:
        where: File and number of the record, as messages name it.
        image: Path of the picture below the images folder; None for text alone.
        turns: Questions and answers, without the placeholder.
    """

    where: str
    image: str | None
    turns: tuple[tuple[str, str], ...]


def read_spans(path: Path) -> Iterator[Span]:
    """Read a file record by record.

    Args:
        path: JSON array or JSON lines, UTF-8.

    Yields:
        The records in order. After broken JSON a file of lines goes on; an array cannot, so the
        broken record is its last. After bytes that are no UTF-8 both go on.

    Raises:
        ValueError: If the file is missing, or begins like neither format.
    """
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
        yield Span(number, start, len(source), _decoded(source, value))
        number, start, at = number + 1, start + len(source), end


def _decoded(source: bytes, value: Any) -> Any:
    try:
        source.decode()
    except UnicodeDecodeError as error:
        return error
    return value


def read_at(path: Path, start: int, length: int) -> Any:
    """Parse the one record at a place that :func:`read_spans` has found."""
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.read(length).decode("utf-8-sig"))


def to_record(value: Any, where: str) -> Record:
    """Check one record.

    Args:
        value: As parsed from JSON, or the error it gave.
        where: File and number, for messages.

    Returns:
        The conversation.

    Raises:
        RecordError: If it is no conversation in turns, or if its placeholders do not match its
            picture.
    """
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
    image = value.get("image")
    if image is not None and not isinstance(image, str):
        raise RecordError(f"{where}: 'image' must be one path below the images folder: {image!r}")
    shown, wanted = sum(text.count(IMAGE) for text in texts), int(image is not None)
    if shown != wanted:
        raise RecordError(
            f"{where}: {shown} {IMAGE} for {wanted} picture{'' if wanted == 1 else 's'}: "
            f"write {IMAGE} once where 'image' names a picture, else not at all"
        )
    texts = [text.replace(IMAGE, "").strip() for text in texts]
    return Record(where, image, tuple(zip(texts[::2], texts[1::2], strict=True)))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where} has no text as its 'value'")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise RecordError(f"{where} has half a character, {half!a}: mend or delete it") from error
    return value
