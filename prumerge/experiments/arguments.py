"""Values on a command line: ``name=value`` pairs, of one meaning in every command."""

from collections.abc import Sequence
from typing import Any


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
