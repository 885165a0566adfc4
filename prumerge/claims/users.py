"""What users asked in the repository of the release, each put as a sentence that can be checked."""

from collections.abc import Callable
from fractions import Fraction

from prumerge.claims.ablations import tuned
from prumerge.claims.claim import UNTESTED, Cell, Claim, Finding
from prumerge.claims.efficiency import lengths
from prumerge.claims.evidence import Evidence, missing_llava
from prumerge.claims.rules import all_or_some, at_most, computed, untested
from prumerge.claims.text import PATCHES

GROUP = "Users of the release"
THREADS = "https://github.com/42Shawn/LLaVA-PruMerge/issues"
RELEASED = "needs the released checkpoint: python -m prumerge.finetuning convert --help"
TRAIN = "needs LLaVA's 665k instructions and GPUs: python -m prumerge.finetuning train --help"
POPE = Cell("table_6_training", "training-free", "POPE")
"""Printed training-free; others measured 66 to 71."""
REPORTED = 9.27
"""ScienceQA as a user measured it, in percent."""


def budgets_are_kept(evidence: Evidence) -> Finding:
    """Look whether every picture sends exactly the number asked for."""
    own, on = evidence.sweep("budgets")
    rows = own.where(sends="exact").rows
    kept = rows[["fewest_tokens", "most_tokens"]].eq(rows["budget"], axis=0).all(axis=1)
    asked = ", ".join(f"{budget:.0f}" for budget in sorted(rows["budget"].unique()))
    return Finding(all_or_some(int(kept.sum()), len(kept)), f"{asked} sent exactly", on)


def batches_work(*labels: str) -> Callable[[Evidence], Finding]:
    """Make the rule that pictures of one batch keep numbers of their own."""

    def rule(evidence: Evidence) -> Finding:
        rows, on = evidence.scores()
        own = rows.loc[list(labels)]
        ragged = (own["batch_size"] > 1) & (own["tokens_min"] < own["tokens_max"])
        found = f"batches of {own['batch_size'].max():.0f}, {own['tokens_min'].min():.0f} to "
        found += f"{own['tokens_max'].max():.0f} tokens per picture"
        return Finding(all_or_some(int(ragged.sum()), len(ragged)), found, on)

    return rule


def runs_today(evidence: Evidence) -> Finding:
    """Name the versions that the scores were measured with."""
    rows, on = evidence.scores()
    first = rows.iloc[0]
    found = f"{len(rows)} scores with torch {first['torch'].split('+')[0]}, "
    found += f"transformers {first['transformers']}"
    newer = int(str(first["transformers"]).partition(".")[0]) > 4
    return Finding(all_or_some(int(newer), 1), found, on)


def stock_score(benchmark: str, cell: Cell) -> Callable[[Evidence], Finding]:
    """Make the rule that the stock LLaVA-1.5 scores what is printed for it, within 2 %."""

    def rule(evidence: Evidence) -> Finding:
        rows, on = evidence.scores()
        if not on.startswith("LLaVA"):
            return Finding(UNTESTED, missing_llava(), "-")
        value = float(rows.loc[("full", benchmark), "value"])
        verdict = at_most(abs(value / cell.value - 1), 0.02, 0.05)
        return Finding(verdict, f"all tokens score {value:.1f}", on, None)

    return rule


def training_free(
    benchmark: str, bound: str, holds: float, part: float
) -> Callable[[Evidence], Finding]:
    """Make the rule for a score without tuning, which only LLaVA-1.5 itself can tell.

    Args:
        benchmark: Of the paper's six.
        bound: End of the interval that is judged: ``low`` or ``high``.
        holds: The claim holds if that end is at least this.
        part: In part if at least this.
    """

    def rule(evidence: Evidence) -> Finding:
        rows, on = evidence.scores()
        if not on.startswith("LLaVA"):
            return Finding(UNTESTED, missing_llava(), "-")
        own = rows.loc[("release", benchmark)]
        found = f"{own['value']:.1f} ({own['low']:.1f} to {own['high']:.1f})"
        return Finding(at_most(-own[bound], -holds, -part), found, on)

    return rule


def fixed_ratios(evidence: Evidence) -> Finding:
    """Count what the release's fixed branch takes by score and by place; it needs as many."""
    works = {}
    for name in ("1/3", "1/8", "1/16", "0.15", "0.3", "1/2"):
        step = int(1 / Fraction(name))
        by_score, by_place = int(PATCHES * Fraction(name)), len(range(step // 2, PATCHES - 1, step))
        works[name] = by_score == by_place
    fits, fails = (", ".join(n for n, works_so in works.items() if works_so == w) for w in (1, 0))
    found = f"as many by score as by place, which its code needs, at {fits}; not at {fails}"
    return computed(all_or_some(sum(works.values()), len(works)), found)


def fair(evidence: Evidence) -> Finding:
    """Compare few tokens with all tokens when both are tuned, on equal steps and data."""
    return tuned(("merged", True), ("all", True))(evidence)


def _point(
    thread: int, name: str, says: str, rule: Callable[[Evidence], Finding], *cells: Cell,
    printed_as: str = "-",
) -> Claim:  # fmt: skip
    return Claim(f"u{thread}-{name}", GROUP, says, f"{THREADS}/{thread}", rule, cells, printed_as)


_MME = Cell("table_1_main_results", "LLaVA-1.5 7B", "MME")
_TEXT = Cell("table_1_main_results", "LLaVA-1.5 7B", "TextVQA")
CLAIMS = (
    _point(2, "weights", "The released weights can be read.", untested(RELEASED)),
    _point(3, "budget", "In this workbook a budget can be set; the release has none.",
           budgets_are_kept),
    _point(4, "table", "Table 2 can be computed again from what is stated.", lengths),
    _point(7, "scienceqa", "ScienceQA runs without training, far above 9 %.",
           training_free("scienceqa", "low", 2 * REPORTED, REPORTED)),
    _point(8, "recipe", "LLaVA's data and rates give the scores of Table 1.", untested(TRAIN)),
    _point(10, "variable", "In this workbook pictures of a batch keep their own numbers; the "
           "release gives all the same.", batches_work("release")),
    _point(11, "batch", "In this workbook PruMerge+ takes several pictures; the release crashes.",
           batches_work("release+")),
    _point(11, "ratio", "The release's fixed branch works with other ratios than 1/8.",
           fixed_ratios),
    _point(13, "checkpoints", "The two released checkpoints differ as their names say.",
           untested(RELEASED)),
    _point(15, "pope", "POPE without training is what Table 6 prints (F1 66 to 68 reported).",
           training_free("pope", "high", POPE.value, 0.95 * POPE.value), POPE, printed_as="{}"),
    _point(16, "split", "TextVQA is its validation split with OCR tokens in the prompt.",
           stock_score("textvqa", _TEXT), _TEXT, printed_as="{}"),
    _point(18, "fair", "Few tokens keep up with all tokens when both are tuned.", fair),
    _point(20, "retraining", "Tuning again gives the released checkpoint.", untested(RELEASED)),
    _point(21, "siglip", "Encoders without a class token work as well.",
           untested("needs a trained model with such an encoder; score='received' reads one")),
    _point(23, "versions", "This workbook runs with today's torch and transformers; the release "
           "asks for 4.31.", runs_today),
    Claim("u-mme", GROUP, "MME is printed as its perception part.",
          "https://github.com/Cooperx521/PyramidDrop/issues/31", stock_score("mme", _MME),
          (_MME,), "{}"),
)  # fmt: skip
"""By thread; those about missing files, and the answered ones, are left out."""
