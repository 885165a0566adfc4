"""What other papers measured, and what reviews objected, each as a sentence that can be checked."""

from collections.abc import Callable

import pandas as pd

from prumerge import roofline
from prumerge.claims.claim import FAILS, HOLDS, PART, UNTESTED, Cell, Claim, Finding
from prumerge.claims.cost import CPU_BENCH
from prumerge.claims.evidence import SUFFIX, Evidence
from prumerge.claims.rules import all_or_some, at_most, better, computed, points
from prumerge.claims.text import FORTY, PATCHES, released
from prumerge.experiments.statistics import beyond_chance
from prumerge.printed import read_printed
from prumerge.sweeps.tuning import effects

GROUP = "Others"
OTHERS = "others_efficiency"
AIM = tuple(
    Cell(OTHERS, f"AIM, LLaVA-1.5 7B, {which}", "operations") for which in ("full", "PruMerge+")
)


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


def matters(sweep: str) -> Callable[[Evidence], Finding]:
    """Make the rule that most settings of a sweep move answers against the release beyond chance.

    It holds if more than half do, in part if any does.
    """

    def rule(evidence: Evidence) -> Finding:
        _, on = evidence.sweep(sweep)
        suffix = SUFFIX if on.startswith("LLaVA") else ""
        table = effects(sweep, suffix)
        others = table[table["changes"].map(bool)]
        beyond = int(beyond_chance(others).sum())
        least, most = 100 * others["difference"].min(), 100 * others["difference"].max()
        found = f"{beyond} of {len(others)} settings differ from the release beyond chance"
        verdict = HOLDS if 2 * beyond > len(others) else PART if beyond else FAILS
        return Finding(verdict, f"{found} ({least:+.1f} to {most:+.1f} points)", on)

    return rule


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


def beats_top_k(evidence: Evidence) -> Finding:
    """Compare PruMerge with plain top-k of the same scores, which the paper leaves out."""
    own, on = evidence.sweep("rivals")
    scores, pictures = own.scores("method", "budget"), own.questions["picture"]
    apart = {
        f"{budget} tokens": points(
            scores["prumerge", budget], scores["top_k", budget], pictures
        )
        for budget in (32, 64, 128)
    }  # fmt: skip
    return better(apart, on)


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
    loop, merge, plain = (
        times[where] for where in (("released_loop", "release"), ("method", "release"),
                                   ("method", "top_k"))
    )  # fmt: skip
    batch = rows.loc[rows["what"] == "released_loop", "batch"].iloc[0]
    found = f"{loop / batch:.0f} ms a picture as released, {merge / batch:.1f} ms in one "
    found += f"operation, {plain / batch:.2f} ms without merging"
    verdict = HOLDS if merge > 10 * plain else PART
    return Finding(verdict, found, "CPU, random features of LLaVA-1.5's size")


def text_below(rival: str) -> Callable[[Evidence], Finding]:
    """Make the rule that PruMerge+ answers less than a rival at 64 tokens when it has to read."""

    def rule(evidence: Evidence) -> Finding:
        own, on = evidence.sweep("rivals")
        scores, asked = own.where(budget=64).scores("method"), own.questions
        reads = (asked["family"] == "read").to_numpy()
        if not reads.any():
            return Finding(UNTESTED, "no questions that ask to read", on)
        apart = points(scores[rival][reads], scores["prumerge+"][reads], asked["picture"][reads])
        return better({"64 tokens, questions that ask to read": apart}, on)

    return rule


def spread_wins(evidence: Evidence) -> Finding:
    """Compare DivPrune, which spreads its tokens, with PruMerge+ at 64 tokens."""
    own, on = evidence.sweep("rivals")
    scores, pictures = own.where(budget=64).scores("method"), own.questions["picture"]
    apart = points(scores["divprune"], scores["prumerge+"], pictures)
    return better({"64 tokens": apart}, on)


def _point(
    name: str, where: str, says: str, rule: Callable[[Evidence], Finding], *cells: Cell,
    printed_as: str = "-",
) -> Claim:  # fmt: skip
    return Claim(f"o-{name}", GROUP, says, where, rule, cells, printed_as)


CLAIMS = (
    _point("ratio", "https://github.com/KD-TAO/DyCoke/issues/12",
           "No one ratio describes what an adaptive method keeps.", shares_differ),
    _point("input", "https://github.com/Gumpest/SparseVLMs/issues/10 and "
           "https://github.com/JIA-Lab-research/VisionZip/issues/22",
           "In this workbook 64 tokens are those that enter the language model, for every method.",
           counted_at_input),
    _point("text-tokens", "https://github.com/kawhiiiileo/FiCoCo/issues/4",
           "Operations are counted with 40 text tokens.", text_tokens, *AIM,
           printed_as="AIM: {} and {} T"),
    _point("bound", "HiRED", "There is no bound on the tokens of a picture.", unbounded),
    _point("reading", "HiRED", "Reading text suffers most.", reading_suffers),
    _point("top-k", "a review", "PruMerge beats plain top-k of its scores.", beats_top_k),
    _point("top-k-reading", "OccamToken and others, 64 tokens",
           "On text PruMerge+ is below top-k of the class attention.", text_below("fastervlm")),
    _point("spread", "OccamToken and others, 64 tokens", "DivPrune scores more than PruMerge+.",
           spread_wins),
    _point("neighbours", "a review", "The number of neighbours needs a study.",
           matters("neighbours")),
    _point("layer", "a review", "The layer of the scores needs a reason.", matters("scores")),
    _point("order", "GAP, arXiv 2506.21873", "Order and position ids of tokens matter.",
           matters("order")),
    _point("wins-back", "Tables 5 and 6 together", "LoRA wins back most of what few tokens lose.",
           tuning_wins_back, FORTY, printed_as="at {} tokens"),
    _point("overhead", "a re-implementer", "Merging costs far more than choosing.",
           merging_is_slow),
)  # fmt: skip
"""Addresses where there are some, else who said so."""
