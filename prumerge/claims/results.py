"""Table 1: six benchmarks with and without the method, and who else is beaten. Tables 3 to 6:
video, sampling, modules, training. Table 7: PruMerge+ against other reducers.
"""

from functools import partial

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
    above_in,
    all_or_some,
    at_most,
    better,
    choice_pays,
    computed,
    pair,
    points,
    untested,
)
from prumerge.claims.method import REPORTED
from prumerge.experiments.evaluation.beside import COLUMNS
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import Interval, at_equal_tokens

GROUP = "Table 1"
FILE, EARLIER = "table_1_main_results", "table_1_earlier_versions"
METHODS = {"release": "PruMerge", "release+": "PruMerge+"}
OTHERS = ["BLIP-2 13B", "InstructBLIP 7B", "InstructBLIP 13B", "Shikra 13B"]
OTHERS += ["IDEFICS-9B", "IDEFICS-80B"]
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


def keeps(label: str, benchmark: str, evidence: Evidence) -> Finding:
    """Judge the share of a score that is kept.

    The claim holds if the share is at least the printed one, in part if the interval of the
    reduced score reaches it or if it took far more tokens. A full model that scores no more than
    the best constant answer has nothing to lose.
    """
    rows, on = evidence.scores()
    full, own = rows.loc[("full", benchmark)], rows.loc[(label, benchmark)]
    if full["low"] <= full["constant"]:
        found = f"all tokens score {full['value']:.1f}, the best constant answer "
        return Finding(UNTESTED, f"{found}{full['constant']:.1f}: nothing to lose", on)
    reduced, whole = _cells("7B", label, COLUMNS[benchmark])
    printed, tokens = reduced.value / whole.value, own["tokens_mean"]
    share, low, high = (own[name] / full["value"] for name in ("value", "low", "high"))
    verdict = HOLDS if share >= printed else PART if high >= printed else FAILS
    found = f"keeps {share:.0%} ({low:.0%} to {high:.0%}) with {tokens:.0f} tokens, "
    found += f"{tokens_cell(label).value:.0f} printed"
    return Finding(at_count(verdict, label, tokens), found, on, float(share))


def keeps_13b(label: str, evidence: Evidence) -> Finding:
    """Judge the larger model by the mean share of all benchmarks."""
    rows, on = evidence.scores("13B")
    value = rows["value"].reset_index().pivot_table("value", "benchmark", "label")
    table = printed_scores(FILE)
    printed = (table[f"LLaVA-1.5 13B + {METHODS[label]}"] / table["LLaVA-1.5 13B"]).mean()
    found = (value[label] / value["full"]).mean()
    verdict = at_most(-found, -printed, -0.95 * printed)
    verdict = at_count(verdict, label, mean_tokens(label, evidence, "13B"))
    return Finding(verdict, f"keeps {found:.1%} on average, {printed:.1%} printed", on)


def printed_scores(file: str) -> pd.DataFrame:
    """Return a printed table's six scores, one column per row of the table."""
    return read_printed(file).pivot_table("value", "column", "row").loc[list(COLUMNS.values())]


def mean_tokens(label: str, evidence: Evidence, size: str = "7B") -> float:
    """Return the mean number of tokens of a method over the benchmarks."""
    return float(evidence.scores(size)[0].loc[label, "tokens_mean"].mean())


def able(evidence: Evidence) -> list[str]:
    """List the benchmarks on which all tokens score more than the best constant answer."""
    full = evidence.scores()[0].loc["full"]
    return list(full.index[full["low"] > full["constant"]])


def comparable(label: str, evidence: Evidence) -> Finding:
    """Judge "comparable": no benchmark loses beyond chance, question by question."""
    lost, on = evidence.lost(label, "full")
    lost = lost[lost.index.isin(able(evidence))]
    names = [COLUMNS[name] for name in lost.index[lost["high"] < 0]]
    found = f"{len(names)} of {len(lost)} benchmarks lose beyond chance"
    found += f" ({', '.join(names)})" if names else ""
    verdict = all_or_some(len(lost) - len(names), len(lost))
    return Finding(at_count(verdict, label, mean_tokens(label, evidence)), found, on)


