"""What calls for several rows have in common: counts that are checked, values that are crossed."""

from typing import Any

import pandas as pd


def check_counts(**counts: int) -> None:
    """Refuse counts below 1.

    Args:
        **counts: Counts by name.

    Raises:
        ValueError: If one is below 1 or no whole number.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or count != int(count) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")


def several(value: Any) -> list:
    """Return a list: of the values of a sequence, or of the one value given.

    Args:
        value: A name, number or object, or a list, tuple, range or column of them.

    Returns:
        The list.
    """
    return list(value) if isinstance(value, (list, tuple, range, pd.Series)) else [value]
