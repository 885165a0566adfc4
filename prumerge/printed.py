"""The tables that papers print, as rows to compare with.

The files stand in ``data/paper``; ``data/README.md`` says what each column and each word of the
columns ``source`` and ``trust`` means.
"""

import pandas as pd

from prumerge.paths import DATA

PAPER = DATA / "paper"
"""Printed tables, one CSV each."""


def read_printed(name: str) -> pd.DataFrame:
    """Read a printed table.

    Args:
        name: File in ``data/paper`` without its ending, such as ``table_2_efficiency``.

    Returns:
        One row per printed number: ``table``, ``row`` and ``column`` where it stands, ``value``,
        ``printed`` (the digits as they are printed, so that trailing zeros are not lost),
        ``unit``, ``source`` and ``trust``.

    Raises:
        ValueError: If there is no such table.

    Example:
        >>> table = read_printed("table_2_efficiency").set_index(["row", "column"])
        >>> table.loc[("7B FP16 + PruMerge", "storing activation"), ["printed", "unit"]].tolist()
        ['0.28', 'GB']
    """
    path = PAPER / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PAPER.glob("*.csv")))
        raise ValueError(f"no printed table {name!r}: there are {known}")
    table = pd.read_csv(path, dtype=str)
    table.insert(table.columns.get_loc("value") + 1, "printed", table["value"])
    table["value"] = table["value"].astype(float)
    return table
