"""What lmms-eval asks for, in the form the model needs it."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from prumerge.preprocessing import to_rgb

DEFAULT_NEW_TOKENS = 128  # as LLaVA-1.5's own evaluation, where a task names no limit
PICTURE_COLUMNS = ("image_id", "image_source", "question_id")
"""Columns that name a picture: of VQAv2 and TextVQA, of POPE, of MME."""

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


def in_colours(value: Any) -> Any:
    """Turn a row's pictures into red, green and blue before a task looks at them.

    The tasks of lmms-eval do so by ``convert("RGB")``, which lays transparent parts on black and
    makes 16-bit greys white; afterwards that changes nothing.

    Args:
        value: A row, or what is in it; lists and dicts are searched.

    Returns:
        The same with its pictures as of :func:`prumerge.preprocessing.to_rgb`.
    """
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, dict):
        return {name: in_colours(part) for name, part in value.items()}
    return [in_colours(part) for part in value] if isinstance(value, list) else value


def in_order(requests: Sequence[tuple[Any, ...]], data: dict[str, Any]) -> list[list[int]]:
    """Sort requests into groups that can share batches.

    Within a group questions about one picture stand together, so that it is encoded once, and
    pictures with long questions come first: then too large a batch fails at once, and the time
    left is overestimated.

    Args:
        requests: Their arguments, for simple models.
        data: Rows by task and split, as the harness hands them to a model.

    Returns:
        Places of requests with equal task, split and generation options, group by group.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, (_, raw, _, _, task, split) in enumerate(requests):
        options = json.dumps(raw, sort_keys=True, default=str)
        groups.setdefault((task, split, options), []).append(place)
    ordered = []
    for (task, split, _), places in sorted(groups.items()):
        names = picture_names(data[task][split])
        longest: dict[Hashable, int] = {}
        shown = {}
        for place in places:
            context, _, _, number, *_ = requests[place]
            shown[place] = name = number if names is None else names[number]
            longest[name] = max(longest.get(name, 0), len(context))
        # The name settles ties as text, since columns hold numbers or texts.
        ordered.append(sorted(places, key=lambda p: (-longest[shown[p]], str(shown[p]), p)))
    return ordered


def picture_names(rows: Any) -> list[Hashable] | None:
    """Tell which questions are about the same picture, without opening pictures.

    Args:
        rows: A data set, or anything else.

    Returns:
        A name per row, from the first column that benchmarks name pictures in; None without.
    """
    columns = getattr(rows, "column_names", ())
    column = next((name for name in PICTURE_COLUMNS if name in columns), None)
    return None if column is None else list(rows[column])


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
