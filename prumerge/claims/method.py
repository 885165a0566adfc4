"""What the text says of the method, how many tokens it keeps and what time it takes itself."""

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
    computed,
    points,
)
from prumerge.experiments.statistics import at_equal_tokens
from prumerge.printed import reads_as

GROUP = "Text: method and counts"
PATCHES = 576
_COUNTS = "table_1_main_results"
PRUMERGE = Cell(_COUNTS, "LLaVA-1.5 7B + PruMerge", "visual tokens")
PLUS = Cell(_COUNTS, "LLaVA-1.5 7B + PruMerge+", "visual tokens")
ALL = Cell(_COUNTS, "LLaVA-1.5 7B", "visual tokens")
REPORTED = tuple(
    Cell("table_4_sampling", "PruMerge", f"{task} visual tokens")
    for task in ("TextVQA", "MME", "POPE", "ScienceQA")
)
FORTY = REPORTED[0]


def compression(kept: Cell, times: str, percent: str) -> object:
    """Make the rule for a count that is printed as a factor and as a share."""

    def rule(evidence: Evidence) -> Finding:
        factor, share = PATCHES / kept.value, 100 * kept.value / PATCHES
        right = reads_as(factor, times) + reads_as(share, percent)
        found = f"{PATCHES} / {kept.value:.0f} = {factor:.2f}, or {share:.2f} %"
        return computed(all_or_some(right, 2), found)

    return rule


def average_count(evidence: Evidence) -> Finding:
    """Compare the mean of the counts that are reported with the stated average."""
    counts = [cell.value for cell in REPORTED]
    mean = sum(counts) / len(counts)
    found = f"{len(counts)} of 6 counts are reported; their mean is {mean:.2f}"
    return computed(at_most(abs(mean - PRUMERGE.value), 0.5, 4), found)


def doubled(evidence: Evidence) -> Finding:
    """Compare what Algorithm 1 adds with the number reported."""
    total = 2 * PRUMERGE.value
    found = f"2 x {PRUMERGE.value:.0f} = {total:.0f}, {100 * total / PATCHES:.1f} % of {PATCHES}"
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
    share = 100 * float(released(own).rows["tokens_per_image"].iloc[0]) / PATCHES
    printed = 100 * PRUMERGE.value / PATCHES
    found = f"{share:.1f} % on average (the fence's bound is 25 %); pictures differ from theirs"
    return Finding(at_most(share, 1.2 * printed, 25), found, on)


def plus_share(evidence: Evidence) -> Finding:
    """Compare PruMerge+'s share under the released stride and under the text's lattice."""
    own, on = evidence.sweep("fences")
    outliers = 100 * float(released(own).rows["tokens_per_image"].iloc[0]) / PATCHES
    rows = own.where(method="prumerge+").rows
    readings = {"released stride": ("stride", 3), "lattice, one per outlier": ("lattice", 1)}
    shares = {
        name: 100 * rows.loc[(rows["spatial"] == how) & (rows["spatial_factor"] == factor)]
        ["tokens_per_image"].iloc[0] / PATCHES
        for name, (how, factor) in readings.items()
    }  # fmt: skip
    near = sum(abs(share - 100 * PLUS.value / PATCHES) <= 3 for share in shares.values())
    found = ", ".join(f"{name}: {share:.0f} %" for name, share in shares.items())
    found += f"; outliers alone {outliers:.0f} %, printed {100 * PRUMERGE.value / PATCHES:.0f} %"
    return Finding(all_or_some(near, len(shares)), found, on)


def released(own: object) -> object:
    """Keep the released fence of a sweep of PruMerge that lets the picture decide."""
    fence = {"whisker": 1.5, "lower_quantile": 0.25, "upper_quantile": 0.75}
    return own.where(method="prumerge", **fence)


def formula(evidence: Evidence) -> Finding:
    """Compare the sum of neighbours alone, as written, with the released sum."""
    own, on = evidence.sweep("weights")
    plain = own.where(normalise_weights=False, softmax_class=True, merge_reads="original")
    written = plain.where(own_term=False, extra_token=False).scores("budget")
    code = plain.where(own_term=True, extra_token=True).scores("budget")
    pictures = own.questions["picture"]
    effects = {
        f"{budget:.0f} tokens": points(written[budget], code[budget], pictures)
        for budget in sorted(written)
    }
    # As good as released is enough: a loss within chance speaks for the formula.
    finding = better(effects, on)
    lost = sum(effect.high < 0 for effect in effects.values())
    verdict = all_or_some(len(effects) - lost, len(effects))
    return finding._replace(
        verdict=verdict, found=finding.found.partition(" points")[0] + " points"
    )


