"""Tables 3 to 7: video, sampling, modules, training, and PruMerge+ against other reducers."""

from collections.abc import Iterable, Mapping
from functools import partial

from prumerge.claims.evidence import Evidence, Missing
from prumerge.claims.judging import (
    CHOICE,
    COUNTS,
    MERGING,
    REDUCERS,
    TUNING,
    UNTESTED,
    VIDEO,
    Cell,
    Claim,
    Finding,
    pair,
)
from prumerge.claims.method import REPORTED
from prumerge.claims.results import printed_scores
from prumerge.claims.rules import (
    above_in,
    all_or_some,
    apart,
    as_good,
    better,
    choice_pays,
    computed,
    in_both,
    points,
    untested,
)
from prumerge.experiments.printed import read_printed
from prumerge.experiments.statistics import Interval
from prumerge.experiments.sweeps.handling import EQUAL, told

CLIPS, SAMPLING = "table_3_video", "table_4_sampling"
MODULES, TRAINING = "table_5_modules", "table_6_training"
SPACED = ("uniform", "down_sampled")
VARIANTS = ("PruMerge", "PruMerge+")
ON_CLIPS = (("prumerge", 256), ("prumerge+", 256), ("prumerge+", 512))
"""What Table 3 sends, both readings of PruMerge+'s share among it."""
NO_SEQUENTIAL = "no rows: neither text nor code says which tokens a sequence takes"


def keeps_clips(evidence: Evidence) -> Finding:
    """Judge whether reduced clips are answered as well as whole ones."""
    own, on = evidence.clips()
    whole = own.of("stock")

    def rule(handling: Mapping) -> Finding:
        effects = {}
        for method, budget in ON_CLIPS:
            try:
                right = own.of(method, budget, **handling)
            except ValueError as error:
                raise Missing(str(error)) from error
            effects[f"{method}, {budget} tokens"] = points(right, whole)
        return as_good(effects, on)

    finding = in_both(rule)
    return finding._replace(found=f"{finding.found}; drawn clips, answers judged to the letter")


def video_count(name: str, share: float, evidence: Evidence) -> Finding:
    """Check a share of the clip's tokens that is printed with a count."""
    count, full = (cell.value for cell in _video(name, "visual tokens"))
    found = f"{share:.1%} of {full:.0f} is {share * full:.0f}; {count:.0f} is {count / full:.1%}"
    return computed(all_or_some(int(count == share * full), 1), found)


def beats_spaced(tokens: float, families: tuple[str, ...], evidence: Evidence) -> Finding:
    """Judge whether PruMerge answers more than methods blind to the picture."""
    own, on = evidence.sweep("printed")
    asked = own.questions["family"].isin(families).to_numpy()
    if not asked.any():
        return Finding(UNTESTED, f"no questions of {', '.join(families)}", on)

    def rule(handling: Mapping) -> Finding:
        sent = {"budget": tokens, **handling}
        effects = {
            f"{rival}, {tokens:.0f} tokens": apart(
                own, {"method": "prumerge", **sent}, {"method": rival, **sent}, asked
            )
            for rival in SPACED
        }
        return better(effects, on)

    return in_both(rule)


def counts_differ(evidence: Evidence) -> Finding:
    """Look whether benchmarks keep different mean numbers of tokens."""
    rows, on = evidence.scores()
    means = rows.loc["release", "tokens_mean"].sort_values()
    spread = means.iloc[-1] / means.iloc[0]
    found = f"{means.iloc[0]:.0f} ({means.index[0]}) to {means.iloc[-1]:.0f} ({means.index[-1]})"
    return Finding(all_or_some(int(spread > 1.1), 1), f"{found} tokens on average", on)


