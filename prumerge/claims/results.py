"""Table 1: six benchmarks with and without the method, and who else is beaten. Table 7: PruMerge+
against other reducers at a quarter and at half of the tokens.
"""

from collections.abc import Callable

import pandas as pd

from prumerge.claims.judging import (
    FAILS,
    HOLDS,
    PART,
    UNTESTED,
    Cell,
    Claim,
    Evidence,
    Finding,
    all_or_some,
    at_most,
    better,
    computed,
    interval_of,
    points,
)
from prumerge.evaluation.beside import COLUMNS
from prumerge.experiments.statistics import at_equal_tokens
from prumerge.printed import read_printed

GROUP = "Table 1"
FILE, EARLIER = "table_1_main_results", "table_1_earlier_versions"
METHODS = {"release": "PruMerge", "release+": "PruMerge+"}
OTHERS = ("BLIP-2 13B", "InstructBLIP 7B", "InstructBLIP 13B", "Shikra 13B")
OTHERS += ("IDEFICS-9B", "IDEFICS-80B")
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


def keeps(label: str, benchmark: str) -> Callable[[Evidence], Finding]:
    """Make the rule for the share of a score that is kept.

    The claim holds if the share is at least the printed one, in part if the interval of the
    reduced score reaches it or if it took far more tokens. A full model that scores no more than
    the best constant answer has nothing to lose.
    """
    column = COLUMNS[benchmark]
    reduced = Cell(FILE, f"LLaVA-1.5 7B + {METHODS[label]}", column)
    printed = reduced.value / Cell(FILE, "LLaVA-1.5 7B", column).value

    def rule(evidence: Evidence) -> Finding:
        rows, on = evidence.scores()
        full, own = rows.loc[("full", benchmark)], rows.loc[(label, benchmark)]
        if full["low"] <= full["constant"]:
            found = f"all tokens score {full['value']:.1f}, the best constant answer "
            return Finding(UNTESTED, f"{found}{full['constant']:.1f}: nothing to lose", on)
        share, low, high = (own[name] / full["value"] for name in ("value", "low", "high"))
        verdict = HOLDS if share >= printed else PART if high >= printed else FAILS
        tokens = own["tokens_mean"]
        found = f"keeps {share:.0%} ({low:.0%} to {high:.0%}) with {tokens:.0f} tokens, "
        found += f"{tokens_cell(label).value:.0f} printed"
        return Finding(at_count(verdict, label, tokens), found, on, float(share))

    return rule


def keeps_13b(label: str) -> Callable[[Evidence], Finding]:
    """Make the rule for the larger model: the mean share of all benchmarks."""

    def rule(evidence: Evidence) -> Finding:
        rows, on = evidence.scores("13B")
        value = rows["value"].reset_index().pivot_table("value", "benchmark", "label")
        found, printed = (value[label] / value["full"]).mean(), printed_share("13B", label)
        verdict = at_most(-found, -printed, -0.95 * printed)
        verdict = at_count(verdict, label, mean_tokens(label, evidence, "13B"))
        return Finding(verdict, f"keeps {found:.1%} on average, {printed:.1%} printed", on)

    return rule


def printed_share(size: str, label: str) -> float:
    """Return the mean share of LLaVA's printed scores that a method keeps in print."""
    table = read_printed(FILE).pivot_table("value", "column", "row")
    table = table.loc[list(COLUMNS.values())]
    own = table[f"LLaVA-1.5 {size} + {METHODS[label]}"] / table[f"LLaVA-1.5 {size}"]
    return float(own.mean())


def mean_tokens(label: str, evidence: Evidence, size: str = "7B") -> float:
    """Return the mean number of tokens of a method over the benchmarks."""
    return float(evidence.scores(size)[0].loc[label, "tokens_mean"].mean())


def able(evidence: Evidence) -> list[str]:
    """List the benchmarks on which all tokens score more than the best constant answer."""
    full = evidence.scores()[0].loc["full"]
    return list(full.index[full["low"] > full["constant"]])


