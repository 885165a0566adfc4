"""Tables 3 to 6: video, ways to choose tokens, modules, and training."""

from collections.abc import Callable

from prumerge.claims.claim import Cell, Claim, Finding
from prumerge.claims.evidence import Evidence
from prumerge.claims.rules import all_or_some, better, computed, points, untested
from prumerge.claims.text import FORTY, REPORTED
from prumerge.printed import read_printed
from prumerge.sweeps.comparison import at_equal_tokens

VIDEO, SAMPLING = "table_3_video", "table_4_sampling"
MODULES, TRAINING = "table_5_modules", "table_6_training"
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


def against(rivals: tuple[str, ...], tokens: tuple[float, ...]) -> Callable[[Evidence], Finding]:
    """Make the rule that PruMerge answers more than methods blind to the picture.

    Args:
        rivals: Methods of the sweep ``rivals``.
        tokens: Visual tokens at which both are compared, interpolated between budgets.
    """

    def rule(evidence: Evidence) -> Finding:
        own, on = evidence.sweep("rivals")
        curves: dict[str, dict] = {}
        for (method, budget), right in own.scores("method", "budget").items():
            curves.setdefault(method, {})[budget] = right
        pictures = own.questions["picture"]
        effects = {
            f"{rival}, {count:.0f} tokens": points(
                at_equal_tokens(curves["prumerge"], count),
                at_equal_tokens(curves[rival], count),
                pictures,
            )
            for rival in rivals
            for count in tokens
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


def tuning_wins_back(evidence: Evidence) -> Finding:
    """Say which part of the printed loss LoRA wins back, on printed numbers alone."""
    modules, training = (
        read_printed(name).pivot_table("value", "column", "row") for name in (MODULES, TRAINING)
    )
    tasks = ["TextVQA", "POPE", "MME"]
    full, free = modules.loc[tasks, "LLaVA-1.5 7B"], training.loc[tasks, "training-free"]
    share = (training.loc[tasks, "LoRA"] - free) / (full - free)
    found = ", ".join(f"{task} {value:.0%}" for task, value in share.items())
    return computed(all_or_some(int((share > 0.5).sum()), 3), f"{found} of the loss, as printed")


def _accuracy(name: str, task: str) -> tuple[Cell, Cell]:
    row, column = "Video-LLaVA 7B", f"{task}-QA accuracy"
    return Cell(VIDEO, f"{row} + {name}", column), Cell(VIDEO, row, column)


def _pair(file: str, first: str, second: str, column: str = "TextVQA") -> tuple[Cell, Cell]:
    return Cell(file, first, column), Cell(file, second, column)


_SPATIAL = {"TextVQA": "5x8", "MME": "5x8", "POPE": "5x7", "ScienceQA": "4x4"}
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
        Claim(f"4-sequential-{task}", "Table 4", f"{task}: outliers beat sequential sampling.",
              "Table 4", untested(NO_SEQUENTIAL),
              _pair(SAMPLING, "PruMerge", "sequential", task))
        for task in _SPATIAL
    ),
    *(
        Claim(f"4-spatial-{task}", "Table 4", f"{task}: outliers beat evenly spaced tokens.",
              "Table 4", against(("uniform", "down_sampled"), (cell.value,)),
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
    Claim("6-wins-back", "Table 6", "LoRA wins back most of what few tokens lose.",
          "Tables 5 and 6", tuning_wins_back, (FORTY,), "at {} tokens"),
)  # fmt: skip
"""In the order of the tables."""
