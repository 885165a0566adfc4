"""What the text says of the method, how many tokens it keeps and what time it takes itself."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from prumerge.claims.evidence import Evidence, Missing, model_name
from prumerge.claims.judging import COST, COUNTS, MERGING, Cell, Claim, Finding
from prumerge.claims.rules import (
    all_or_some,
    as_good,
    at_most,
    better,
    by_budget,
    choice_pays,
    computed,
    in_both,
    points,
)
from prumerge.experiments.sweeps.handling import RELEASED
from prumerge.experiments.sweeps.tables import Answered

PATCHES = 576
_TABLE = "table_1_main_results"
PRUMERGE = Cell(_TABLE, "LLaVA-1.5 7B + PruMerge", "visual tokens")
PLUS = Cell(_TABLE, "LLaVA-1.5 7B + PruMerge+", "visual tokens")
ALL = Cell(_TABLE, "LLaVA-1.5 7B", "visual tokens")
_TASKS = ("TextVQA", "MME", "POPE", "ScienceQA")
REPORTED = tuple(Cell("table_4_sampling", "PruMerge", f"{task} visual tokens") for task in _TASKS)
FORTY = REPORTED[0]


def compression(kept: Cell, times: str, part: str, evidence: Evidence) -> Finding:
    """Check a count that is printed as a factor and as a share, to the digits printed."""
    factor, share = PATCHES / kept.value, percent(kept.value)
    right = fits(factor, times) + fits(share, part)
    found = f"{PATCHES} / {kept.value:.0f} = {factor:.2f}, or {share:.2f} %"
    return computed(all_or_some(right, 2), found)


def fits(value: float, printed: str) -> bool:
    """Say whether a number is the printed one, rounded to its digits or cut off behind them.

    Example:
        >>> fits(5.556, "5.5"), fits(5.556, "5.6"), fits(5.656, "5.5")
        (True, True, False)
    """
    unit = 10.0 ** -len(printed.partition(".")[2])
    return -unit / 2 <= value - float(printed) < unit


def average_count(evidence: Evidence) -> Finding:
    """Compare the mean of the counts that are reported with the stated average."""
    counts = [cell.value for cell in REPORTED]
    mean = sum(counts) / len(counts)
    found = f"{len(counts)} of 6 counts are reported; their mean is {mean:.2f}"
    return computed(at_most(abs(mean - PRUMERGE.value), 0.5, 4), found)


def doubled(evidence: Evidence) -> Finding:
    """Compare what Algorithm 1 adds with the number reported."""
    total = 2 * PRUMERGE.value
    found = f"2 x {PRUMERGE.value:.0f} = {total:.0f}, {percent(total):.1f} % of {PATCHES}"
    return computed(all_or_some(int(total == PLUS.value), 1), found)


def adaptive(evidence: Evidence) -> Finding:
    """Look whether pictures keep different numbers."""
    own, on = evidence.sweep("fences")
    row = released(own).rows.iloc[0]
    found = f"{row.fewest_tokens} to {row.most_tokens} tokens, mean {row.tokens_per_image:.0f}"
    return Finding(all_or_some(int(row.fewest_tokens < row.most_tokens), 1), found, on)


def outlier_share(evidence: Evidence) -> Finding:
    """Compare the share that the fence keeps; it can never keep more than a quarter."""
    own, on = evidence.sweep("fences")
    share = share_sent(released(own))
    found = f"{share:.1f} % on average (the fence's bound is 25 %); pictures differ from theirs"
    return Finding(at_most(share, 1.2 * percent(PRUMERGE.value), 25), found, on)


def plus_share(evidence: Evidence) -> Finding:
    """Compare PruMerge+'s share under the released stride and under the text's lattice."""
    own, on = evidence.sweep("fences")
    plus = own.where(method="prumerge+")
    shares = {
        "released stride": share_sent(plus.where(spatial="stride", spatial_factor=3)),
        "lattice, one per outlier": share_sent(plus.where(spatial="lattice", spatial_factor=1)),
    }
    near = sum(abs(share - percent(PLUS.value)) <= 3 for share in shares.values())
    found = ", ".join(f"{name}: {share:.0f} %" for name, share in shares.items())
    alone, printed = share_sent(released(own)), percent(PRUMERGE.value)
    found += f"; outliers alone {alone:.0f} %, printed {printed:.0f} %"
    return Finding(all_or_some(near, len(shares)), found, on)


def released(own: Answered, handling: Mapping = RELEASED) -> Answered:
    """Keep the released fence of a sweep of PruMerge that lets the picture decide."""
    fence = {"whisker": 1.5, "lower_quantile": 0.25, "upper_quantile": 0.75}
    found = own.where(method="prumerge", **fence, **handling)
    if found.rows.empty:
        raise Missing("no rows of the released fence: make sweep SWEEP=fences")
    return found


def share_sent(own: Answered) -> float:
    """Return which part of the patches the first row sends, in percent."""
    return percent(float(own.rows["tokens_per_image"].iloc[0]))


def percent(tokens: float) -> float:
    """Return which part of the patches so many tokens are."""
    return 100 * tokens / PATCHES


LETTER = {"own_term": "none", "normalise_weights": False, "extra_token": False}
CHARITABLE = {"own_term": "attention", "normalise_weights": True, "extra_token": False}
_CODE = {"own_term": "one", "normalise_weights": False, "extra_token": True}


def formula(reading: Mapping, evidence: Evidence) -> Finding:
    """Compare a reading of the sum of neighbours with the released sum, all else as released."""
    own, on = evidence.sweep("weights")
    plain = own.where(softmax_class=True, merge_reads="original")

    def rule(handling: Mapping) -> Finding:
        return as_good(by_budget(plain, {**reading, **handling}, {**_CODE, **handling}), on)

    return in_both(rule)


def adaptive_pays(evidence: Evidence) -> Finding:
    """Compare the picture's own numbers with the nearest whole mean number for all."""
    own, on = evidence.sweep("fences")
    flat, _ = evidence.sweep("budgets")

    def rule(handling: Mapping) -> Finding:
        fence = released(own, handling)
        mean = float(fence.rows["tokens_per_image"].iloc[0])
        equal = flat.where(method="prumerge", budget=round(mean), **handling)
        if equal.rows.empty:
            raise Missing(f"no rows of {mean:.0f} tokens for all: make sweep SWEEP=budgets")
        sides = (answered.right.mean(axis=1) for answered in (fence, equal))
        apart = points(*sides, own.questions["picture"])
        return better({f"{mean:.1f} tokens on average against {mean:.0f} for all": apart}, on)

    return in_both(rule)


