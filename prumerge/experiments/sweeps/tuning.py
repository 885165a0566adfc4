"""What the tuned presets add on the questions ``report``, and which method to recommend.

The presets are chosen on other questions, by the rule of
:mod:`prumerge.experiments.sweeps.leaderboard`. Merging has to show its worth against plain
``top_k`` of the same scores in the same handling: the same patches, sent as they are.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from prumerge.experiments.statistics import Interval, holm, interval, paired, significance
from prumerge.experiments.sweeps.grids import CHOOSING
from prumerge.experiments.sweeps.handling import (
    BUDGETS,
    COLUMNS,
    EQUAL,
    at,
    read_handling,
    told,
)
from prumerge.experiments.sweeps.leaderboard import effects
from prumerge.experiments.sweeps.tables import Answered, read_sweep_rows
from prumerge.settings import PRESETS

OURS = ("prumerge", "prumerge+", "paper", "paper+", "paper-literal")


def over_budgets(answered: Answered, budgets: Sequence[int] = BUDGETS) -> dict[str, np.ndarray]:
    """Average each method over budgets, question by question; ValueError names who lacks one."""
    asked = answered.rows[answered.rows["budget"].isin(budgets)]
    for name, rows in asked.groupby("method"):
        if set(rows["budget"]) != set(budgets):
            raise ValueError(f"{name} was not run at each of {list(budgets)} tokens")
    return Answered(asked, answered.right[list(asked.index)], answered.questions).scores("method")


def ladder(budgets: Sequence[int] = BUDGETS, suffix: str = "") -> pd.DataFrame:
    """Return what handling, PruMerge's own choices and merging each add, over budgets.

    Indexed by what is sent. Columns: ``accuracy`` with ``low`` and ``high``; ``against``, a row
    above, and the ``difference`` to it with ``difference_low`` and ``difference_high``; ``p`` that
    chance alone explains it, and ``p_holm`` corrected for the table. The two rows of ``top_k`` have
    what is sent *with* merging in ``against``: theirs is what *not* merging adds.
    """
    rivals, own = (read_sweep_rows(f"{name}{suffix}") for name in ("rivals", "tuned"))
    handling = {name: getattr(PRESETS["tuned-handling"], name) for name in COLUMNS}
    alike, tuned = (over_budgets(answered.where(**handling), budgets) for answered in (rivals, own))
    released = {name: getattr(PRESETS["release"], name) for name in COLUMNS}
    first = over_budgets(rivals.where(method="prumerge", **released), budgets)
    handled, sent = f"released, {told(handling)}", "tuned"
    steps = {
        f"released, {told(released)}": (first["prumerge"], ""),
        handled: (alike["prumerge"], f"released, {told(released)}"),
        sent: (tuned["tuned"], handled),
        "top_k": (alike["top_k"], handled),
        "top_k with tuned's scores": (tuned["top_k"], sent),
    }
    return _compared(steps, rivals.questions["picture"])


def _compared(steps: dict[str, tuple[np.ndarray, str]], pictures: pd.Series) -> pd.DataFrame:
    rows = []
    for name, (scores, against) in steps.items():
        mean, low, high = interval(scores, pictures)
        row = {"sent": name, "accuracy": mean, "low": low, "high": high, "against": against}
        if against:
            pair = scores, steps[against][0], pictures
            bounds = ["difference", "difference_low", "difference_high"]
            row |= dict(zip(bounds, paired(*pair), strict=True)) | {"p": significance(*pair)}
        rows.append(row)
    table = pd.DataFrame(rows).set_index("sent")
    return table.assign(p_holm=holm(table["p"]))


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """What to send here: ``method`` in ``handling``, and why; ``str`` says it in a sentence.

    ``merging`` is the difference on ``report`` of ``tuned`` to ``top_k`` with the same scores, in
    the same handling; ``pays`` tells whether it lies above 0 beyond chance.
    """

    method: str
    handling: str
    merging: Interval
    p: float

    @property
    def pays(self) -> bool:
        """Whether merging adds right answers beyond chance."""
        return self.merging.low > 0 and self.p < 0.05

    def __str__(self) -> str:
        mean, low, high = (f"{100 * value:+.1f}" for value in self.merging)
        found = f"{mean} points ({low} to {high}) against top_k with the same scores"
        merging = f"merging {'pays' if self.pays else 'does not pay'} here: {found}"
        return f"send {self.method} at {self.handling}; {merging}"


def recommended(suffix: str = "") -> Recommendation:
    """Apply the rule: the method with most right answers on ``choose``, at equal handling.

    Means over 32, 64 and 128 tokens. PruMerge takes part with its named readings and with the best
    row of each grid of its own. One of these is recommended only if merging pays on ``report``,
    else the best rival.
    """
    difference = ladder(suffix=suffix).loc["top_k with tuned's scores"]
    turned = ("difference", "difference_high", "difference_low")
    merging = Interval(*(-float(difference[name]) for name in turned))
    chosen = over_budgets(at(read_handling(suffix)))
    means = {name: scores.mean() for name, scores in chosen.items()}
    means["tuned"] = max(effects(name, suffix)["accuracy"].max() for name in CHOOSING)
    found = Recommendation("", told(EQUAL), merging, float(difference["p"]))
    ours = () if found.pays else (*OURS, "tuned")
    allowed = {name: mean for name, mean in means.items() if name not in ours}
    return dataclasses.replace(found, method=max(allowed, key=lambda name: allowed[name]))