def arms(
    first: tuple[str, bool], second: tuple[str, bool], evidence: Evidence
) -> tuple[dict[str, Interval], str]:
    """Compare two arms of the tuning (tokens, whether tuned), for each number of steps."""
    right, on = evidence.tuned()
    words = " minus ".join(
        f"{tokens} {'tuned' if is_tuned else 'untuned'}" for tokens, is_tuned in (first, second)
    )
    steps = [count for count in sorted(right.columns.unique("steps")) if count]
    effects = {}
    for count in steps:
        pair = [(tokens, told(EQUAL), count * is_tuned) for tokens, is_tuned in (first, second)]
        if set(pair) <= set(right):  # not every arm was tuned for longer
            effects[f"{words}, {count} steps"] = points(*(right[arm] for arm in pair))
    if not effects:
        raise Missing("no rows of a tuned model yet: python -m prumerge.finetuning arms")
    return effects, on


def tuned(first: tuple[str, bool], second: tuple[str, bool], evidence: Evidence) -> Finding:
    """Judge whether one arm of the tuning answers more than another, at equal handling."""
    return better(*arms(first, second, evidence))


def tuned_keeps_up(evidence: Evidence) -> Finding:
    """Judge whether few merged tokens answer as much as all, both tuned, at equal handling."""
    return as_good(*arms(("merged", True), ("all", True), evidence))


def above_other_video(evidence: Evidence) -> Finding:
    """Compare both variants with other video models, on printed accuracies alone."""
    table = read_printed(CLIPS).pivot_table("value", "row", "column").filter(like="accuracy")
    others = table[~table.index.str.startswith("Video-LLaVA")]
    rows = [table.loc[f"Video-LLaVA 7B + {name}"] for name in VARIANTS]
    above = sum(int(others.lt(own).sum(axis=None)) for own in rows)
    return above_in(above, len(rows) * int(others.count().sum()))


def _video(name: str, column: str) -> tuple[Cell, Cell]:
    return pair(CLIPS, f"Video-LLaVA 7B + {name}", "Video-LLaVA 7B", column)


