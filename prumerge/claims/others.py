"""What users of the release asked, other papers measured and reviews objected, to be checked."""

from fractions import Fraction
from functools import partial

import pandas as pd

from prumerge import roofline
from prumerge.claims.efficiency import lengths
from prumerge.claims.judging import (
    FAILS,
    HOLDS,
    PART,
    SUFFIX,
    UNTESTED,
    Cell,
    Claim,
    Evidence,
    Finding,
    Missing,
    Rule,
    all_or_some,
    at_most,
    better,
    choice_pays,
    computed,
    missing_llava,
    pair,
    points,
    untested,
)
from prumerge.claims.method import CPU_BENCH, FORTY, ON_CPU, PATCHES, released
from prumerge.claims.results import tuned
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import beyond_chance
from prumerge.experiments.sweeps.leaderboard import effects

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


def training_free(
    benchmark: str, bound: str, holds: float, part: float, evidence: Evidence
) -> Finding:
    """Judge a bound of a score without tuning."""
    own, on = llava_score("release", benchmark, evidence)
    found = f"{own['value']:.1f} ({own['low']:.1f} to {own['high']:.1f})"
    return Finding(at_most(-own[bound], -holds, -part), found, on)


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


def _point(thread: int, name: str, says: str, rule: Rule, *cells: Cell) -> Claim:
    return Claim(f"u{thread}-{name}", GROUP, says, f"{THREADS}/{thread}", rule, cells)


_MME = Cell("table_1_main_results", "LLaVA-1.5 7B", "MME")
_TEXT = Cell("table_1_main_results", "LLaVA-1.5 7B", "TextVQA")
CLAIMS = (
    _point(2, "weights", "The released weights can be read.", untested(RELEASED)),
    _point(3, "budget", "In this workbook a budget can be set; the release has none.",
           budgets_are_kept),
    _point(4, "table", "Table 2 can be computed again from what is stated.", lengths),
    _point(7, "scienceqa", "ScienceQA runs without training, far above 9 %.",
           partial(training_free, "scienceqa", "low", 2 * REPORTED, REPORTED)),
    _point(8, "recipe", "LLaVA's data and rates give the scores of Table 1.", untested(TRAIN)),
    _point(10, "variable", "In this workbook pictures of a batch keep their own numbers; the "
           "release gives all the same.", partial(batches_work, "release")),
    _point(11, "batch", "In this workbook PruMerge+ takes several pictures; the release crashes.",
           partial(batches_work, "release+")),
    _point(11, "ratio", "The release's fixed branch works with other ratios than 1/8.",
           fixed_ratios),
    _point(13, "checkpoints", "The two released checkpoints differ as their names say.",
           untested(RELEASED)),
    _point(15, "pope", "POPE without training is what Table 6 prints (F1 66 to 68 reported).",
           partial(training_free, "pope", "high", POPE.value, 0.95 * POPE.value), POPE),
    _point(16, "split", "TextVQA is its validation split with OCR tokens in the prompt.",
           partial(stock_score, "textvqa", _TEXT), _TEXT),
    _point(18, "fair", "Few tokens keep up with all tokens when both are tuned.",
           partial(tuned, ("merged", True), ("all", True))),  # on equal steps and data
    _point(20, "retraining", "Tuning again gives the released checkpoint.", untested(RELEASED)),
    _point(21, "siglip", "Encoders without a class token work as well.",
           untested("needs a trained model with such an encoder; score='received' reads one")),
    _point(23, "versions", "This workbook runs with today's torch and transformers; the release "
           "asks for 4.31.", runs_today),
    Claim("u-mme", GROUP, "MME is printed as its perception part.",
          "https://github.com/Cooperx521/PyramidDrop/issues/31",
          partial(stock_score, "mme", _MME), (_MME,)),
)  # fmt: skip
"""By thread; those about missing files, and the answered ones, are left out."""


_AIM = "AIM, LLaVA-1.5 7B, {}"
AIM = pair("others_efficiency", _AIM.format("full"), _AIM.format("PruMerge+"), "operations")


