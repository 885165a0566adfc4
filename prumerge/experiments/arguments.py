"""What all commands read alike: ``name=value`` pairs, and where their rows go."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prumerge.paths import RESULTS, RUNS


def named_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs.

    Raises:
        ValueError: If one has no ``=``.

    Example:
        >>> named_values(["method=release", "budget=32", "extra_token=false"])
        {'method': 'release', 'budget': 32, 'extra_token': False}
    """
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"{pair!r} is no name=value, such as budget=32")
    return {name: value_of(text) for name, _, text in (pair.partition("=") for pair in pairs)}


def value_of(text: str) -> Any:
    """Read a value from a command line: a truth value or None in any spelling, a number, or text.

    Example:
        >>> [value_of(text) for text in ("false", "None", "64", "1.5", "prumerge+")]
        [False, None, 64, 1.5, 'prumerge+']
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def rows_place(parser: argparse.ArgumentParser, chosen: argparse.Namespace, usual: Path) -> Path:
    """Return where a command writes its rows: only a run with the defaults among the committed.

    That is ``chosen.rows``, or ``usual``, a place in ``data/results``, or the same place in
    ``data/runs`` if any argument is not the parser's default.
    """
    if chosen.rows is not None:
        return chosen.rows
    given = {name: value for name, value in vars(chosen).items() if name != "rows"}
    defaults = all(_same(value, parser.get_default(name)) for name, value in given.items())
    return usual if defaults else RUNS / usual.relative_to(RESULTS)


def _same(value: object, default: object) -> bool:
    return list(value) == list(default) if isinstance(value, list | tuple) else value == default
