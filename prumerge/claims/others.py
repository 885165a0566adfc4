"""What other papers measured and reviews objected."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from prumerge import roofline
from prumerge.claims.evidence import Evidence, Missing
from prumerge.claims.judging import (
    ANSWERS,
    CHOICE,
    COST,
    COUNTS,
    CRITICS,
    FAILS,
    HOLDS,
    MERGING,
    OURS,
    PART,
    PLACES,
    REDUCERS,
    TUNING,
    UNTESTED,
    VIDEO,
    Cell,
    Claim,
    Finding,
    Rule,
    pair,
)
from prumerge.claims.method import CPU_BENCH, FORTY, ON_CPU, PATCHES, released
from prumerge.claims.rules import (
    all_or_some,
    apart,
    as_good,
    at_most,
    better,
    choice_pays,
    computed,
    in_both,
    sent_as,
)
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import holm, significance
from prumerge.experiments.sweeps.handling import BUDGETS, EQUAL, RELEASED
from prumerge.settings import PRESETS

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
    rows = own.where(budget=64).rows
    rows = rows[rows["sends"] != "all"]
    # A method of its own mean number is held to the mean.
    sent = rows["tokens_per_image"].where(rows["sends"] == "on average", rows["most_tokens"])
    kept = sent.groupby(rows["method"]).max() <= 64
    found = f"{kept.sum()} of {len(kept)} methods send 64 or fewer, extra tokens counted"
    return Finding(all_or_some(kept.sum(), len(kept)), found, on)


def text_tokens(evidence: Evidence) -> Finding:
    """Rebuild what another paper printed with this paper's 40 text tokens."""
    rows = roofline.estimate_costs("7b", [616, 185], "V100", convention="llm-viewer")
    found = rows["operations"] / 1e12
    right = [abs(a - cell.value) < 0.01 for a, cell in zip(found, AIM, strict=True)]
    words = f"{found.iloc[0]:.3f} and {found.iloc[1]:.3f} T at 576 and 145 visual tokens"
    return computed(all_or_some(sum(right), 2), words, float(found.iloc[0] / found.iloc[1]))


def matters(
    sweep: str, vary: tuple[str, ...], evidence: Evidence, handling: Mapping = EQUAL
) -> Finding:
    """Judge whether most values of some settings move answers beyond chance; in part, if any does.

    Each is compared with the released values, mean over budgets, and all tests are corrected.
    """
    own, on = evidence.sweep(sweep)
    own = own.where(method="prumerge", **handling)
    release = own.where(**{name: getattr(PRESETS["release"], name) for name in vary})
    changed = own.rows.drop(release.rows.index).groupby(list(vary), dropna=False)
    if release.rows.empty or not len(changed):
        raise Missing(f"no rows of the release and others: make sweep SWEEP={sweep}")
    base, pictures = release.right.mean(axis=1), own.questions["picture"]
    others = [own.right[list(rows.index)].mean(axis=1) for _, rows in changed]
    levels = holm(np.array([significance(other, base, pictures) for other in others]))
    moved = [100 * (other - base).mean() for other in others]
    beyond = int((levels < 0.05).sum())
    found = f"{beyond} of {len(others)} settings differ from the release beyond chance"
    verdict = HOLDS if 2 * beyond > len(others) else PART if beyond else FAILS
    return Finding(verdict, f"{found} ({min(moved):+.1f} to {max(moved):+.1f} points)", on)


def tuning_wins_back(evidence: Evidence) -> Finding:
    """Look where LoRA wins back less than half of the printed loss, on printed numbers alone."""
    modules, training = (
        read_printed(name).pivot_table("value", "column", "row")
        for name in ("table_5_modules", "table_6_training")
    )
    tasks = ["TextVQA", "POPE", "MME"]
    full, free = modules.loc[tasks, "LLaVA-1.5 7B"], training.loc[tasks, "training-free"]
    share = (training.loc[tasks, "LoRA"] - free) / (full - free)
    found = ", ".join(f"{task} {value:.0%}" for task, value in share.items())
    return computed(all_or_some(int((share < 0.5).sum()), 3), f"{found} of the loss, as printed")


def reading_suffers(evidence: Evidence) -> Finding:
    """Look which family of questions loses the largest share at 64 tokens."""
    own, on = evidence.sweep("rivals")
    every = own.where(method="all", order="raster")  # its places are those of the picture in any
    families = own.questions["family"]

    def rule(handling: Mapping) -> Finding:
        few = own.where(method="prumerge", budget=64, **handling)
        if every.rows.empty or few.rows.empty:
            raise Missing("no rows of all and of 64 tokens: make sweep SWEEP=rivals")
        sides = {"all": every.right.mean(axis=1), "few": few.right.mean(axis=1)}
        right = pd.DataFrame(sides).groupby(families).mean()
        right = right[right["all"] > 0]  # what all tokens never answer cannot be lost
        kept = (right["few"] / right["all"]).sort_values()
        if "read" not in kept:
            return Finding(UNTESTED, "no questions that ask to read, or none answered", on)
        place = int((kept < kept["read"]).sum()) + 1
        found = f"reading keeps {kept['read']:.0%}, place {place} of {len(kept)} from below"
        return Finding(at_most(place, 1, 2), found, on)

    return in_both(rule, always=True)


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
    reads = (own.questions["family"] == "read").to_numpy()
    if not reads.any():
        return Finding(UNTESTED, "no questions that ask to read", on)

    def rule(handling: Mapping) -> Finding:
        sides = (
            sent_as({"method": method, "budget": 64}, handling) for method in (rival, "prumerge+")
        )
        return better({"64 tokens, questions that ask to read": apart(own, *sides, reads)}, on)

    return in_both(rule, always=True)


