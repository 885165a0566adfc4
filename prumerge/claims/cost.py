"""What the text says of the time that the reduction itself takes."""

import numpy as np

from prumerge.claims.claim import Claim, Finding, Missing
from prumerge.claims.evidence import Evidence
from prumerge.claims.rules import all_or_some, at_most
from prumerge.claims.text import GROUP, PATCHES

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


CLAIMS = (
    Claim("linear", GROUP, "The reduction's cost grows linearly with the patches.",
          "section 2, against graph matching", linear_cost, (), "O(n)"),
    Claim("cheap", GROUP, "The reduction's own cost may be left out.", "Table 2, not counted",
          reduction_cost, (), "-"),
)  # fmt: skip
"""Those of the text; what Table 2 leaves out is in :mod:`prumerge.claims.efficiency`."""
