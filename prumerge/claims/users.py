"""What users of the release asked, and reported, in its threads."""

from fractions import Fraction
from functools import partial

import pandas as pd

from prumerge.claims.efficiency import THREADS
from prumerge.claims.evidence import Evidence, Missing, missing_llava
from prumerge.claims.judging import (
    ANSWERS,
    COUNTS,
    CRITICS,
    OURS,
    RELEASE,
    TUNING,
    Cell,
    Claim,
    Finding,
    Rule,
)
from prumerge.claims.method import PATCHES
from prumerge.claims.rules import all_or_some, at_most, computed, untested
from prumerge.claims.tables import tuned_keeps_up

CHECKPOINT = "needs the released checkpoint: python -m prumerge.finetuning convert --help"
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


def batches_work(label: str, evidence: Evidence) -> Finding:
    """Look whether pictures of one batch keep numbers of their own."""
    rows, on = evidence.scores()
    own = rows.loc[label]
    ragged = (own["batch_size"] > 1) & (own["tokens_min"] < own["tokens_max"])
    found = f"batches of {own['batch_size'].max():.0f}, {own['tokens_min'].min():.0f} to "
    found += f"{own['tokens_max'].max():.0f} tokens per picture"
    return Finding(all_or_some(int(ragged.sum()), len(ragged)), found, on)


def runs_today(evidence: Evidence) -> Finding:
    """Name the versions that the scores were measured with."""
    rows, on = evidence.scores()
    first = rows.iloc[0]
    found = f"{len(rows)} scores with torch {first['torch'].split('+')[0]}, "
    found += f"transformers {first['transformers']}"
    newer = int(str(first["transformers"]).partition(".")[0]) > 4
    return Finding(all_or_some(int(newer), 1), found, on)


def llava_score(label: str, benchmark: str, evidence: Evidence) -> tuple[pd.Series, str]:
    """Return a score that only LLaVA-1.5 itself can tell."""
    rows, on = evidence.scores()
    if not on.startswith("LLaVA"):
        raise Missing(missing_llava())
    return rows.loc[(label, benchmark)], on


def stock_score(benchmark: str, cell: Cell, evidence: Evidence) -> Finding:
    """Judge whether the stock LLaVA-1.5 scores what is printed for it, within 2 %."""
    own, on = llava_score("full", benchmark, evidence)
    verdict = at_most(abs(own["value"] / cell.value - 1), 0.02, 0.05)
    return Finding(verdict, f"all tokens score {own['value']:.1f}", on)


def training_free(benchmark: str, holds: float, part: float, evidence: Evidence) -> Finding:
    """Judge whether a score without tuning is above a number, chance included."""
    own, on = llava_score("release", benchmark, evidence)
    found = f"{own['value']:.1f} ({own['low']:.1f} to {own['high']:.1f})"
    return Finding(at_most(-own["low"], -holds, -part), found, on)


def below_printed(benchmark: str, cell: Cell, evidence: Evidence) -> Finding:
    """Judge whether a score without tuning is below the one printed; in part, by chance only."""
    own, on = llava_score("release", benchmark, evidence)
    verdict = all_or_some(int(own["high"] < cell.value) + int(own["value"] < cell.value), 2)
    return Finding(verdict, f"{own['value']:.1f} ({own['low']:.1f} to {own['high']:.1f})", on)


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


def _point(
    thread: int, name: str, group: str, says: str, rule: Rule, *cells: Cell, by: str = CRITICS
) -> Claim:
    where = f"{THREADS}/{thread}"
    return Claim(f"u{thread}-{name}", group, says, where, rule, cells, by=by)


_MME = Cell("table_1_main_results", "LLaVA-1.5 7B", "MME")
_TEXT = Cell("table_1_main_results", "LLaVA-1.5 7B", "TextVQA")
CLAIMS = (
    _point(2, "weights", RELEASE, "The released weights can be read.", untested(CHECKPOINT)),
    _point(3, "budget", COUNTS, "In this workbook a budget can be set; the release has none.",
           budgets_are_kept, by=OURS),
    _point(7, "scienceqa", ANSWERS, "ScienceQA runs without training, far above 9 %.",
           partial(training_free, "scienceqa", 2 * REPORTED, REPORTED)),
    _point(8, "recipe", TUNING, "LLaVA's data and rates give the scores of Table 1.",
           untested(TRAIN)),
    _point(10, "variable", COUNTS, "In this workbook pictures of a batch keep their own numbers; "
           "the release gives all the same.", partial(batches_work, "release"), by=OURS),
    _point(11, "batch", RELEASE, "In this workbook PruMerge+ takes several pictures; the release "
           "crashes.", partial(batches_work, "release+"), by=OURS),
    _point(11, "ratio", RELEASE, "The release's fixed branch works with other ratios than 1/8.",
           fixed_ratios),
    _point(13, "checkpoints", RELEASE, "The two released checkpoints differ as their names say.",
           untested(CHECKPOINT)),
    _point(15, "pope", ANSWERS, "POPE without training is below what Table 6 prints (F1 66 to 68 "
           "reported).", partial(below_printed, "pope", POPE), POPE),
    _point(16, "split", ANSWERS, "TextVQA is its validation split with OCR tokens in the prompt.",
           partial(stock_score, "textvqa", _TEXT), _TEXT),
    # On equal steps and data.
    _point(18, "fair", TUNING, "Few tokens keep up with all tokens when both are tuned.",
           tuned_keeps_up),
    _point(20, "retraining", RELEASE, "Tuning again gives the released checkpoint.",
           untested(CHECKPOINT)),
    _point(21, "siglip", RELEASE, "Encoders without a class token work as well.",
           untested("needs a trained model with such an encoder; score='received' reads one")),
    _point(23, "versions", RELEASE, "This workbook runs with today's torch and transformers; the "
           "release asks for 4.31.", runs_today, by=OURS),
    Claim("u-mme", ANSWERS, "MME is printed as its perception part.",
          "https://github.com/Cooperx521/PyramidDrop/issues/31",
          partial(stock_score, "mme", _MME), (_MME,), by=CRITICS),
)  # fmt: skip
"""By thread; those about missing files, and the answered ones, are left out."""
