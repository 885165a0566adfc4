"""Methods and settings beside each other, each with its interval.

Every function takes an Axes, draws on it, and hands it back.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from prumerge.draw.figures import PALETTE

PLAIN = "#9AA5B1"


def forest(axes: Axes, table: pd.DataFrame, value: str, low: str, high: str) -> Axes:
    """Draw one line per row: a dot with its interval, the first row on top.

    Args:
        axes: Where to.
        table: Its index names the lines.
        value: Column of the dots.
        low: Column of the intervals' lower ends.
        high: Of their upper ends. Lines whose interval holds 0 are grey, those below 0 orange,
            those above blue.

    Returns:
        ``axes``.
    """
    heights = np.arange(len(table))[::-1]
    colours = np.where(table[low] > 0, PALETTE[0], np.where(table[high] < 0, PALETTE[5], PLAIN))
    axes.hlines(heights, table[low], table[high], color=colours, lw=1.6)
    axes.scatter(table[value], heights, color=colours, s=16, zorder=3)
    axes.set_yticks(heights, table.index.astype(str))
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.tick_params(axis="y", length=0)
    return axes


def bands(
    axes: Axes, table: pd.DataFrame, names: Sequence[str], x: str, hue: str, base: str
) -> Axes:
    """Draw curves with their intervals over the number of tokens, on a logarithmic scale.

    Args:
        axes: Where to.
        table: One row per curve and number, with ``accuracy``, ``low`` and ``high``.
        names: Curves to draw, at most six.
        x: Column of the horizontal axis, above 0.
        hue: Column that names the curves.
        base: Curve drawn in grey below the others, for comparison.

    Returns:
        ``axes``.
    """
    others = [name for name in names if name != base]
    drawn = [(base, "#555555"), *zip(others, PALETTE, strict=False)]
    for name, colour in drawn:
        rows = table[table[hue] == name].sort_values(x)
        dashed = "--" if name == base else "-"
        axes.plot(rows[x], rows["accuracy"], dashed, color=colour, marker="o", ms=3, label=name)
        axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    first, last = np.log2([table[x].min(), table[x].max()]).round().astype(int)
    ticks = [2**power for power in range(first, last + 1)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", ncols=2)
    return axes
