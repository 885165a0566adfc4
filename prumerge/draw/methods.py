"""Diagrams of methods: a few in colours of their own, the same in every figure, all others grey."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from prumerge.draw.charts import PLAIN
from prumerge.draw.figures import PALETTE

COLOURS = {
    "prumerge": PALETTE[0],
    "top_k": PALETTE[1],
    "divprune": PALETTE[2],
    "tome_in_encoder": PALETTE[3],
    "tuned": PALETTE[4],
    "random": PALETTE[5],
}
"""Methods that stand out: the paper's, plain selection, spread and merged rivals, and chance."""


def bands(axes: Axes, table: pd.DataFrame, x: str) -> Axes:
    """Draw each ``method``'s ``accuracy`` over ``x`` on a logarithmic scale, from 0.

    Those of :data:`COLOURS` have a band, ``low`` to ``high``; all others are thin and grey.
    """
    for name, rows in table.sort_values(x).groupby("method", sort=False):
        if name not in COLOURS:
            axes.plot(rows[x], rows["accuracy"], color=PLAIN, lw=0.7, alpha=0.7, zorder=1)
    for name, colour in COLOURS.items():
        rows = table[table["method"] == name].sort_values(x)
        if len(rows):
            axes.plot(rows[x], rows["accuracy"], color=colour, marker="o", ms=3, label=name)
            axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log", base=2)
    first, last = np.log2([table[x].min(), table[x].max()]).round().astype(int)
    ticks = [2**power for power in range(first, last + 1)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    handles, _ = axes.get_legend_handles_labels()
    grey = Line2D([], [], color=PLAIN, lw=0.7, label="other methods")
    axes.legend(handles=[*handles, grey], loc="lower left", ncols=2)
    return axes


def standings(axes: Axes, table: pd.DataFrame, beside: str = "", label: str = "") -> Axes:
    """Draw one line per row: a dot at ``accuracy`` with its interval, the first row on top.

    ``beside``, the name of a column, puts a hollow diamond where a row has a number there, named
    ``label`` in the legend. Rows are named after methods and have their :data:`COLOURS`.
    """
    heights = np.arange(len(table))[::-1]
    colours = [COLOURS.get(name, "#555555") for name in table.index]
    axes.hlines(heights, table["low"], table["high"], color=colours, lw=1.6)
    axes.scatter(table["accuracy"], heights, color=colours, s=18, zorder=3)
    if beside:
        hollow = {"facecolors": "white", "marker": "D", "s": 18}
        axes.scatter(table[beside], heights, zorder=4, edgecolors=colours, **hollow)
        axes.scatter([], [], edgecolors="#555555", label=label, **hollow)
    axes.set_yticks(heights, table.index.astype(str))
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.tick_params(axis="y", length=0)
    return axes


def differences(axes: Axes, table: pd.DataFrame, hollow: str = "") -> Axes:
    """Draw a dot per group and method at ``difference`` with its interval, ``low`` to ``high``.

    The index holds what was sent, such as ``prumerge, released``, which begins with the name of the
    method and so tells its colour, then the group. ``hollow`` names what is drawn hollow.
    """
    sent = table.index.unique(0)
    for number, name in enumerate(sent):
        rows = table.loc[name]
        reach = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
        heights = -np.arange(len(rows)) - 0.8 * number / len(sent)
        look = {"color": COLOURS.get(name.partition(",")[0], "#555555"), "fmt": "o", "ms": 4}
        face = {"markerfacecolor": "white"} if name == hollow else {}
        axes.errorbar(rows["difference"], heights, xerr=reach, label=name, **look, **face)
    axes.set_yticks(-np.arange(len(rows)) - 0.4 * (1 - 1 / len(sent)), rows.index)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color="black", lw=0.8)
    axes.legend(loc="lower left")
    return axes


def two_models(axes: Axes, tables: Mapping[str, pd.DataFrame], lines: Sequence[str]) -> Axes:
    """Draw a line per method with its ``difference`` on two models, in points, with intervals.

    Filled for the first of ``tables``, hollow for the second; ``lines`` are the methods, the first
    one on top. What lies below the axis' limit, to be set before, is an arrow at its edge.
    """
    least, heights = axes.get_xlim()[0], np.arange(len(lines))[::-1]
    colours = [COLOURS.get(name, "#555555") for name in lines]
    faces = (colours, "white")
    for number, (model, table) in enumerate(tables.items()):
        rows, at = table.loc[list(lines)], heights + 0.17 - 0.34 * number
        reach = (rows[end].clip(lower=least) for end in ("low", "high"))
        axes.hlines(at, *reach, color=colours, lw=1.1)
        dots = {"edgecolors": colours, "facecolors": faces[number], "zorder": 3, "clip_on": False}
        inside = (rows["difference"] >= least).to_numpy()
        for marker, drawn in (("o", inside), ("<", ~inside)):
            own = {n: np.array(v)[drawn] if isinstance(v, list) else v for n, v in dots.items()}
            x = rows["difference"].clip(lower=least)[drawn]
            axes.scatter(x, at[drawn], s=12, marker=marker, **own)
        axes.scatter([], [], s=12, edgecolors="#555555", label=model,
                     facecolors=["#555555", "white"][number])  # fmt: skip
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(heights, list(lines))
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.tick_params(axis="y", length=0)
    return axes
