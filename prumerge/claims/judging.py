"""What a claim is, the committed rows it rests on, and verdicts from them.

Rows are LLaVA-1.5's where there are some, else the mini-LLaVA's. An effect is an
:class:`prumerge.experiments.statistics.Interval` that is positive where the claim is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prumerge.experiments.evaluation.beside import size_of
from prumerge.experiments.evaluation.comparison import losses, main_scores
from prumerge.experiments.evaluation.results import read_results
from prumerge.experiments.evaluation.scoring import benchmark_of
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import Interval, paired
from prumerge.experiments.sweeps.tables import Answered, find_table, read_sweep_rows
from prumerge.paths import RESULTS

HOLDS, PART, FAILS = "holds", "holds in part", "does not hold"
UNTESTED = "cannot be tested here"
VERDICTS = (HOLDS, PART, FAILS, UNTESTED)


class Missing(ValueError):
    """Rows that a claim needs are not there; the message is the command that makes them."""


class Finding(NamedTuple):
    """What was found about a claim."""

    verdict: str  # one of VERDICTS
    found: str  # in words, with its numbers
    on: str = "arithmetic"  # or the model: mini-LLaVA, LLaVA-1.5 7B ...
    ratio: float | None = None  # where the claim's two printed cells make one


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


Rule = Callable[["Evidence"], Finding]


@dataclass(frozen=True)
class Claim:
    name: str  # short and unique; the number of the table first
    group: str  # heading it stands under, such as "Table 4"
    says: str  # in own words
    where: str  # place in the paper, or address
    rule: Rule
    cells: tuple[Cell, ...] = ()  # printed numbers it rests on
    printed_as: str = ""  # {} stand for the digits of the cells, which else stand alone

    @property
    def printed(self) -> str:
        """What is printed, the digits from ``data/paper``."""
        digits = [cell.read()["printed"] for cell in self.cells]
        return self.printed_as.format(*digits) or " against ".join(digits) or "-"

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

    Columns: ``group``, ``claim``, ``printed``, ``where``, ``found``, ``on``, ``verdict``, and
    ``printed_ratio`` and ``found_ratio``, NaN where there is none.
    """
    rows: dict[str, dict] = {}
    for claim in claims:
        if claim.name in rows:
            raise ValueError(f"two claims are called {claim.name!r}: rename one")
        verdict, found, on, ratio = claim.judge(evidence)
        said = {"group": claim.group, "claim": claim.says, "printed": claim.printed}
        said |= {"where": claim.where, "found": found, "on": on, "verdict": verdict}
        said["printed_ratio"] = None if ratio is None else claim.printed_ratio
        rows[claim.name] = said | {"found_ratio": ratio}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return table.astype({"printed_ratio": float, "found_ratio": float})


SUFFIX = "-llava-1.5-7b-hf"
EVALUATE = "python -m prumerge.evaluation --compare --tasks {} --save data/results/evaluation/{} {}"
_ON_GPU = "pretrained=llava-hf/llava-1.5-{}-hf device=cuda"


def model_name(model: str) -> str:
    """Return a model as the tables name it.

    Example:
        >>> model_name("mini"), model_name("llava-hf/llava-1.5-7b-hf")
        ('mini-LLaVA', 'LLaVA-1.5 7B')
    """
    others = {"mini": "mini-LLaVA", "7b-random": "7B's shape"}
    return others.get(model) or (f"LLaVA-1.5 {size}" if (size := size_of(model)) else model)


class Evidence:
    """Reads rows once and says what they were measured on; sweeps are the committed ones always."""

    def __init__(self, results: Path = RESULTS) -> None:
        self.results = results
        self._read: dict[Any, Any] = {}

    def _once(self, key: Any, read: Callable[[], Any]) -> Any:
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]

    def sweep(self, name: str) -> tuple[Answered, str]:
        """Return a sweep, and the model it was measured on."""
        for own in (name + SUFFIX, name):
            if find_table(own):
                rows = self._once(own, lambda own=own: read_sweep_rows(own))
                return rows, model_name(str(rows.rows["model"].iloc[0]))
        raise Missing(f"no rows yet: make sweep SWEEP={name}")

    def scores(self, size: str = "7B") -> tuple[pd.DataFrame, str]:
        """Return the scores that papers print, of ``7B`` (the mini-LLaVA stands in) or ``13B``."""
        folder, on = self._folder(size)
        rows = self._once((folder, "scores"), lambda: _printed(read_results(folder)[0]))
        return rows.set_index(["label", "benchmark"]), on

    def lost(self, label: str, base: str) -> tuple[pd.DataFrame, str]:
        """Return what a method loses against another, question by question, by benchmark."""
        folder, on = self._folder("7B")
        rows, asked = self._once((folder, "all"), lambda: read_results(folder))
        tasks = _printed(rows)["task"].unique()
        names = asked["task"].astype(str).drop_duplicates()
        # POPE is printed as the mean of its splits, which are tasks of their own.
        own = names[names.map(lambda n: n in tasks or n.rpartition("_")[0] in tasks)]
        pairs = asked[asked["label"].isin([label, base]) & asked["task"].isin(own)]
        return self._once((folder, label, base), lambda: _by_benchmark(pairs, base)), on

    def _folder(self, size: str) -> tuple[Path, str]:
        found = {}
        for file in sorted((self.results / "evaluation").glob("*/rows.csv")):
            models = pd.read_csv(file, usecols=["model"])["model"].astype(str).unique()
            found[model_name(models[0])] = file.parent
        for name in [f"LLaVA-1.5 {size}"] + ["mini-LLaVA"] * (size == "7B"):
            if name in found:
                return found[name], name
        mini = "no rows yet: " + EVALUATE.format("mini", "mini", "").strip()
        raise Missing(mini if size == "7B" else missing_llava(size))

    def table(self, folder: str, name: str, command: str) -> pd.DataFrame:
        """Return a plain file of rows; a ``*`` in its name joins several."""
        files = sorted((self.results / folder).glob(f"{name}.csv"))
        if not files:
            raise Missing(f"no rows yet: {command}")
        return pd.concat(map(pd.read_csv, files), ignore_index=True)

    def tuned(self) -> tuple[pd.DataFrame, str]:
        """Return right or wrong (0 to 1, mean over seeds) by tokens sent and whether tuned."""
        command = "python -m prumerge.finetuning arms"
        answers = self.table("finetuning", "answers", command)
        models = self.table("finetuning", "runs", command)["model"]
        right = answers.pivot_table("correct", "question", ["tokens", "tuned"])
        return right, model_name(str(models.iloc[0]))


