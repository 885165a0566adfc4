"""Table 7: PruMerge+ against other reducers at a quarter and at half of the tokens."""

from collections.abc import Callable

from prumerge.claims.claim import Cell, Claim, Finding
from prumerge.claims.evidence import Evidence
from prumerge.claims.rules import all_or_some, better, computed, points
from prumerge.evaluation.beside import COLUMNS
from prumerge.experiments.statistics import at_equal_tokens
from prumerge.printed import read_printed

GROUP = "Table 7"
FILE = "table_7_other_reducers"
QUARTER, HALF = 144, 288
RIVALS = {"ToMe": "tome", "ATS": "ats", "EViT": "evit"}


def curve(evidence: Evidence, method: str) -> tuple[dict, object, str]:
    """Return right answers by tokens sent, the picture of each question, and the model."""
    own, on = evidence.sweep("rivals")
    rows = own.where(method=method).scores("tokens_per_image")
    return rows, own.questions["picture"], on


def beats(rival: str) -> Callable[[Evidence], Finding]:
    """Make the rule that PruMerge+ answers more at equal numbers of tokens that were sent."""

    def rule(evidence: Evidence) -> Finding:
        (ours, pictures, on), (theirs, _, _) = (
            curve(evidence, name) for name in ("prumerge+", RIVALS[rival])
        )
        # ATS sends fewer tokens than it may: compared where both were measured.
        count = min(QUARTER, max(theirs))
        apart = points(at_equal_tokens(ours, count), at_equal_tokens(theirs, count), pictures)
        return better({f"{count:.0f} tokens": apart}, on)

    return rule


def crossget(evidence: Evidence) -> Finding:
    """Count printed cells; CrossGET's row is copied from its paper."""
    table = read_printed(FILE).pivot_table("value", "column", "row")
    table = table.loc[list(COLUMNS.values())]
    above = table["PruMerge+ (50 percent)"] > table["CrossGET (50 percent)"]
    found = f"above in {above.sum()} of 6 printed cells; CrossGET, which is trained, has no rows"
    return computed(all_or_some(int(above.sum()), 6), found)


def half_beats_quarter(evidence: Evidence) -> Finding:
    """Compare PruMerge+ at half of the tokens with itself at a quarter."""
    ours, pictures, on = curve(evidence, "prumerge+")
    apart = points(at_equal_tokens(ours, HALF), at_equal_tokens(ours, QUARTER), pictures)
    return better({f"{HALF} against {QUARTER} tokens": apart}, on)


def _cells(share: int, rival: str, column: str = "VQAv2") -> tuple[Cell, Cell]:
    names = (f"PruMerge+ ({share} percent)", f"{rival} ({share} percent)")
    return Cell(FILE, names[0], column), Cell(FILE, names[1], column)


CLAIMS = (
    *(
        Claim(f"7-{method}", GROUP, f"PruMerge+ beats {rival} at 25 % of the tokens.", "Table 7",
              beats(rival), _cells(25, rival), "VQAv2 {} against {}, and five more")
        for rival, method in RIVALS.items()
    ),
    Claim("7-crossget", GROUP, "PruMerge+ beats CrossGET at 50 %.", "Table 7", crossget,
          _cells(50, "CrossGET"), "VQAv2 {} against {}, and five more"),
    Claim("7-half", GROUP, "PruMerge+ with 50 % scores more than with 25 %.", "Table 7",
          half_beats_quarter, (_cells(50, "CrossGET")[0], _cells(25, "ToMe")[0]),
          "VQAv2 {} against {}"),
)  # fmt: skip
"""In the order of the table."""