_CANDIDATES = {"neighbours": 32, "similarity": "cosine", "key_layer": None}
_PRUNED, _ANY = ({"candidates": which, **_CANDIDATES} for which in ("pruned", "all"))
_FIRST, _LAST = "text, first version", "abstract, last version"
CLAIMS = (
    Claim("count-40", COUNTS, "About 40 tokens are 14.4 times fewer.", _FIRST,
          partial(compression, FORTY, "14.4", "6.9"), (FORTY,), "{} tokens: 14.4 times, 6.9 %"),
    Claim("count-32", COUNTS, "About 32 tokens are 18 times fewer.",
          "text, second version and last",
          partial(compression, PRUMERGE, "18", "5.5"), (PRUMERGE,), "{} tokens: 18 times, 5.5 %"),
    Claim("count-mean", COUNTS, "Six benchmarks need about 32 tokens on average.", _LAST,
          average_count, (PRUMERGE, *REPORTED), "{} (reported: {}, {}, {}, {})"),
    Claim("count-plus", COUNTS, "PruMerge+ keeps a quarter of the tokens, 4 times fewer.", _LAST,
          partial(compression, PLUS, "4", "25"), (PLUS, ALL), "{} of {}: 25 %, 4 times"),
    Claim("count-doubled", COUNTS, "PruMerge+ adds as many spaced tokens as there are outliers.",
          "Algorithm 1", doubled, (PRUMERGE, PLUS), "2 x {} should be {}"),
    Claim("adaptive", COUNTS, "The picture decides how many tokens are kept.", _LAST,
          adaptive),
    Claim("adaptive-pays", COUNTS, "Letting the picture decide beats one number for all.",
          "the idea; no table", adaptive_pays),
    Claim("outliers", COUNTS, "Attention is sparse: few patches are outliers.", _LAST,
          outlier_share, (PRUMERGE, ALL), "{} of {}"),
    Claim("plus-share", COUNTS, "PruMerge+ keeps 25 % on average.", _LAST,
          plus_share, (PLUS, ALL), "{} of {}"),
    Claim("formula", MERGING, "A kept token may be replaced by the attention-weighted sum of its "
          "neighbours: to the letter, without the token itself.",
          "section 3, token supplement", partial(formula, LETTER), (),
          "no own term, weights not normalised"),
    Claim("formula-own", MERGING, "A kept token may be replaced by the attention-weighted sum of "
          "its neighbours: charitably, as a mean that includes the token itself.",
          "section 3, token supplement", partial(formula, CHARITABLE), (),
          "neither an own term nor a normalisation is stated"),
    Claim("clusters", MERGING, "Merging pruned tokens alone answers more than merging any.",
          "abstract; the release takes any", partial(choice_pays, "candidates", _PRUNED, _ANY),
          (), "clusters of pruned tokens"),
)  # fmt: skip


