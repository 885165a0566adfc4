"""Tables 3 to 6: video, ways to choose tokens, modules, and training."""

from collections.abc import Callable

from prumerge.claims.judging import (
    UNTESTED,
    Cell,
    Claim,
    Evidence,
    Finding,
    all_or_some,
    better,
    computed,
    points,
    untested,
)
from prumerge.claims.method import REPORTED
from prumerge.experiments.statistics import at_equal_tokens
from prumerge.printed import read_printed

VIDEO, SAMPLING = "table_3_video", "table_4_sampling"
MODULES, TRAINING = "table_5_modules", "table_6_training"
SPACED = ("uniform", "down_sampled")
NO_VIDEO = "no rows of a video model: pictures are reduced here, frames of a clip are not"
NO_SEQUENTIAL = "no rows: neither text nor code says which tokens a sequence takes"


def video_count(name: str, share: float) -> Callable[[Evidence], Finding]:
    """Make the rule for a share of the clip's tokens that is printed with a count."""

    def rule(evidence: Evidence) -> Finding:
        full = Cell(VIDEO, "Video-LLaVA 7B", "visual tokens").value
        count = Cell(VIDEO, f"Video-LLaVA 7B + {name}", "visual tokens").value
        found = f"{share:.1%} of {full:.0f} is {share * full:.0f}; "
        found += f"{count:.0f} is {count / full:.1%}"
        return computed(all_or_some(int(count == share * full), 1), found)

    return rule


def beats_spaced(tokens: float, families: tuple[str, ...]) -> Callable[[Evidence], Finding]:
    """Make the rule that PruMerge answers more than methods blind to the picture."""

    def rule(evidence: Evidence) -> Finding:
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

    return rule


def counts_differ(evidence: Evidence) -> Finding:
    """Look whether benchmarks keep different mean numbers of tokens."""
    rows, on = evidence.scores()
    means = rows.loc["release", "tokens_mean"].sort_values()
    spread = means.iloc[-1] / means.iloc[0]
    found = f"{means.iloc[0]:.0f} ({means.index[0]}) to {means.iloc[-1]:.0f} ({means.index[-1]})"
    return Finding(all_or_some(int(spread > 1.1), 1), f"{found} tokens on average", on)


def tuned(first: tuple[str, bool], second: tuple[str, bool]) -> Callable[[Evidence], Finding]:
    """Make the rule that one arm of the tuning answers more than another."""

    def rule(evidence: Evidence) -> Finding:
        right, on = evidence.tuned()
        words = [f"{tokens} {'tuned' if is_tuned else 'untuned'}" for tokens, is_tuned in
                 (first, second)]  # fmt: skip
        return better({" minus ".join(words): points(right[first], right[second])}, on)

    return rule


def merging_untuned(evidence: Evidence) -> Finding:
    """Compare the released merge with selection alone, without tuning, at equal budgets."""
    own, on = evidence.sweep("neighbours")
    plain, merged = (own.where(neighbours=count).scores("budget") for count in (0, 32))
    pictures = own.questions["picture"]
    return better(
        {f"{b:.0f} tokens": points(merged[b], plain[b], pictures) for b in sorted(plain)}, on
    )


def above_other_video(name: str) -> Callable[[Evidence], Finding]:
    """Make the rule for the comparison with other video models, on printed accuracies alone."""

    def rule(evidence: Evidence) -> Finding:
        table = read_printed(VIDEO).pivot_table("value", "row", "column").filter(like="accuracy")
        own = table.loc[f"Video-LLaVA 7B + {name}"]
        others = table[~table.index.str.startswith("Video-LLaVA")].stack()
        above = int((others < others.index.get_level_values("column").map(own)).sum())
        found = f"above in {above} of {len(others)} printed cells"
        return computed(all_or_some(above, len(others)), found)

    return rule


def _accuracy(name: str, task: str) -> tuple[Cell, Cell]:
    row, column = "Video-LLaVA 7B", f"{task}-QA accuracy"
    return Cell(VIDEO, f"{row} + {name}", column), Cell(VIDEO, row, column)


def _pair(file: str, first: str, second: str, column: str = "TextVQA") -> tuple[Cell, Cell]:
    return Cell(file, first, column), Cell(file, second, column)


_SPATIAL = {"TextVQA": "5x8", "MME": "5x8", "POPE": "5x7", "ScienceQA": "4x4"}
_ASKS = {"TextVQA": ("read",), "MME": ("existence", "verify"), "POPE": ("existence",)}
_ASKS |= {"ScienceQA": ("choice",)}
CLAIMS = (
    *(
        Claim(f"3-{name}-{task}", "Table 3", f"{name} keeps Video-LLaVA's {task}-QA untrained.",
              "Table 3", untested(NO_VIDEO), _accuracy(name, task), "{} of {}")
        for name in ("PruMerge", "PruMerge+")
        for task in ("MSVD", "MSRVTT", "ActivityNet")
    ),
    Claim("3-count", "Table 3", "PruMerge keeps 12.5 % of a clip's tokens.", "text of Table 3",
          video_count("PruMerge", 0.125), (
              Cell(VIDEO, "Video-LLaVA 7B + PruMerge", "visual tokens"),
              Cell(VIDEO, "Video-LLaVA 7B", "visual tokens")), "{} of {}"),
    Claim("3-count-plus", "Table 3", "PruMerge+ keeps 25 % of a clip's tokens.", "text of Table 3",
          video_count("PruMerge+", 0.25), (
              Cell(VIDEO, "Video-LLaVA 7B + PruMerge+", "visual tokens"),
              Cell(VIDEO, "Video-LLaVA 7B", "visual tokens")), "{} of {}"),
    *(
        Claim(f"3-{name}-others", "Table 3", f"{name} is above the other video models.", "Table 3",
              above_other_video(name), _accuracy(name, "MSVD")[:1], "MSVD-QA {}, and two more")
        for name in ("PruMerge", "PruMerge+")
    ),
    *(
        Claim(f"4-sequential-{task}", "Table 4", f"{task}: outliers beat sequential sampling.",
              "Table 4", untested(NO_SEQUENTIAL),
              _pair(SAMPLING, "PruMerge", "sequential", task))
        for task in _SPATIAL
    ),
    *(
        Claim(f"4-spatial-{task}", "Table 4", f"{task}: outliers beat evenly spaced tokens.",
              "Table 4", beats_spaced(cell.value, _ASKS[task]),
              _pair(SAMPLING, "PruMerge", f"spatial {_SPATIAL[task]}", task))
        for task, cell in zip(_SPATIAL, REPORTED, strict=True)
    ),
    Claim("4-counts", "Table 4", "Benchmarks keep different numbers of tokens.", "Table 4",
          counts_differ, (REPORTED[3], REPORTED[0]), "{} to {}"),
    Claim("5-supplement", "Table 5", "Merging adds to selection when both are tuned.", "Table 5",
          tuned(("merged", True), ("selected", True)),
          _pair(MODULES, "selection and supplement", "selection alone"), "TextVQA {} against {}"),
    Claim("5-supplement-untuned", "Table 5", "Merging adds to selection without tuning.",
          "abstract; no table", merging_untuned, (), "-"),
    Claim("6-lora", "Table 6", "LoRA improves on the training-free reduction.", "Table 6",
          tuned(("merged", True), ("merged", False)), _pair(TRAINING, "LoRA", "training-free"),
          "TextVQA {} against {}"),
)  # fmt: skip
"""In the order of the tables."""
