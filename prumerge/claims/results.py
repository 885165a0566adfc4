"""Table 1: six benchmarks with and without the method, and who else is beaten."""

from functools import partial

import pandas as pd

from prumerge.claims.evidence import Evidence
from prumerge.claims.judging import (
    ANSWERS,
    CORRECTED,
    FAILS,
    HOLDS,
    PART,
    UNTESTED,
    Cell,
    Claim,
    Finding,
    pair,
)
from prumerge.claims.rules import above_in, all_or_some, at_most, better, computed
from prumerge.experiments.evaluation.beside import COLUMNS
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import Interval

FILE, EARLIER = "table_1_main_results", "table_1_earlier_versions"
METHODS = {"release": "PruMerge", "release+": "PruMerge+"}
OTHERS = ["BLIP-2 13B", "InstructBLIP 7B", "InstructBLIP 13B", "Shikra 13B"]
OTHERS += ["IDEFICS-9B", "IDEFICS-80B"]
MOST_TOKENS = 1.2
"""Times the printed number: with more tokens a claim can hold in part at best."""


def tokens_cell(label: str) -> Cell:
    """Name the printed number of visual tokens of a method."""
    return Cell(FILE, f"LLaVA-1.5 7B + {METHODS[label]}", "visual tokens")


def at_count(verdict: str, label: str, tokens: float) -> str:
    """Lower ``holds`` to ``holds in part`` where far more tokens were sent than are printed.

    Example:
        >>> at_count("holds", "release", 40.0), at_count("holds", "release+", 150.0)
        ('holds in part', 'holds')
    """
    many = tokens > MOST_TOKENS * tokens_cell(label).value
    return PART if many and verdict == HOLDS else verdict


def keeps(label: str, benchmark: str, evidence: Evidence) -> Finding:
    """Judge the share of a score that is kept, at equal handling where there are such rows.

    The claim holds if the share is at least the printed one, or all where tuning printed more; in
    part if the interval of the reduced score reaches it or if it took far more tokens. A full model
    that scores no more than the best constant answer has nothing to lose.
    """
    rows, on = evidence.scores()
    full = rows.loc[("full", benchmark)]
    if full["low"] <= full["constant"]:
        found = f"all tokens score {full['value']:.1f}, the best constant answer "
        return Finding(UNTESTED, f"{found}{full['constant']:.1f}: nothing to lose", on)
    handled = evidence.handled(label)
    own, released = (rows.loc[(name, benchmark)] for name in (handled or label, label))
    found = _kept(own, full)
    found += f" with {own['tokens_mean']:.0f} tokens, {tokens_cell(label).value:.0f} printed"
    found = (
        f"{found}; as released it {_kept(released, full)}" if handled else f"as released: {found}"
    )
    share = float(own["value"] / full["value"])
    verdict, as_released = (_share_verdict(r, full, label, benchmark) for r in (own, released))
    return Finding(verdict, found, on, share, as_released if handled else None)


def _share_verdict(own: pd.Series, full: pd.Series, label: str, benchmark: str) -> str:
    reduced, whole = _cells("7B", label, COLUMNS[benchmark])
    wanted = min(reduced.value / whole.value, 1.0)
    share, high = own["value"] / full["value"], own["high"] / full["value"]
    verdict = HOLDS if share >= wanted else PART if high >= wanted else FAILS
    return at_count(verdict, label, own["tokens_mean"])


def _kept(own: pd.Series, full: pd.Series) -> str:
    share, low, high = (own[name] / full["value"] for name in ("value", "low", "high"))
    return f"keeps {share:.0%} ({low:.0%} to {high:.0%})"


def keeps_13b(label: str, evidence: Evidence) -> Finding:
    """Judge the larger model by the mean share of all benchmarks."""
    rows, on = evidence.scores("13B")
    value = rows["value"].reset_index().pivot_table("value", "benchmark", "label")
    table = printed_scores(FILE)
    printed = (table[f"LLaVA-1.5 13B + {METHODS[label]}"] / table["LLaVA-1.5 13B"]).mean()
    found = (value[label] / value["full"]).mean()
    verdict = at_most(-found, -printed, -0.95 * printed)
    verdict = at_count(verdict, label, mean_tokens(label, evidence, "13B"))
    return Finding(verdict, f"keeps {found:.1%} on average, {printed:.1%} printed", on)


def printed_scores(file: str) -> pd.DataFrame:
    """Return a printed table's six scores, one column per row of the table."""
    return read_printed(file).pivot_table("value", "column", "row").loc[list(COLUMNS.values())]


def mean_tokens(label: str, evidence: Evidence, size: str = "7B") -> float:
    """Return the mean number of tokens of a method over the benchmarks."""
    return float(evidence.scores(size)[0].loc[label, "tokens_mean"].mean())


def able(evidence: Evidence) -> list[str]:
    """List the benchmarks on which all tokens score more than the best constant answer."""
    full = evidence.scores()[0].loc["full"]
    return list(full.index[full["low"] > full["constant"]])