def plus_recovers(evidence: Evidence) -> Finding:
    """Compare PruMerge+ with PruMerge, each at its own number of tokens."""
    apart, on = evidence.lost("release+", "release")
    apart = apart[apart.index.isin(able(evidence)) & (apart.index != "scienceqa")]
    bounds = zip(apart.index, *(apart[name] for name in Interval._fields), strict=True)
    found = better({COLUMNS[name]: Interval(*bound) for name, *bound in bounds}, on)
    tokens = mean_tokens("release+", evidence)
    return found._replace(verdict=at_count(found.verdict, "release+", tokens))


def changed(earlier: Cell, later: Cell, evidence: Evidence) -> Finding:
    """Compare a number with what a later version printed."""
    apart = earlier.value - later.value
    found = f"printed {apart:+.1f} from the last version"
    return computed(at_most(abs(apart), 0.05, 1), found, earlier.value / later.value)


def beats_others(label: str, evidence: Evidence) -> Finding:
    """Compare with other models, on printed numbers alone."""
    table = printed_scores(FILE)
    others, own = table[OTHERS], table[f"LLaVA-1.5 7B + {METHODS[label]}"]
    return above_in(int(others.lt(own, axis=0).sum(axis=None)), int(others.count().sum()))


def _cells(size: str, label: str, column: str) -> tuple[Cell, Cell]:
    return pair(FILE, f"LLaVA-1.5 {size} + {METHODS[label]}", f"LLaVA-1.5 {size}", column)


def _of_method(label: str) -> list[Claim]:
    name = METHODS[label]
    tokens = (tokens_cell(label),)
    return [
        Claim(f"1-{label}-comparable", GROUP, f"{name} is comparable with all tokens.", "abstract",
              partial(comparable, label), tokens, "about {} tokens"),
        Claim(f"1-{label}-13b", GROUP, f"{name} keeps the larger model's scores.", "Table 1, 13B",
              partial(keeps_13b, label), _cells("13B", label, "VQAv2"),
              "VQAv2 {} of {}, and five more"),
        Claim(f"1-{label}-others", GROUP, f"{name} 7B is above BLIP-2, InstructBLIP, Shikra and "
              "IDEFICS.", "Table 1", partial(beats_others, label), tokens, "with about {} tokens"),
    ]  # fmt: skip


_PRUMERGE, _PLUS = "LLaVA-1.5 7B + PruMerge", "LLaVA-1.5 7B + PruMerge+"
_POPE = (Cell(EARLIER, _PRUMERGE, "POPE"), Cell(FILE, _PRUMERGE, "POPE"))
_POPE_13B = tuple(Cell(file, "LLaVA-1.5 13B + PruMerge", "POPE") for file in (EARLIER, FILE))
_VQA = (Cell(EARLIER, _PLUS, "VQAv2"), Cell(FILE, _PLUS, "VQAv2"))

CLAIMS = (
    *(
        Claim(f"1-{label}-{benchmark}", GROUP, f"{METHODS[label]} keeps {column}.", "Table 1, 7B",
              partial(keeps, label, benchmark), _cells("7B", label, column), "{} of {}")
        for label in METHODS
        for benchmark, column in COLUMNS.items()
    ),
    *_of_method("release"),
    *_of_method("release+"),
    Claim("1-plus", GROUP, "PruMerge+ scores more than PruMerge on every benchmark but ScienceQA.",
          "Table 1, 7B", plus_recovers, (_VQA[1], Cell(FILE, _PRUMERGE, "VQAv2")),
          "VQAv2 {} against {}"),
    Claim("1-pope-v1", GROUP, "PruMerge 7B reaches this POPE score.", "first version, March 2024",
          partial(changed, *_POPE), _POPE, "{}, later {}"),
    Claim("1-pope-13b-v1", GROUP, "PruMerge 13B reaches this POPE score.", "first version",
          partial(changed, *_POPE_13B), _POPE_13B, "{}, later {}"),
    Claim("1-vqav2-page", GROUP, "PruMerge+ 7B reaches this VQAv2 score.", "page, April 2024",
          partial(changed, *_VQA), _VQA, "{}, later {}"),
)  # fmt: skip


VIDEO, SAMPLING = "table_3_video", "table_4_sampling"
MODULES, TRAINING = "table_5_modules", "table_6_training"
SPACED = ("uniform", "down_sampled")
NO_VIDEO = "no rows of a video model: pictures are reduced here, frames of a clip are not"
NO_SEQUENTIAL = "no rows: neither text nor code says which tokens a sequence takes"


