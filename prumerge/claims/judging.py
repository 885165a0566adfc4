"""What a claim is, and verdicts on claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from prumerge.claims.evidence import Evidence, Missing
from prumerge.experiments.printed import read_printed

HOLDS, PART, FAILS = "holds", "holds in part", "does not hold"
CORRECTED, UNTESTED = "corrected by its authors", "cannot be tested here"
VERDICTS = (HOLDS, PART, FAILS, CORRECTED, UNTESTED)

PAPER, CRITICS, OURS = "paper", "critics", "ours"
BY = (PAPER, CRITICS, OURS)
"""Who makes a claim: the paper, those who used, measured or reviewed it, or this workbook."""

COUNTS = "How many tokens are kept"
CHOICE = "Which tokens are kept"
MERGING = "What merging adds"
PLACES = "Order and position ids"
ANSWERS = "What is still answered"
TUNING = "What tuning adds"
REDUCERS = "Against other reducers"
COST = "What it costs and saves"
VIDEO = "Video"
RELEASE = "The released code and weights"
GROUPS = (COUNTS, CHOICE, MERGING, PLACES, ANSWERS, TUNING, REDUCERS, COST, VIDEO, RELEASE)
"""What claims are about: their headings, in this order."""


TRUST = ("unconfirmed", "secondary", "primary")
"""Words of ``data/paper``: how far a number can be trusted, the least first."""


class Finding(NamedTuple):
    """What was found about a claim."""

    verdict: str  # one of VERDICTS
    found: str  # in words, with its numbers
    on: str = "arithmetic"  # or the model: mini-LLaVA, LLaVA-1.5 7B ...
    ratio: float | None = None  # where the claim's two printed cells make one
    released: str | None = None  # the verdict as each is released, where it was asked beside


class Cell(NamedTuple):
    """Where a number is printed."""

    file: str  # of data/paper
    row: str
    column: str

    def read(self) -> pd.Series:
        """Return the printed number's row; a ValueError if nothing is printed there."""
        table = read_printed(self.file)
        own = table[(table["row"] == self.row) & (table["column"] == self.column)]
        if len(own) != 1:
            raise ValueError(f"{self.file} has {len(own)} numbers at {self.row!r}, {self.column!r}")
        return own.iloc[0]

    @property
    def value(self) -> float:
        return float(self.read()["value"])


def pair(file: str, first: str, second: str, column: str) -> tuple[Cell, Cell]:
    """Name two rows' numbers of one column."""
    return Cell(file, first, column), Cell(file, second, column)


Rule = Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Claim:
    name: str  # short and unique; the number of the table first
    group: str  # what it is about, one of GROUPS
    says: str  # in own words
    where: str  # place in the paper, such as "Table 4", or address
    rule: Rule
    cells: tuple[Cell, ...] = ()  # printed numbers it rests on
    printed_as: str = ""  # {} stand for the digits of the cells, which else stand alone
    by: str = PAPER  # who makes it, one of BY

    def __post_init__(self) -> None:
        for value, known in ((self.group, GROUPS), (self.by, BY)):
            if value not in known:
                raise ValueError(f"claim {self.name!r}: {value!r} is none of {', '.join(known)}")

    @property
    def printed(self) -> str:
        """What is printed, the digits from ``data/paper``."""
        digits = [cell.read()["printed"] for cell in self.cells]
        return self.printed_as.format(*digits) or " against ".join(digits) or "-"

    @property
    def trust(self) -> str:
        """How far its printed numbers can be trusted, the least of all; "-" where it has none."""
        found = {cell.read()["trust"] for cell in self.cells}
        return next((word for word in TRUST if word in found), "-")

    @property
    def printed_ratio(self) -> float | None:
        """The first cell divided by the second, where there are two."""
        return self.cells[0].value / self.cells[1].value if len(self.cells) == 2 else None

    def judge(self, evidence: Evidence) -> Finding:
        """Apply the rule; missing rows make a claim untested."""
        try:
            return self.rule(evidence)
        except Missing as missing:
            return Finding(UNTESTED, str(missing), "-")


def judge(claims: Iterable[Claim], evidence: Evidence) -> pd.DataFrame:
    """Find out about each claim: one row for each, by its name, which must be unique.

    Columns: ``by``, ``group``, ``claim``, ``printed``, ``trust``, ``where``, ``found``, ``on``,
    ``verdict``, ``released`` (the verdict as each method is released, "-" where none was asked),
    and ``printed_ratio`` and ``found_ratio``, NaN where there is none. What rests on printed
    numbers and computation alone is ``on`` arithmetic; all else was measured on the model named.
    """
    rows: dict[str, dict] = {}
    for claim in claims:
        if claim.name in rows:
            raise ValueError(f"two claims are called {claim.name!r}: rename one")
        verdict, found, on, ratio, released = claim.judge(evidence)
        said = {"by": claim.by, "group": claim.group, "claim": claim.says}
        said |= {"printed": claim.printed, "trust": claim.trust, "where": claim.where}
        said |= {"found": found, "on": on, "verdict": verdict, "released": released or "-"}
        said["printed_ratio"] = None if ratio is None else claim.printed_ratio
        rows[claim.name] = said | {"found_ratio": ratio}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return table.astype({"printed_ratio": float, "found_ratio": float})