def unbounded(evidence: Evidence) -> Finding:
    """Look for a picture that keeps all of its tokens."""
    rows, on = evidence.scores()
    most = {label: rows.loc[label, "tokens_max"].max() for label in ("release", "release+")}
    whole = sum(count >= PATCHES for count in most.values())
    found = ", ".join(f"{label}: up to {count:.0f}" for label, count in most.items())
    return Finding(all_or_some(whole, 2), f"{found} of {PATCHES} tokens", on)


def shares_differ(evidence: Evidence) -> Finding:
    """Look whether one ratio describes what pictures keep."""
    own, on = evidence.sweep("fences")
    row = released(own).rows.iloc[0]
    low, mean, high = (
        row[name] / PATCHES for name in ("fewest_tokens", "tokens_per_image", "most_tokens")
    )
    found = f"{low:.0%} to {high:.0%} of the tokens, mean {mean:.0%}"
    return Finding(all_or_some(int(high > 1.2 * low), 1), found, on)


def counted_at_input(evidence: Evidence) -> Finding:
    """Look whether any method sends the language model more tokens than its budget says."""
    own, on = evidence.sweep("rivals")
    most = own.where(budget=64).rows.groupby("method")["most_tokens"].max()
    found = f"{(most <= 64).sum()} of {len(most)} methods send 64 or fewer, extra tokens counted"
    return Finding(all_or_some(int((most <= 64).sum()), len(most)), found, on)


def text_tokens(evidence: Evidence) -> Finding:
    """Rebuild what another paper printed with this paper's 40 text tokens."""
    rows = roofline.estimate_costs("7b", [616, 185], "V100", convention="llm-viewer")
    found = rows["operations"] / 1e12
    right = [abs(a - cell.value) < 0.01 for a, cell in zip(found, AIM, strict=True)]
    words = f"{found.iloc[0]:.3f} and {found.iloc[1]:.3f} T at 576 and 145 visual tokens"
    return computed(all_or_some(sum(right), 2), words, float(found.iloc[0] / found.iloc[1]))


def matters(sweep: str, evidence: Evidence) -> Finding:
    """Judge whether most of a sweep's settings move answers beyond chance; in part, if any does."""
    _, on = evidence.sweep(sweep)
    table = effects(sweep, SUFFIX if on.startswith("LLaVA") else "")
    others = table[table["changes"].map(bool)]
    beyond = int(beyond_chance(others).sum())
    least, most = 100 * others["difference"].min(), 100 * others["difference"].max()
    found = f"{beyond} of {len(others)} settings differ from the release beyond chance"
    verdict = HOLDS if 2 * beyond > len(others) else PART if beyond else FAILS
    return Finding(verdict, f"{found} ({least:+.1f} to {most:+.1f} points)", on)


def tuning_wins_back(evidence: Evidence) -> Finding:
    """Say which part of the printed loss LoRA wins back, on printed numbers alone."""
    modules, training = (
        read_printed(name).pivot_table("value", "column", "row")
        for name in ("table_5_modules", "table_6_training")
    )
    tasks = ["TextVQA", "POPE", "MME"]
    full, free = modules.loc[tasks, "LLaVA-1.5 7B"], training.loc[tasks, "training-free"]
    share = (training.loc[tasks, "LoRA"] - free) / (full - free)
    found = ", ".join(f"{task} {value:.0%}" for task, value in share.items())
    return computed(all_or_some(int((share > 0.5).sum()), 3), f"{found} of the loss, as printed")


def reading_suffers(evidence: Evidence) -> Finding:
    """Look which family of questions loses the largest share at 64 tokens."""
    own, on = evidence.sweep("rivals")
    scores = own.scores("method")
    few = own.where(budget=64).scores("method")["prumerge"]
    families = own.questions["family"]
    right = pd.DataFrame({"all": scores["all"], "few": few}).groupby(families).mean()
    right = right[right["all"] > 0]  # what all tokens never answer cannot be lost
    kept = (right["few"] / right["all"]).sort_values()
    if "read" not in kept:
        return Finding(UNTESTED, "no questions that ask to read, or none answered", on)
    place = kept.index.get_loc("read") + 1
    found = f"reading keeps {kept['read']:.0%}, place {place} of {len(kept)} from below"
    return Finding(at_most(place, 1, 2), found, on)