def comparable(label: str) -> Callable[[Evidence], Finding]:
    """Make the rule for "comparable": no benchmark loses beyond chance, question by question."""

    def rule(evidence: Evidence) -> Finding:
        lost, on = evidence.lost(label, "full")
        lost = lost[lost.index.isin(able(evidence))]
        names = [COLUMNS[name] for name in lost.index[lost["high"] < 0]]
        found = f"{len(names)} of {len(lost)} benchmarks lose beyond chance"
        found += f" ({', '.join(names)})" if names else ""
        verdict = all_or_some(len(lost) - len(names), len(lost))
        return Finding(at_count(verdict, label, mean_tokens(label, evidence)), found, on)

    return rule


def plus_recovers(evidence: Evidence) -> Finding:
    """Compare PruMerge+ with PruMerge, each at its own number of tokens."""
    apart, on = evidence.lost("release+", "release")
    apart = apart[apart.index.isin(able(evidence)) & (apart.index != "scienceqa")]
    found = better({COLUMNS[name]: interval_of(row) for name, row in apart.iterrows()}, on)
    tokens = mean_tokens("release+", evidence)
    return found._replace(verdict=at_count(found.verdict, "release+", tokens))


def changed(earlier: Cell, later: Cell) -> Callable[[Evidence], Finding]:
    """Make the rule for a number that a later version printed otherwise."""

    def rule(evidence: Evidence) -> Finding:
        apart = earlier.value - later.value
        found = f"printed {apart:+.1f} from the last version"
        return computed(at_most(abs(apart), 0.05, 1), found, earlier.value / later.value)

    return rule


def beats_others(label: str) -> Callable[[Evidence], Finding]:
    """Make the rule for the comparison with other models, on printed numbers alone."""

    def rule(evidence: Evidence) -> Finding:
        table = read_printed(FILE).pivot_table("value", "column", "row")
        own = table.loc[list(COLUMNS.values()), f"LLaVA-1.5 7B + {METHODS[label]}"]
        above = pd.concat([table[name].dropna().rsub(own).dropna() for name in OTHERS]) > 0
        found = f"above in {above.sum()} of {len(above)} printed cells"
        return computed(all_or_some(int(above.sum()), len(above)), found)

    return rule


def _cells(size: str, label: str, column: str) -> tuple[Cell, Cell]:
    row = f"LLaVA-1.5 {size}"
    return Cell(FILE, f"{row} + {METHODS[label]}", column), Cell(FILE, row, column)


def _each() -> list[Claim]:
    return [
        Claim(f"1-{label}-{benchmark}", GROUP, f"{METHODS[label]} keeps {column}.", "Table 1, 7B",
              keeps(label, benchmark), _cells("7B", label, column), "{} of {}")
        for label in METHODS
        for benchmark, column in COLUMNS.items()
    ]  # fmt: skip


def _of_method(label: str) -> list[Claim]:
    name = METHODS[label]
    tokens = (tokens_cell(label),)
    return [
        Claim(f"1-{label}-comparable", GROUP, f"{name} is comparable with all tokens.", "abstract",
              comparable(label), tokens, "about {} tokens"),
        Claim(f"1-{label}-13b", GROUP, f"{name} keeps the larger model's scores.", "Table 1, 13B",
              keeps_13b(label), _cells("13B", label, "VQAv2"), "VQAv2 {} of {}, and five more"),
        Claim(f"1-{label}-others", GROUP, f"{name} 7B is above BLIP-2, InstructBLIP, Shikra and "
              "IDEFICS.", "Table 1", beats_others(label), tokens, "with about {} tokens"),
    ]  # fmt: skip


_PRUMERGE, _PLUS = "LLaVA-1.5 7B + PruMerge", "LLaVA-1.5 7B + PruMerge+"
_POPE = (Cell(EARLIER, _PRUMERGE, "POPE"), Cell(FILE, _PRUMERGE, "POPE"))
_POPE_13B = tuple(
    Cell(file, "LLaVA-1.5 13B + PruMerge", "POPE") for file in (EARLIER, FILE)
)  # fmt: skip
_VQA = (Cell(EARLIER, _PLUS, "VQAv2"), Cell(FILE, _PLUS, "VQAv2"))