CPU_BENCH = "reduction-cpu"
ON_CPU = "CPU, random features of LLaVA-1.5's size"


def linear_cost(evidence: Evidence) -> Finding:
    """Fit how the time of a reduction grows with the number of patches."""
    rows = evidence.table("bench", CPU_BENCH, "make bench")
    rows = rows[(rows["what"] == "patches") & (rows["patches"] >= PATCHES)]  # less is overhead
    if rows["patches"].nunique() < 2:
        raise Missing("no rows of several sizes yet: make bench")
    slopes = {}
    for budget, own in rows.groupby("budget"):
        times = np.log(own[["patches", "min_ms"]].astype(float).to_numpy())
        name = f"{budget:.0f} kept" if budget >= 1 else f"{100 * budget:.0f} % kept"
        slopes[name] = float(np.polyfit(*times.T, 1)[0])
    steep = sum(slope > 1.25 for slope in slopes.values())
    found = ", ".join(f"{name}: time ~ n^{slope:.1f}" for name, slope in slopes.items())
    verdict = all_or_some(len(slopes) - steep, len(slopes))
    return Finding(verdict, found, ON_CPU)


def reduction_cost(evidence: Evidence) -> Finding:
    """Compare the time of the reduction with the encoder's, as the paper leaves it out."""
    rows = evidence.table("timing", "*", "make timing")
    case = ["model", "device", "batch", "budget", "attention", "layers"]
    times = rows.pivot_table("median_ms", case, "stage").reindex(columns=["reduce", "encode"])
    share = (100 * times["reduce"] / times["encode"]).dropna()
    if share.empty:
        raise Missing("no rows of a reduction yet: make timing")
    found = f"{share.median():.1f} % of the encoder's time (median of {len(share)} cases)"
    on = " and ".join(map(model_name, sorted(share.index.unique("model"), reverse=True)))
    return Finding(at_most(float(share.median()), 5, 20), found, on)


CLAIMS += (
    Claim("linear", COST, "The reduction's cost grows linearly with the patches.",
          "section 2, against graph matching", linear_cost, (), "O(n)"),
    Claim("cheap", COST, "The reduction's own cost may be left out.", "Table 2, not counted",
          reduction_cost),
)  # fmt: skip