def video_count(name: str, share: float, evidence: Evidence) -> Finding:
    """Check a share of the clip's tokens that is printed with a count."""
    count, full = (cell.value for cell in _video(name, "visual tokens"))
    found = f"{share:.1%} of {full:.0f} is {share * full:.0f}; {count:.0f} is {count / full:.1%}"
    return computed(all_or_some(int(count == share * full), 1), found)


def beats_spaced(tokens: float, families: tuple[str, ...], evidence: Evidence) -> Finding:
    """Judge whether PruMerge answers more than methods blind to the picture."""
    own, on = evidence.sweep("rivals")
    asked = own.questions["family"].isin(families).to_numpy()
    if not asked.any():
        return Finding(UNTESTED, f"no questions of {', '.join(families)}", on)
    right = {
        method: at_equal_tokens(own.where(method=method).scores("budget"), tokens)[asked]
        for method in ("prumerge", *SPACED)
    }
    pictures = own.questions["picture"][asked]
    effects = {
        f"{rival}, {tokens:.0f} tokens": points(right["prumerge"], right[rival], pictures)
        for rival in SPACED
    }
    return better(effects, on)


def counts_differ(evidence: Evidence) -> Finding:
    """Look whether benchmarks keep different mean numbers of tokens."""
    rows, on = evidence.scores()
    means = rows.loc["release", "tokens_mean"].sort_values()
    spread = means.iloc[-1] / means.iloc[0]
    found = f"{means.iloc[0]:.0f} ({means.index[0]}) to {means.iloc[-1]:.0f} ({means.index[-1]})"
    return Finding(all_or_some(int(spread > 1.1), 1), f"{found} tokens on average", on)


def tuned(first: tuple[str, bool], second: tuple[str, bool], evidence: Evidence) -> Finding:
    """Judge whether one arm of the tuning answers more than another."""
    right, on = evidence.tuned()
    words = " minus ".join(
        f"{tokens} {'tuned' if is_tuned else 'untuned'}" for tokens, is_tuned in (first, second)
    )
    return better({words: points(right[first], right[second])}, on)


def above_other_video(name: str, evidence: Evidence) -> Finding:
    """Compare with other video models, on printed accuracies alone."""
    table = read_printed(VIDEO).pivot_table("value", "row", "column").filter(like="accuracy")
    own = table.loc[f"Video-LLaVA 7B + {name}"]
    others = table[~table.index.str.startswith("Video-LLaVA")]
    return above_in(int(others.lt(own).sum(axis=None)), int(others.count().sum()))


def _video(name: str, column: str) -> tuple[Cell, Cell]:
    return pair(VIDEO, f"Video-LLaVA 7B + {name}", "Video-LLaVA 7B", column)


_SPATIAL = {"TextVQA": "5x8", "MME": "5x8", "POPE": "5x7", "ScienceQA": "4x4"}
_ASKS = {"TextVQA": ("read",), "MME": ("existence", "verify"), "POPE": ("existence",)}
_ASKS |= {"ScienceQA": ("choice",)}
ABLATIONS = (
    *(
        Claim(f"3-{name}-{task}", "Table 3", f"{name} keeps Video-LLaVA's {task}-QA untrained.",
              "Table 3", untested(NO_VIDEO), _video(name, f"{task}-QA accuracy"), "{} of {}")
        for name in ("PruMerge", "PruMerge+")
        for task in ("MSVD", "MSRVTT", "ActivityNet")
    ),
    Claim("3-count", "Table 3", "PruMerge keeps 12.5 % of a clip's tokens.", "text of Table 3",
          partial(video_count, "PruMerge", 0.125), _video("PruMerge", "visual tokens"),
          "{} of {}"),
    Claim("3-count-plus", "Table 3", "PruMerge+ keeps 25 % of a clip's tokens.", "text of Table 3",
          partial(video_count, "PruMerge+", 0.25), _video("PruMerge+", "visual tokens"),
          "{} of {}"),
    *(
        Claim(f"3-{name}-others", "Table 3", f"{name} is above the other video models.", "Table 3",
              partial(above_other_video, name), _video(name, "MSVD-QA accuracy")[:1],
              "MSVD-QA {}, and two more")
        for name in ("PruMerge", "PruMerge+")
    ),
    *(
        Claim(f"4-sequential-{task}", "Table 4", f"{task}: outliers beat sequential sampling.",
              "Table 4", untested(NO_SEQUENTIAL), pair(SAMPLING, "PruMerge", "sequential", task))
        for task in _SPATIAL
    ),
    *(
        Claim(f"4-spatial-{task}", "Table 4", f"{task}: outliers beat evenly spaced tokens.",
              "Table 4", partial(beats_spaced, cell.value, _ASKS[task]),
              pair(SAMPLING, "PruMerge", f"spatial {_SPATIAL[task]}", task))
        for task, cell in zip(_SPATIAL, REPORTED, strict=True)
    ),
    Claim("4-counts", "Table 4", "Benchmarks keep different numbers of tokens.", "Table 4",
          counts_differ, (REPORTED[3], REPORTED[0]), "{} to {}"),
    Claim("5-supplement", "Table 5", "Merging adds to selection when both are tuned.", "Table 5",
          partial(tuned, ("merged", True), ("selected", True)),
          pair(MODULES, "selection and supplement", "selection alone", "TextVQA"),
          "TextVQA {} against {}"),
    Claim("5-supplement-untuned", "Table 5", "Merging adds to selection without tuning.",
          "abstract; no table",
          partial(choice_pays, "neighbours", {"neighbours": 32}, {"neighbours": 0})),
    Claim("6-lora", "Table 6", "LoRA improves on the training-free reduction.", "Table 6",
          partial(tuned, ("merged", True), ("merged", False)),
          pair(TRAINING, "LoRA", "training-free", "TextVQA"), "TextVQA {} against {}"),
)  # fmt: skip