def merging_is_slow(evidence: Evidence) -> Finding:
    """Compare the released loop with top-k, and with the same merge in one operation."""
    rows = evidence.table("bench", CPU_BENCH, "make bench")
    times = rows.pivot_table("min_ms", ["what", "name"], aggfunc="first")["min_ms"]
    loop, (merge, plain) = times["released_loop", "release"], times["method"][["release", "top_k"]]
    batch = rows.loc[rows["what"] == "released_loop", "batch"].iloc[0]
    found = f"{loop / batch:.0f} ms a picture as released, {merge / batch:.1f} ms in one "
    found += f"operation, {plain / batch:.2f} ms without merging"
    return Finding(HOLDS if merge > 10 * plain else PART, found, ON_CPU)


def text_below(rival: str, evidence: Evidence) -> Finding:
    """Judge whether PruMerge+ answers less than a rival at 64 tokens when it has to read."""
    own, on = evidence.sweep("rivals")
    scores, asked = own.where(budget=64).scores("method"), own.questions
    reads = (asked["family"] == "read").to_numpy()
    if not reads.any():
        return Finding(UNTESTED, "no questions that ask to read", on)
    apart = points(scores[rival][reads], scores["prumerge+"][reads], asked["picture"][reads])
    return better({"64 tokens, questions that ask to read": apart}, on)


def _more(first: str, second: str, *budgets: int) -> Rule:
    first, second = {"method": first}, {"method": second}
    return partial(choice_pays, "rivals", first, second, budgets=budgets)


def _paper(name: str, where: str, says: str, rule: Rule, *cells: Cell, printed_as="") -> Claim:
    return Claim(f"o-{name}", "Others", says, where, rule, cells, printed_as)


CLAIMS += (
    _paper("ratio", "https://github.com/KD-TAO/DyCoke/issues/12",
           "No one ratio describes what an adaptive method keeps.", shares_differ),
    _paper("input", "https://github.com/Gumpest/SparseVLMs/issues/10 and "
           "https://github.com/JIA-Lab-research/VisionZip/issues/22",
           "In this workbook 64 tokens are those that enter the language model, for every method.",
           counted_at_input),
    _paper("text-tokens", "https://github.com/kawhiiiileo/FiCoCo/issues/4",
           "Operations are counted with 40 text tokens.", text_tokens, *AIM,
           printed_as="AIM: {} and {} T"),
    _paper("bound", "HiRED", "There is no bound on the tokens of a picture.", unbounded),
    _paper("reading", "HiRED", "Reading text suffers most.", reading_suffers),
    _paper("top-k", "a review", "PruMerge beats plain top-k of its scores.",
           _more("prumerge", "top_k", 32, 64, 128)),
    _paper("top-k-reading", "OccamToken and others, 64 tokens",
           "On text PruMerge+ is below top-k of the class attention.",
           partial(text_below, "fastervlm")),
    _paper("spread", "OccamToken and others, 64 tokens", "DivPrune scores more than PruMerge+.",
           _more("divprune", "prumerge+", 64)),
    _paper("neighbours", "a review", "The number of neighbours needs a study.",
           partial(matters, "neighbours")),
    _paper("layer", "a review", "The layer of the scores needs a reason.",
           partial(matters, "scores")),
    _paper("order", "GAP, arXiv 2506.21873", "Order and position ids of tokens matter.",
           partial(matters, "order")),
    _paper("wins-back", "Tables 5 and 6 together", "LoRA wins back most of what few tokens lose.",
           tuning_wins_back, FORTY, printed_as="at {} tokens"),
    _paper("overhead", "a re-implementer", "Merging costs far more than choosing.",
           merging_is_slow),
)  # fmt: skip
