"""What a claim is, and what is found out about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from prumerge.printed import read_printed

if TYPE_CHECKING:
    from prumerge.claims.evidence import Evidence

HOLDS, PART, FAILS = "holds", "holds in part", "does not hold"
UNTESTED = "cannot be tested here"
VERDICTS = (HOLDS, PART, FAILS, UNTESTED)
ARITHMETIC = "arithmetic"


class Missing(ValueError):
    """Rows that a claim needs are not there; the message is the command that makes them."""


class Finding(NamedTuple):
    """What was found about a claim.

    Attributes:
        verdict: One of ``VERDICTS``.
        found: The finding in words, with its numbers.
        on: What it was found on: ``arithmetic``, ``mini-LLaVA``, ``LLaVA-1.5 7B`` ...
        ratio: The number found, where the claim's two printed cells make a ratio.
    """

    verdict: str
    found: str
    on: str = ARITHMETIC
    ratio: float | None = None


class Cell(NamedTuple):
    """Where a number is printed: file of ``data/paper``, row and column."""

    file: str
    row: str
    column: str

    def read(self) -> pd.Series:
        """Return the printed number's row.

        Raises:
            ValueError: If nothing is printed there.
        """
        table = read_printed(self.file)
        own = table[(table["row"] == self.row) & (table["column"] == self.column)]
        if len(own) != 1:
            raise ValueError(f"{self.file} has {len(own)} numbers at {self.row!r}, {self.column!r}")
        return own.iloc[0]

    @property
    def value(self) -> float:
        """The printed number."""
        return float(self.read()["value"])


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: Short and unique; the number of the table first.
        group: Heading it stands under, such as ``Table 4``.
        says: The claim in own words.
        where: Place in the paper, or address.
        rule: From rows to the finding.
        cells: Printed numbers it rests on.
        printed_as: What is printed; ``{}`` stand for the digits of the cells, in turn.
    """

    name: str
    group: str
    says: str
    where: str
    rule: Callable[[Evidence], Finding]
    cells: tuple[Cell, ...] = ()
    printed_as: str = "{} against {}"

    @property
    def printed(self) -> str:
        """What is printed, the digits from ``data/paper``."""
        return self.printed_as.format(*(cell.read()["printed"] for cell in self.cells))

    @property
    def printed_ratio(self) -> float | None:
        """The first cell divided by the second, where there are two."""
        if len(self.cells) != 2:
            return None
        first, second = self.cells
        return first.value / second.value

    def judge(self, evidence: Evidence) -> Finding:
        """Apply the rule; missing rows make a claim untested."""
        try:
            return self.rule(evidence)
        except Missing as missing:
            return Finding(UNTESTED, str(missing), "-")


def judge(claims: Iterable[Claim], evidence: Evidence) -> pd.DataFrame:
    """Find out about each claim.

    Args:
        claims: Which; their names differ.
        evidence: Committed rows.

    Returns:
        One row per claim, by name: ``group``, ``claim``, ``printed``, ``where``, ``found``,
        ``on``, ``verdict``, and ``printed_ratio`` and ``found_ratio``, NaN where there is none.

    Raises:
        ValueError: If a name stands twice.
    """
    rows: dict[str, dict] = {}
    for claim in claims:
        if claim.name in rows:
            raise ValueError(f"two claims are called {claim.name!r}: rename one")
        finding = claim.judge(evidence)
        ratios = (None, None) if finding.ratio is None else (claim.printed_ratio, finding.ratio)
        rows[claim.name] = {
            "group": claim.group,
            "claim": claim.says,
            "printed": claim.printed,
            "where": claim.where,
            "found": finding.found,
            "on": finding.on,
            "verdict": finding.verdict,
            "printed_ratio": ratios[0],
            "found_ratio": ratios[1],
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return table.astype({"printed_ratio": float, "found_ratio": float})
