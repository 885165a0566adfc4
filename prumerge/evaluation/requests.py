"""What lmms-eval asks for, in the form the model needs it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

DEFAULT_NEW_TOKENS = 128  # as LLaVA-1.5's own evaluation, where a task names no limit
_SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Question:
    """A request with its picture, ready to be asked.

    Attributes:
        key: Its name in the journal.
        task: Task it belongs to.
        item: Number within the task.
        picture: Red green blue.
        prompt: The whole conversation.
        generation: For ``generate``.
        until: Texts before which the answer ends.
    """

    key: str
    task: str
    item: int
    picture: Image.Image
    prompt: str
    generation: dict[str, Any]
    until: list[str]


def place_of(arguments: tuple[Any, ...]) -> tuple[str, str, str, int, int]:
    """Sort requests: those that can share a batch together, the longest first.

    Long ones first, so that too large a batch fails at once and the time left is overestimated.

    Args:
        arguments: A request's, for simple models.

    Returns:
        Task, split and generation options (equal within a batch), then length and item number.
    """
    context, raw, _, number, task, split = arguments
    return task, split, json.dumps(raw, sort_keys=True, default=str), -len(context), number


def generation_of(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn a task's generation options into those of ``generate``.

    Args:
        raw: From the task file.

    Returns:
        Options for greedy or beam search, and the texts before which an answer ends.

    Raises:
        ValueError: If the task wants sampled answers, which would depend on the batch.

    Example:
        >>> generation_of({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "until": "\\n\\n"})
        ({'max_new_tokens': 16}, ['\\n\\n'])
    """
    options = dict(raw)
    if options.pop("do_sample", False) or (options.pop("temperature", 0) or 0) > 0:
        raise ValueError("sampled answers are not offered: set temperature: 0 and do_sample: false")
    until = options.pop("until", None) or []
    # Of no effect on a search without sampling, or meant for the authors' own LLaVA code.
    for name in ("top_p", "top_k", "temperature", "image_aspect_ratio"):
        options.pop(name, None)
    options.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
    return options, [until] if isinstance(until, str) else list(until)


def picture_hash(picture: Image.Image) -> str:
    """Name a picture by its pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]


def report(failures: list[str], done: int, folder: str | None) -> str:
    """Put in words which items could not be answered.

    Args:
        failures: One line per item.
        done: Number of items that were answered.
        folder: Where their answers are, if anywhere.

    Returns:
        A message that shows the first few failures.
    """
    shown = "\n  ".join(failures[:_SHOWN_FAILURES])
    more = len(failures) - _SHOWN_FAILURES
    kept = f"kept in {folder}" if folder else "not kept: give answers=FOLDER"
    return (
        f"{len(failures)} of {len(failures) + done} items cannot be answered:\n  {shown}"
        + (f"\n  and {more} more" if more > 0 else "")
        + f"\nThe answers to the other {done} are {kept}."
    )