def comparable(label: str, evidence: Evidence) -> Finding:
    """Judge "comparable": no benchmark loses beyond chance, question by question."""
    handled = evidence.handled(label)
    names, of, on = _losing(handled or label, evidence)
    found = f"{len(names)} of {of} benchmarks lose beyond chance{_listed(names)}"
    lost, _, _ = _losing(label, evidence)
    if handled:
        found += f"; as released {len(lost)}{_listed(lost)}"
    tokens = mean_tokens(label, evidence)
    verdicts = [at_count(all_or_some(of - len(own), of), label, tokens) for own in (names, lost)]
    return Finding(verdicts[0], found, on, released=verdicts[1] if handled else None)


def _losing(label: str, evidence: Evidence) -> tuple[list[str], int, str]:
    lost, on = evidence.lost(label, "full")
    lost = lost[lost.index.isin(able(evidence))]
    return [COLUMNS[name] for name in lost.index[lost["high"] < 0]], len(lost), on


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def plus_recovers(evidence: Evidence) -> Finding:
    """Compare PruMerge+ with PruMerge, each at its own number of tokens, at equal handling."""
    labels = ("release+", "release")
    handled = [evidence.handled(label) for label in labels]
    first, second = handled if all(handled) else labels
    apart, on = evidence.lost(first, second)
    apart = apart[apart.index.isin(able(evidence)) & (apart.index != "scienceqa")]
    bounds = zip(apart.index, *(apart[name] for name in Interval._fields), strict=True)
    found = better({COLUMNS[name]: Interval(*bound) for name, *bound in bounds}, on)
    tokens = mean_tokens("release+", evidence)
    return found._replace(verdict=at_count(found.verdict, "release+", tokens))


def still_printed(evidence: Evidence) -> Finding:
    """Compare numbers with what a later version printed."""
    apart = {}
    for earlier, later in zip(CHANGED[::2], CHANGED[1::2], strict=True):
        model = later.row.removeprefix("LLaVA-1.5 ")
        apart[f"{later.column}, {model}"] = later.value - earlier.value
    changed = ", ".join(f"{name} {by:+.1f}" for name, by in apart.items())
    verdict = CORRECTED if any(abs(by) > 0.05 for by in apart.values()) else HOLDS
    return computed(verdict, f"the last version prints {changed}")


def beats_others(label: str, evidence: Evidence) -> Finding:
    """Compare with other models, on printed numbers alone."""
    table = printed_scores(FILE)
    others, own = table[OTHERS], table[f"LLaVA-1.5 7B + {METHODS[label]}"]
    return above_in(int(others.lt(own, axis=0).sum(axis=None)), int(others.count().sum()))


def _cells(size: str, label: str, column: str) -> tuple[Cell, Cell]:
    return pair(FILE, f"LLaVA-1.5 {size} + {METHODS[label]}", f"LLaVA-1.5 {size}", column)


def _of_method(label: str) -> list[Claim]:
    name = METHODS[label]
    tokens = (tokens_cell(label),)
    return [
        Claim(f"1-{label}-comparable", ANSWERS, f"{name} is comparable with all tokens.",
              "abstract", partial(comparable, label), tokens, "about {} tokens"),
        Claim(f"1-{label}-13b", ANSWERS, f"{name} keeps the larger model's scores.", "Table 1, 13B",
              partial(keeps_13b, label), _cells("13B", label, "VQAv2"),
              "VQAv2 {} of {}, and five more"),
        Claim(f"1-{label}-others", ANSWERS, f"{name} 7B is above BLIP-2, InstructBLIP, Shikra "
              "and IDEFICS.", "Table 1", partial(beats_others, label), tokens,
              "with about {} tokens"),
    ]  # fmt: skip


_PRUMERGE, _PLUS = "LLaVA-1.5 7B + PruMerge", "LLaVA-1.5 7B + PruMerge+"
_THIRTEEN = "LLaVA-1.5 13B + PruMerge"
CHANGED = (
    *(Cell(file, _PRUMERGE, "POPE") for file in (EARLIER, FILE)),
    *(Cell(file, _THIRTEEN, "POPE") for file in (EARLIER, FILE)),
    *(Cell(file, _PLUS, "VQAv2") for file in (EARLIER, FILE)),
)
"""Numbers of earlier versions, each with the last version's."""

CLAIMS = (
    *(
        Claim(f"1-{label}-{benchmark}", ANSWERS, f"{METHODS[label]} keeps {column}.", "Table 1, 7B",
              partial(keeps, label, benchmark), _cells("7B", label, column), "{} of {}")
        for label in METHODS
        for benchmark, column in COLUMNS.items()
    ),
    *_of_method("release"),
    *_of_method("release+"),
    Claim("1-plus", ANSWERS, "PruMerge+ scores more than PruMerge on every benchmark but "
          "ScienceQA.", "Table 1, 7B", plus_recovers, (CHANGED[5], Cell(FILE, _PRUMERGE, "VQAv2")),
          "VQAv2 {} against {}"),
    Claim("1-versions", ANSWERS, "Earlier versions' scores still stand.",
          "first version, page of April 2024; Table 1", still_printed, CHANGED,
          "POPE {}, later {}; 13B {}, later {}; VQAv2 of PruMerge+ {}, later {}"),
)  # fmt: skip