def _all(pairs: Iterable[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    return tuple(cell for cells in pairs for cell in cells)


_CLIP_TASKS = ("MSVD", "MSRVTT", "ActivityNet")
_SPATIAL = {"TextVQA": "5x8", "MME": "5x8", "POPE": "5x7", "ScienceQA": "4x4"}
_ASKS = {"TextVQA": ("read",), "MME": ("existence", "verify"), "POPE": ("existence",)}
_ASKS |= {"ScienceQA": ("choice",)}
ABLATIONS = (
    Claim("3-kept", VIDEO, "PruMerge and PruMerge+ keep Video-LLaVA's answers untrained.",
          "Table 3", keeps_clips,
          _all(_video(name, f"{task}-QA accuracy") for name in VARIANTS for task in _CLIP_TASKS),
          "; ".join(f"{name}: " + ", ".join(f"{task} {{}} of {{}}" for task in _CLIP_TASKS)
                    for name in VARIANTS)),
    Claim("3-count", VIDEO, "PruMerge keeps 12.5 % of a clip's tokens.", "text of Table 3",
          partial(video_count, "PruMerge", 0.125), _video("PruMerge", "visual tokens"),
          "{} of {}"),
    Claim("3-count-plus", VIDEO, "PruMerge+ keeps 25 % of a clip's tokens.", "text of Table 3",
          partial(video_count, "PruMerge+", 0.25), _video("PruMerge+", "visual tokens"),
          "{} of {}"),
    Claim("3-others", VIDEO, "PruMerge and PruMerge+ are above the other video models.", "Table 3",
          above_other_video, tuple(_video(name, "MSVD-QA accuracy")[0] for name in VARIANTS),
          "MSVD-QA {} and {}, and two more benchmarks"),
    Claim("4-sequential", CHOICE, "Outliers beat sequential sampling.", "Table 4",
          untested(NO_SEQUENTIAL),
          _all(pair(SAMPLING, "PruMerge", "sequential", task) for task in _SPATIAL),
          "; ".join(f"{task} {{}} against {{}}" for task in _SPATIAL)),
    *(
        Claim(f"4-spatial-{task}", CHOICE, f"{task}: outliers beat evenly spaced tokens.",
              "Table 4", partial(beats_spaced, cell.value, _ASKS[task]),
              pair(SAMPLING, "PruMerge", f"spatial {_SPATIAL[task]}", task))
        for task, cell in zip(_SPATIAL, REPORTED, strict=True)
    ),
    Claim("4-counts", COUNTS, "Benchmarks keep different numbers of tokens.", "Table 4",
          counts_differ, (REPORTED[3], REPORTED[0]), "{} to {}"),
    Claim("5-supplement", MERGING, "Merging adds to selection when both are tuned.", "Table 5",
          partial(tuned, ("merged", True), ("selected", True)),
          pair(MODULES, "selection and supplement", "selection alone", "TextVQA"),
          "TextVQA {} against {}"),
    Claim("5-supplement-untuned", MERGING, "Merging adds to selection without tuning.",
          "abstract; no table",
          partial(choice_pays, "neighbours", {"neighbours": 32}, {"neighbours": 0})),
    Claim("6-lora", TUNING, "LoRA improves on the training-free reduction.", "Table 6",
          partial(tuned, ("merged", True), ("merged", False)),
          pair(TRAINING, "LoRA", "training-free", "TextVQA"), "TextVQA {} against {}"),
)  # fmt: skip


TABLE_7 = "table_7_other_reducers"
QUARTER, HALF = 144, 288
RIVALS = {"ToMe": "tome_in_encoder", "ATS": "ats_mean", "EViT": "evit"}
"""Each in its published place, at equal mean tokens."""


def beats(method: str, evidence: Evidence) -> Finding:
    """Judge whether PruMerge+ answers more than a rival at a quarter of the tokens."""
    own, on = evidence.sweep("printed")

    def rule(handling: Mapping) -> Finding:
        ours, theirs = (
            {"method": name, "budget": QUARTER, **handling} for name in ("prumerge+", method)
        )
        effect = apart(own, ours, theirs)
        sent = own.where(**theirs).rows["tokens_per_image"].mean()
        return better({f"{QUARTER} tokens against {sent:.0f} of {method}": effect}, on)

    return in_both(rule)


def crossget(evidence: Evidence) -> Finding:
    """Count printed cells; CrossGET's row is copied from its paper."""
    table = printed_scores(TABLE_7)
    above = table["PruMerge+ (50 percent)"] > table["CrossGET (50 percent)"]
    found = f"above in {above.sum()} of 6 printed cells; CrossGET, which is trained, has no rows"
    return computed(all_or_some(int(above.sum()), 6), found)


def half_beats_quarter(evidence: Evidence) -> Finding:
    """Compare PruMerge+ at half of the tokens with itself at a quarter."""
    own, on = evidence.sweep("printed")

    def rule(handling: Mapping) -> Finding:
        sides = (
            {"method": "prumerge+", "budget": budget, **handling} for budget in (HALF, QUARTER)
        )
        return better({f"{HALF} against {QUARTER} tokens": apart(own, *sides)}, on)

    return in_both(rule)


def _against(share: int, rival: str) -> tuple[Cell, Cell]:
    first, second = (f"{name} ({share} percent)" for name in ("PruMerge+", rival))
    return pair(TABLE_7, first, second, "VQAv2")


AGAINST = (
    *(
        Claim(f"7-{rival.lower()}", REDUCERS, f"PruMerge+ beats {rival} at 25 % of the tokens.",
              "Table 7", partial(beats, method), _against(25, rival),
              "VQAv2 {} against {}, and five more")
        for rival, method in RIVALS.items()
    ),
    Claim("7-crossget", REDUCERS, "PruMerge+ beats CrossGET at 50 %.", "Table 7", crossget,
          _against(50, "CrossGET"), "VQAv2 {} against {}, and five more"),
    Claim("7-half", COUNTS, "PruMerge+ with 50 % scores more than with 25 %.", "Table 7",
          half_beats_quarter, (_against(50, "CrossGET")[0], _against(25, "ToMe")[0]),
          "VQAv2 {} against {}"),
)  # fmt: skip
