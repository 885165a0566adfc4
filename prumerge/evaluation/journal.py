"""Answers on disk as they are given: a killed run goes on where it stopped.

The harness's own response cache stores answers after the last one is given, and drops what a killed
process had stored. Here each batch is on disk before the next begins.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prumerge.asking import Answer


def key_of(**parts: Any) -> str:
    """Name a question so that only the same question to the same model shares the name.

    Args:
        **parts: Everything the answer depends on, as plain values.

    Returns:
        A hash.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Answers by key, read from every file of a folder, appended to one.

    Args:
        folder: Where the files are; made if absent. None keeps answers in memory alone.
        writer: Name of the file this process appends to; one per process.

    Raises:
        ValueError: If the folder cannot be written or a file not be read; the message names file
            and line. A torn last line, as a kill leaves it, is dropped.
    """

    def __init__(self, folder: str | Path | None = None, writer: str = "answers-0") -> None:
        self._answers: dict[str, Answer] = {}
        self._file = None
        if folder is None:
            return
        folder = Path(folder)
        own = folder / f"{writer}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = own.open("ab")
        except OSError as error:
            raise ValueError(f"answers={folder} is no folder to write into: {error}") from error
        for path in sorted(folder.glob("*.jsonl")):
            self._read(path, own=path == own)

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: str) -> Answer | None:
        """Return the answer to a question, or None."""
        return self._answers.get(key)

    def keep(self, entries: Iterable[tuple[str, Answer, dict[str, Any]]]) -> None:
        """Store answers, on disk when this returns.

        Args:
            entries: Key, answer, and what a reader of the file wants to see besides.
        """
        lines = []
        for key, answer, shown in entries:
            self._answers[key] = answer
            lines.append(json.dumps({"key": key, **shown, **asdict(answer)}) + "\n")
        if self._file is not None and lines:
            self._file.write("".join(lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self, path: Path, own: bool) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"the answers in {path} cannot be read: {error}") from error
        whole, newline, torn = content.rpartition(b"\n")
        if torn and own:
            # Cut off, or the next answer would be glued to it. Another process may still be
            # writing the end of its own file.
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                entry = json.loads(line)
                names = Answer.__dataclass_fields__
                self._answers[entry["key"]] = Answer(**{name: entry[name] for name in names})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}, is no answer ({error!r}): remove that line to have "
                    "its question asked again, or name another folder"
                ) from error