def reads_by_handling(evidence: Evidence) -> Finding:
    """Compare equal handling with the released one, where the same tokens have to be read."""
    own, on = evidence.sweep("rivals")
    reads = (own.questions["family"] == "read").to_numpy()
    if not reads.any():
        return Finding(UNTESTED, "no questions that ask to read", on)
    effects = {
        f"{budget} tokens": apart(own, *({**sent, **how} for how in (EQUAL, RELEASED)), reads)
        for budget in BUDGETS
        for sent in [{"method": "prumerge", "budget": budget}]
    }
    return better(effects, on)


def blind_video(evidence: Evidence) -> Finding:
    """Hold the printed scores of a video model without any visual token against its own."""
    scores = read_printed("others_video").pivot_table("value", "column", "row")
    blind, whole = (scores[f"Video-LLaVA 7B, {tokens} tokens"] for tokens in (0, 2048))
    kept = (blind / whole).filter(like="accuracy").sort_values(ascending=False)
    found = ", ".join(f"{name.split()[0]} {share:.1%}" for name, share in kept.items())
    return computed(at_most(1 - kept["ActivityNet-QA accuracy"], 0.15, 0.5), f"{found} are kept")


def _more(first: str, second: str, *budgets: int) -> Rule:
    first, second = {"method": first}, {"method": second}
    return partial(choice_pays, "rivals", first, second, budgets=budgets)


def _paper(
    name: str, group: str, where: str, says: str, rule: Rule, *cells: Cell, **more: str
) -> Claim:
    return Claim(f"o-{name}", group, says, where, rule, cells, **{"by": CRITICS, **more})


CLAIMS = (
    _paper("ratio", COUNTS, "https://github.com/KD-TAO/DyCoke/issues/12",
           "No one ratio describes what an adaptive method keeps.", shares_differ),
    _paper("input", COUNTS, "https://github.com/Gumpest/SparseVLMs/issues/10 and "
           "https://github.com/JIA-Lab-research/VisionZip/issues/22",
           "In this workbook 64 tokens are those that enter the language model, for every method.",
           counted_at_input, by=OURS),
    _paper("text-tokens", COST, "https://github.com/kawhiiiileo/FiCoCo/issues/4",
           "Operations are counted with 40 text tokens.", text_tokens, *AIM,
           printed_as="AIM: {} and {} T"),
    _paper("bound", COUNTS, "HiRED", "There is no bound on the tokens of a picture.", unbounded),
    _paper("reading", ANSWERS, "HiRED", "Reading text suffers most.", reading_suffers),
    _paper("top-k", REDUCERS, "a review", "Plain top-k of its scores does as well as PruMerge.",
           partial(choice_pays, "rivals", {"method": "top_k"}, {"method": "prumerge"},
                   budgets=BUDGETS, judged=as_good)),
    _paper("top-k-reading", REDUCERS, "OccamToken and others, 64 tokens",
           "On text PruMerge+ is below top-k of the class attention.",
           partial(text_below, "fastervlm")),
    _paper("spread", REDUCERS, "OccamToken and others, 64 tokens",
           "DivPrune scores more than PruMerge+.", _more("divprune", "prumerge+", 64)),
    _paper("neighbours", MERGING, "a review", "The number of neighbours needs a study.",
           partial(matters, "neighbours", ("neighbours",))),
    _paper("layer", CHOICE, "a review", "The layer of the scores needs a reason.",
           partial(matters, "scores", ("score", "score_layer"))),
    _paper("order", PLACES, "GAP, arXiv 2506.21873", "Order and position ids of tokens matter.",
           partial(matters, "handling", ("order", "positions"), handling={})),
    _paper("order-reading", PLACES, "the release, and this workbook's sweeps",
           "The same tokens read more signs in raster order at original positions than by "
           "attention at closed-up ones.", reads_by_handling, by=OURS),
    _paper("wins-back", TUNING, "Tables 5 and 6 together",
           "As printed, LoRA wins back less than half of what few tokens lose.", tuning_wins_back,
           FORTY, printed_as="at {} tokens", by=OURS),
    _paper("blind-video", VIDEO, "https://github.com/Theia-4869/FasterVLM, branch video",
           "Without any visual token Video-LLaVA keeps nine tenths of its score on ActivityNet-QA.",
           blind_video, *pair("others_video", "Video-LLaVA 7B, 0 tokens",
                              "Video-LLaVA 7B, 2048 tokens", "ActivityNet-QA accuracy"),
           printed_as="{} of {}"),
    _paper("overhead", COST, "a re-implementer", "Merging costs far more than choosing.",
           merging_is_slow),
)  # fmt: skip