def adaptive_pays(evidence: Evidence) -> Finding:
    """Compare the picture's own numbers with the same mean number for all."""
    own, on = evidence.sweep("fences")
    fence = released(own)
    flat = evidence.sweep("budgets")[0].where(method="prumerge").scores("tokens_per_image")
    tokens = float(fence.rows["tokens_per_image"].iloc[0])
    adaptive = fence.right.iloc[:, 0]
    apart = points(adaptive, at_equal_tokens(flat, tokens), own.questions["picture"])
    return better({f"{tokens:.0f} tokens on average": apart}, on)


def clusters(evidence: Evidence) -> Finding:
    """Compare a merge of pruned patches alone with the released one, which takes any."""
    own, on = evidence.sweep("candidates")
    alone, of_all = (
        own.where(candidates=which, neighbours=32).scores("budget") for which in ("pruned", "all")
    )
    pictures = own.questions["picture"]
    return better(
        {f"{b:.0f} tokens": points(alone[b], of_all[b], pictures) for b in sorted(alone)}, on
    )


_FIRST, _LAST = "text, first version", "abstract, last version"
CLAIMS = (
    Claim("count-40", GROUP, "About 40 tokens are 14.4 times fewer.", _FIRST,
          compression(FORTY, "14.4", "6.9"), (FORTY,), "{} tokens: 14.4 times, 6.9 %"),
    Claim("count-32", GROUP, "About 32 tokens are 18 times fewer.", "text, second version and last",
          compression(PRUMERGE, "18", "5.5"), (PRUMERGE,), "{} tokens: 18 times, 5.5 %"),
    Claim("count-mean", GROUP, "Six benchmarks need about 32 tokens on average.", _LAST,
          average_count, (PRUMERGE, *REPORTED), "{} (reported: {}, {}, {}, {})"),
    Claim("count-plus", GROUP, "PruMerge+ keeps a quarter of the tokens, 4 times fewer.", _LAST,
          compression(PLUS, "4", "25"), (PLUS, ALL), "{} of {}: 25 %, 4 times"),
    Claim("count-doubled", GROUP, "PruMerge+ adds as many spaced tokens as there are outliers.",
          "Algorithm 1", doubled, (PRUMERGE, PLUS), "2 x {} should be {}"),
    Claim("adaptive", GROUP, "The picture decides how many tokens are kept.", _LAST,
          adaptive, (), "-"),
    Claim("adaptive-pays", GROUP, "Letting the picture decide beats one number for all.",
          "the idea; no table", adaptive_pays, (), "-"),
    Claim("outliers", GROUP, "Attention is sparse: few patches are outliers.", _LAST,
          outlier_share, (PRUMERGE, ALL), "{} of {}"),
    Claim("plus-share", GROUP, "PruMerge+ keeps 25 % on average.", _LAST,
          plus_share, (PLUS, ALL), "{} of {}"),
    Claim("formula", GROUP, "A kept token may be replaced by the weighted sum of its neighbours.",
          "section 3, token supplement", formula, (), "no own term, weights not normalised"),
    Claim("clusters", GROUP, "Merging pruned tokens alone answers more than merging any.",
          "abstract; the release takes any", clusters, (), "clusters of pruned tokens"),
)  # fmt: skip
"""In the order of the text."""


CPU_BENCH = "reduction-cpu"
"""Rows of the benchmarks on a CPU; what they are said of names the CPU."""


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
    return Finding(verdict, found, "CPU, random features of LLaVA-1.5's size")


def reduction_cost(evidence: Evidence) -> Finding:
    """Compare the time of the reduction with the encoder's, as the paper leaves it out."""
    rows = evidence.table("timing", "*", "make timing")
    case = ["model", "device", "batch", "budget", "attention", "layers"]
    times = rows.pivot_table("median_ms", case, "stage").reindex(columns=["reduce", "encode"])
    share = (100 * times["reduce"] / times["encode"]).dropna()
    if share.empty:
        raise Missing("no rows of a reduction yet: make timing")
    found = f"{share.median():.1f} % of the encoder's time (median of {len(share)} cases)"
    on = " and ".join(sorted({name for name, *_ in share.index}, reverse=True))
    on = on.replace("mini", "mini-LLaVA").replace("7b-random", "7B's shape")
    return Finding(at_most(float(share.median()), 5, 20), found, on)


CLAIMS += (
    Claim("linear", GROUP, "The reduction's cost grows linearly with the patches.",
          "section 2, against graph matching", linear_cost, (), "O(n)"),
    Claim("cheap", GROUP, "The reduction's own cost may be left out.", "Table 2, not counted",
          reduction_cost, (), "-"),
)  # fmt: skip
"""Those of the text; what Table 2 leaves out is in :mod:`prumerge.claims.efficiency`."""