CLAIMS = (
    *_each(),
    *_of_method("release"),
    *_of_method("release+"),
    Claim("1-plus", GROUP, "PruMerge+ scores more than PruMerge on every benchmark but ScienceQA.",
          "Table 1, 7B", plus_recovers, (_VQA[1], Cell(FILE, _PRUMERGE, "VQAv2")),
          "VQAv2 {} against {}"),
    Claim("1-pope-v1", GROUP, "PruMerge 7B reaches this POPE score.", "first version, March 2024",
          changed(*_POPE), _POPE, "{}, later {}"),
    Claim("1-pope-13b-v1", GROUP, "PruMerge 13B reaches this POPE score.", "first version",
          changed(*_POPE_13B), _POPE_13B, "{}, later {}"),
    Claim("1-vqav2-page", GROUP, "PruMerge+ 7B reaches this VQAv2 score.", "page, April 2024",
          changed(*_VQA), _VQA, "{}, later {}"),
)  # fmt: skip
"""In the order of the table."""


TABLE_7 = "table_7_other_reducers"
QUARTER, HALF = 144, 288
RIVALS = {"ToMe": "tome", "ATS": "ats", "EViT": "evit"}


def curve(evidence: Evidence, method: str) -> tuple[dict, object, str]:
    """Return right answers by tokens sent, the picture of each question, and the model."""
    own, on = evidence.sweep("rivals")
    rows = own.where(method=method).scores("tokens_per_image")
    return rows, own.questions["picture"], on


def beats(rival: str) -> Callable[[Evidence], Finding]:
    """Make the rule that PruMerge+ answers more at equal numbers of tokens that were sent."""

    def rule(evidence: Evidence) -> Finding:
        (ours, pictures, on), (theirs, _, _) = (
            curve(evidence, name) for name in ("prumerge+", RIVALS[rival])
        )
        # ATS sends fewer tokens than it may: compared where both were measured.
        count = min(QUARTER, max(theirs))
        apart = points(at_equal_tokens(ours, count), at_equal_tokens(theirs, count), pictures)
        return better({f"{count:.0f} tokens": apart}, on)

    return rule


def crossget(evidence: Evidence) -> Finding:
    """Count printed cells; CrossGET's row is copied from its paper."""
    table = read_printed(TABLE_7).pivot_table("value", "column", "row")
    table = table.loc[list(COLUMNS.values())]
    above = table["PruMerge+ (50 percent)"] > table["CrossGET (50 percent)"]
    found = f"above in {above.sum()} of 6 printed cells; CrossGET, which is trained, has no rows"
    return computed(all_or_some(int(above.sum()), 6), found)


def half_beats_quarter(evidence: Evidence) -> Finding:
    """Compare PruMerge+ at half of the tokens with itself at a quarter."""
    ours, pictures, on = curve(evidence, "prumerge+")
    apart = points(at_equal_tokens(ours, HALF), at_equal_tokens(ours, QUARTER), pictures)
    return better({f"{HALF} against {QUARTER} tokens": apart}, on)


def _pair(share: int, rival: str, column: str = "VQAv2") -> tuple[Cell, Cell]:
    names = (f"PruMerge+ ({share} percent)", f"{rival} ({share} percent)")
    return Cell(TABLE_7, names[0], column), Cell(TABLE_7, names[1], column)


REDUCERS = (
    *(
        Claim(f"7-{method}", "Table 7", f"PruMerge+ beats {rival} at 25 % of the tokens.",
              "Table 7", beats(rival), _pair(25, rival), "VQAv2 {} against {}, and five more")
        for rival, method in RIVALS.items()
    ),
    Claim("7-crossget", "Table 7", "PruMerge+ beats CrossGET at 50 %.", "Table 7", crossget,
          _pair(50, "CrossGET"), "VQAv2 {} against {}, and five more"),
    Claim("7-half", "Table 7", "PruMerge+ with 50 % scores more than with 25 %.", "Table 7",
          half_beats_quarter, (_pair(50, "CrossGET")[0], _pair(25, "ToMe")[0]),
          "VQAv2 {} against {}"),
)  # fmt: skip
"""In the order of the table."""
