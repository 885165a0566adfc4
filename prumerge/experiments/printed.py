"""The tables that papers print, as rows to compare with.

The files stand in ``data/paper``; ``data/README.md`` says what each column and each word of the
columns ``source`` and ``trust`` means.
"""

import pandas as pd

from prumerge.paths import DATA

PAPER = DATA / "paper"


def read_printed(name: str) -> pd.DataFrame:
    """Read a printed table, named as its file in ``data/paper`` without the ending.

    Each row is a printed number: ``table``, ``row`` and ``column`` where it stands, ``value``,
    ``printed`` (the digits, so that trailing zeros are not lost), ``unit``, ``source`` and
    ``trust``.

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


def reads_as(value: float | int, printed: str) -> bool:
    """Say whether a number, rounded to the digits printed, is the number printed.

    Zeros at the end do not count as digits, since some tables fill up columns with them: 4.645
    reads as 4.60, for 4.6 is what was rounded to.

    Example:
        >>> reads_as(4.645, "4.60"), reads_as(28.99, "29.0"), reads_as(4.543, "4.6")
        (True, True, False)
    """
    places = len(printed.partition(".")[2].rstrip("0"))
    return round(float(value), places) == round(float(printed), places)
