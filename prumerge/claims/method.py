"""What the text says of the method, how many tokens it keeps and what time it takes itself."""

from functools import partial

import numpy as np

from prumerge.claims.judging import (
    Cell,
    Claim,
    Evidence,
    Finding,
    Missing,
    all_or_some,
    at_most,
    better,
    by_budget,
    choice_pays,
    computed,
    model_name,
    points,
)
from prumerge.experiments.printed import reads_as
from prumerge.experiments.statistics import at_equal_tokens
from prumerge.experiments.sweeps.tables import Answered

GROUP = "Text: method and counts"
PATCHES = 576
_COUNTS = "table_1_main_results"
PRUMERGE = Cell(_COUNTS, "LLaVA-1.5 7B + PruMerge", "visual tokens")
PLUS = Cell(_COUNTS, "LLaVA-1.5 7B + PruMerge+", "visual tokens")
ALL = Cell(_COUNTS, "LLaVA-1.5 7B", "visual tokens")
_TASKS = ("TextVQA", "MME", "POPE", "ScienceQA")
REPORTED = tuple(Cell("table_4_sampling", "PruMerge", f"{task} visual tokens") for task in _TASKS)
FORTY = REPORTED[0]


def compression(kept: Cell, times: str, part: str, evidence: Evidence) -> Finding:
    """Check a count that is printed as a factor and as a share."""
    factor, share = PATCHES / kept.value, percent(kept.value)
    right = reads_as(factor, times) + reads_as(share, part)
    found = f"{PATCHES} / {kept.value:.0f} = {factor:.2f}, or {share:.2f} %"
    return computed(all_or_some(right, 2), found)


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


def released(own: Answered) -> Answered:
    """Keep the released fence of a sweep of PruMerge that lets the picture decide."""
    return own.where(method="prumerge", whisker=1.5, lower_quantile=0.25, upper_quantile=0.75)


def share_sent(own: Answered) -> float:
    """Return which part of the patches the first row sends, in percent."""
    return percent(float(own.rows["tokens_per_image"].iloc[0]))


def percent(tokens: float) -> float:
    """Return which part of the patches so many tokens are."""
    return 100 * tokens / PATCHES


def formula(evidence: Evidence) -> Finding:
    """Compare the sum of neighbours alone, as written, with the released sum."""
    own, on = evidence.sweep("weights")
    plain = own.where(normalise_weights=False, softmax_class=True, merge_reads="original")
    written = {"own_term": "none", "extra_token": False}
    code = {"own_term": "one", "extra_token": True}
    effects = by_budget(plain, written, code)
    # As good as released is enough: a loss within chance speaks for the formula.
    finding = better(effects, on)
    lost = sum(effect.high < 0 for effect in effects.values())
    verdict = all_or_some(len(effects) - lost, len(effects))
    found = finding.found.partition(" points")[0] + " points"
    return finding._replace(verdict=verdict, found=found)


def adaptive_pays(evidence: Evidence) -> Finding:
    """Compare the picture's own numbers with the same mean number for all."""
    own, on = evidence.sweep("fences")
    fence = released(own)
    flat = evidence.sweep("budgets")[0].where(method="prumerge").scores("tokens_per_image")
    tokens = float(fence.rows["tokens_per_image"].iloc[0])
    adaptive = fence.right.iloc[:, 0]
    apart = points(adaptive, at_equal_tokens(flat, tokens), own.questions["picture"])
    return better({f"{tokens:.0f} tokens on average": apart}, on)


_PRUNED, _ANY = ({"candidates": which, "neighbours": 32} for which in ("pruned", "all"))
_FIRST, _LAST = "text, first version", "abstract, last version"
CLAIMS = (
    Claim("count-40", GROUP, "About 40 tokens are 14.4 times fewer.", _FIRST,
          partial(compression, FORTY, "14.4", "6.9"), (FORTY,), "{} tokens: 14.4 times, 6.9 %"),
    Claim("count-32", GROUP, "About 32 tokens are 18 times fewer.", "text, second version and last",
          partial(compression, PRUMERGE, "18", "5.5"), (PRUMERGE,), "{} tokens: 18 times, 5.5 %"),
    Claim("count-mean", GROUP, "Six benchmarks need about 32 tokens on average.", _LAST,
          average_count, (PRUMERGE, *REPORTED), "{} (reported: {}, {}, {}, {})"),
    Claim("count-plus", GROUP, "PruMerge+ keeps a quarter of the tokens, 4 times fewer.", _LAST,
          partial(compression, PLUS, "4", "25"), (PLUS, ALL), "{} of {}: 25 %, 4 times"),
    Claim("count-doubled", GROUP, "PruMerge+ adds as many spaced tokens as there are outliers.",
          "Algorithm 1", doubled, (PRUMERGE, PLUS), "2 x {} should be {}"),
    Claim("adaptive", GROUP, "The picture decides how many tokens are kept.", _LAST,
          adaptive),
    Claim("adaptive-pays", GROUP, "Letting the picture decide beats one number for all.",
          "the idea; no table", adaptive_pays),
    Claim("outliers", GROUP, "Attention is sparse: few patches are outliers.", _LAST,
          outlier_share, (PRUMERGE, ALL), "{} of {}"),
    Claim("plus-share", GROUP, "PruMerge+ keeps 25 % on average.", _LAST,
          plus_share, (PLUS, ALL), "{} of {}"),
    Claim("formula", GROUP, "A kept token may be replaced by the weighted sum of its neighbours.",
          "section 3, token supplement", formula, (), "no own term, weights not normalised"),
    Claim("clusters", GROUP, "Merging pruned tokens alone answers more than merging any.",
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
    Claim("linear", GROUP, "The reduction's cost grows linearly with the patches.",
          "section 2, against graph matching", linear_cost, (), "O(n)"),
    Claim("cheap", GROUP, "The reduction's own cost may be left out.", "Table 2, not counted",
          reduction_cost),
)  # fmt: skip