def _by_benchmark(pairs: pd.DataFrame, base: str) -> pd.DataFrame:
    tasks = pairs["task"].astype(str)
    named = pairs.assign(
        task=tasks.map(benchmark_of), item=tasks + " " + pairs["item"].astype(str)
    )  # fmt: skip
    return losses(named, base).set_index("task")


def _printed(rows: pd.DataFrame) -> pd.DataFrame:
    # TextVQA without OCR tokens in the prompt is measured too, but never printed.
    return main_scores(rows[rows["task"] != "prumerge_textvqa_val"])


def missing_llava(size: str = "7B") -> str:
    """Return the command that measures LLaVA-1.5 on a GPU."""
    name = f"llava-1.5-{size.lower()}"
    command = EVALUATE.format("real", name, _ON_GPU.format(size.lower()))
    return f"needs LLaVA-1.5 {size} and a GPU: {command}"


UNDECIDED = "chance explains it; more questions would tell"


def direction(effects: Mapping[str, Interval]) -> str:
    """Judge a claim that something is better.

    It holds if all intervals lie above 0, in part if some do; it does not if none does and some
    lie below; it cannot be tested if all of them hold 0.

    Example:
        >>> direction({"a": Interval(2, 1, 3), "b": Interval(1, -1, 3)})
        'holds in part'
    """
    up = sum(effect.low > 0 for effect in effects.values())
    down = sum(effect.high < 0 for effect in effects.values())
    if up:
        return HOLDS if up == len(effects) else PART
    return FAILS if down else UNTESTED


def better(effects: Mapping[str, Interval], on: str) -> Finding:
    """Judge effects in points and put them into words."""
    words = "; ".join(
        f"{name}: {effect.mean:+.1f} ({effect.low:+.1f} to {effect.high:+.1f})"
        for name, effect in effects.items()
    )
    verdict = direction(effects)
    note = f" points: {UNDECIDED}" if verdict == UNTESTED else " points"
    return Finding(verdict, words + note, on)


def points(first: object, second: object, clusters: object = None) -> Interval:
    """Return the paired difference of shares right, in points of a hundred."""
    return Interval(*(100 * value for value in paired(first, second, clusters)))


def by_budget(
    own: Answered, first: Mapping, second: Mapping, budgets: tuple = ()
) -> dict[str, Interval]:
    """Compare two choices of a sweep, such as ``{"method": "ats"}``, at each budget, in points."""
    one, other = (own.where(**choice).scores("budget") for choice in (first, second))
    return {
        f"{budget:.0f} tokens": points(one[budget], other[budget], own.questions["picture"])
        for budget in sorted(budgets or one)
    }


def choice_pays(
    sweep: str, first: Mapping, second: Mapping, evidence: Evidence, *, budgets: tuple = ()
) -> Finding:
    """Judge whether the first of two choices of a sweep answers more."""
    own, on = evidence.sweep(sweep)
    return better(by_budget(own, first, second, budgets), on)


def at_most(value: float | int, holds: float | int, part: float | int) -> str:
    """Judge a number that should be small.

    Example:
        >>> at_most(1.3, 1.25, 1.6)
        'holds in part'
    """
    return HOLDS if value <= holds else PART if value <= part else FAILS


def all_or_some(right: int | np.integer, of: int) -> str:
    """Judge by how many of several cases are right."""
    return HOLDS if right == of else PART if right else FAILS


def above_in(cells: int | np.integer, of: int) -> Finding:
    """Judge by how many printed cells are lower than the method's own."""
    return computed(all_or_some(cells, of), f"above in {cells} of {of} printed cells")


def untested(why: str) -> Rule:
    """Make a rule that only says why a claim cannot be tested here."""
    return lambda evidence: Finding(UNTESTED, why, "-")


def computed(verdict: str, found: str, ratio: float | None = None) -> Finding:
    """Make a finding of arithmetic."""
    return Finding(verdict, found, ratio=ratio)
