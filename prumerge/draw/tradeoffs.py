"""What fewer visual tokens cost: scores over the number of tokens.

Every function takes an Axes, draws on it, and hands it back.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from prumerge.draw.figures import PALETTE


def scores_by_tokens(axes: Axes, rows: pd.DataFrame, names: list[str]) -> Axes:
    """Draw a benchmark's score over the visual tokens, one dot with its interval per method.

    Args:
        axes: Where to.
        rows: Of one benchmark and metric: ``label``, ``tokens_mean``, ``value``, ``low``,
            ``high`` and ``constant``, the score of the best constant answer, drawn dashed.
        names: Methods in the order of their colours, at most six.

    Returns:
        ``axes``; tokens on a logarithmic scale.
    """
    for name, colour in zip(names, PALETTE, strict=False):
        own = rows[rows["label"] == name]
        below, above = own["value"] - own["low"], own["high"] - own["value"]
        dot = {"fmt": "o", "markersize": 5, "capsize": 2, "elinewidth": 1.2}
        axes.errorbar(
            own["tokens_mean"], own["value"], [below, above], color=colour, label=name, **dot
        )
    axes.axhline(rows["constant"].max(), color="#555555", lw=1, ls="--", label="constant answer")
    axes.set_xscale("log", base=2)
    ticks = [tokens for tokens in (8, 16, 32, 64, 128, 256, 576) if tokens >= _fewest(rows)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(right=700)
    top = 1.05 * max(rows[["high", "constant"]].max(axis=None), 1.0)
    axes.set_ylim(-0.04 * top, top)  # room for dots at 0
    return axes


def _fewest(rows: pd.DataFrame) -> float:
    """Return where the axis begins: at the next power of two below the fewest tokens."""
    return 2 ** int(max(rows["tokens_mean"].min() - 1, 1)).bit_length() / 2
