"""What values a setting may have, and what to say when a name is misspelt."""

import difflib
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args, get_origin


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_budget(value: Any) -> bool:
    if value is None or _whole(value):
        return value is None or value >= 1
    return _number(value) and 0 < value <= 1


_SHARE = (lambda value: _number(value) and 0 <= value <= 1, "a number in [0, 1]")
_LAYER = (lambda value: value is None or _whole(value), "None or an int")
_COUNT = (lambda value: _whole(value) and value >= 0, "an int of at least 0")
_RULES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    "budget": (_is_budget, "None, an int of at least 1 (tokens) or a float in (0, 1] (share)"),
    "whisker": (lambda value: _number(value) and value >= 0, "a finite number of at least 0"),
    "lower_quantile": _SHARE,
    "upper_quantile": _SHARE,
    "outlier_share": _SHARE,
    "fixed_ratio": (lambda value: _number(value) and 0 < value <= 1, "a number in (0, 1]"),
    "spatial_factor": (lambda value: _whole(value) and value >= 1, "an int of at least 1"),
    "neighbours": _COUNT,
    "seed": _COUNT,
    "score_layer": _LAYER,
    "key_layer": _LAYER,
}


def check(name: str, kind: Any, value: Any) -> None:
    """Refuse a setting's value outside its limits.

    Args:
        name: The field.
        kind: Its type; a ``Literal`` lists the values allowed.
        value: What was given.

    Raises:
        ValueError: Naming field, limits and value.
    """
    if get_origin(kind) is Literal:
        accepts, limits = get_args(kind).__contains__, f"one of {list(get_args(kind))}"
    else:
        accepts, limits = _RULES[bool if kind is bool else name]
    if not accepts(value):
        raise ValueError(f"{name} must be {limits}, got {value!r}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name is meant, and which there are.

    Args:
        name: As it was typed.
        known: Names that exist.

    Returns:
        The rest of an error message.

    Example:
        >>> suggestion("wisker", ["whisker", "seed"])
        "did you mean 'whisker'? There are: whisker, seed"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(known)}"