TABLE_7 = "table_7_other_reducers"
QUARTER, HALF = 144, 288
RIVALS = {"ToMe": "tome", "ATS": "ats", "EViT": "evit"}


def curve(evidence: Evidence, method: str) -> tuple[dict, object, str]:
    """Return right answers by tokens sent, the picture of each question, and the model."""
    own, on = evidence.sweep("rivals")
    rows = own.where(method=method).scores("tokens_per_image")
    return rows, own.questions["picture"], on


def beats(method: str, evidence: Evidence) -> Finding:
    """Judge whether PruMerge+ answers more at equal numbers of tokens that were sent."""
    (ours, pictures, on), (theirs, *_) = (curve(evidence, name) for name in ("prumerge+", method))
    # ATS sends fewer tokens than it may: compared where both were measured.
    count = min(QUARTER, max(theirs))
    apart = points(at_equal_tokens(ours, count), at_equal_tokens(theirs, count), pictures)
    return better({f"{count:.0f} tokens": apart}, on)


def crossget(evidence: Evidence) -> Finding:
    """Count printed cells; CrossGET's row is copied from its paper."""
    table = printed_scores(TABLE_7)
    above = table["PruMerge+ (50 percent)"] > table["CrossGET (50 percent)"]
    found = f"above in {above.sum()} of 6 printed cells; CrossGET, which is trained, has no rows"
    return computed(all_or_some(int(above.sum()), 6), found)


def half_beats_quarter(evidence: Evidence) -> Finding:
    """Compare PruMerge+ at half of the tokens with itself at a quarter."""
    ours, pictures, on = curve(evidence, "prumerge+")
    apart = points(at_equal_tokens(ours, HALF), at_equal_tokens(ours, QUARTER), pictures)
    return better({f"{HALF} against {QUARTER} tokens": apart}, on)


def _pair(share: int, rival: str) -> tuple[Cell, Cell]:
    first, second = (f"{name} ({share} percent)" for name in ("PruMerge+", rival))
    return pair(TABLE_7, first, second, "VQAv2")


REDUCERS = (
    *(
        Claim(f"7-{method}", "Table 7", f"PruMerge+ beats {rival} at 25 % of the tokens.",
              "Table 7", partial(beats, method), _pair(25, rival),
              "VQAv2 {} against {}, and five more")
        for rival, method in RIVALS.items()
    ),
    Claim("7-crossget", "Table 7", "PruMerge+ beats CrossGET at 50 %.", "Table 7", crossget,
          _pair(50, "CrossGET"), "VQAv2 {} against {}, and five more"),
    Claim("7-half", "Table 7", "PruMerge+ with 50 % scores more than with 25 %.", "Table 7",
          half_beats_quarter, (_pair(50, "CrossGET")[0], _pair(25, "ToMe")[0]),
          "VQAv2 {} against {}"),
)  # fmt: skip
