"""Diagrams: how scores are spread, curves, tables as colours, methods with their intervals.

Every function takes an Axes, draws on it, and hands it back. Tables are tidy, one row per
observation; ``x``, ``y`` and ``hue`` name columns, and no ``hue`` draws one curve or bar each.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from prumerge.draw.figures import PALETTE
from prumerge.draw.pictures import REASONS
from prumerge.reduction import OUTLIER

BINS = 40
PLAIN = "#9AA5B1"


def distribution(
    axes: Axes, scores: Float[np.ndarray, " patches"], fence: float, quartiles: Sequence[float] = ()
) -> Axes:
    """Draw how a picture's scores are spread, with the fence that separates the outliers.

    Scores, at least 0 and not all 0, are drawn in multiples of an even share (1 / patches) on a
    logarithmic scale; ``fence``, above 0, and the lower and upper quartile have their unit.
    """
    even = float(scores.mean())
    shown = np.log(np.maximum(scores, scores.max() * 1e-9) / even)
    middle, low, high = np.log(fence / even), shown.min(), shown.max()
    width = max(high - low, 0.1) / BINS
    # Bins begin and end at the fence, so that none holds outliers and others.
    below, above = np.floor((low - middle) / width), np.ceil((high - middle) / width)
    edges = middle + width * np.arange(min(below, 0), max(above, 0) + 2)
    counts, _ = np.histogram(shown, edges)
    colours = np.where(edges[:-1] > middle - width / 2, REASONS[OUTLIER][1], PLAIN)
    spans = np.exp(edges)
    axes.bar(spans[:-1], counts, np.diff(spans), align="edge", color=colours, lw=0)
    if len(quartiles):
        band = {"color": PALETTE[0], "alpha": 0.15, "lw": 0, "label": "middle half"}
        axes.axvspan(*np.asarray(quartiles) / even, **band)
    axes.axvline(fence / even, color="black", lw=1.2, ls="--", label="fence")
    axes.set(xscale="log", xlabel="score / mean score", ylabel="patches")
    axes.legend()
    return axes


def _palette(table: pd.DataFrame, hue: str | None) -> list[str] | None:
    return None if hue is None else list(PALETTE[: table[hue].nunique()])


def curves(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw curves from 0, with a mark at each mean and its 95 % bootstrap interval (fixed seed)."""
    marks = {"marker": "o", "markersize": 5, "seed": 0, "palette": _palette(table, hue)}
    seaborn.lineplot(table, x=x, y=y, hue=hue, ax=axes, **marks)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if table[y].min() < 0 else 0)
    return axes


def dots(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw one dot per row with the straight line through them, from 0 upwards."""
    for number, (name, rows) in enumerate(table.groupby(hue, sort=False) if hue else [("", table)]):
        dot = {"s": 18, "alpha": 0.7, "edgecolors": "none"}
        colour, line = PALETTE[number % len(PALETTE)], bool(rows[x].max() > rows[x].min())
        look = {"color": colour, "label": name, "scatter_kws": dot, "line_kws": {"lw": 1.2}}
        seaborn.regplot(rows, x=x, y=y, ax=axes, ci=None, fit_reg=line, **look)
    axes.set_ylim(bottom=0)
    if hue is not None:
        axes.legend(title=hue)
    return axes


def bars(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw means of numbers or truth values as bars from 0, with standard errors, legend beside."""
    marks = {"errorbar": "se", "err_kws": {"linewidth": 0.8, "color": "#555555"}}
    marks["palette"] = _palette(table, hue)
    numbers = table.assign(**{y: table[y].astype(float)})
    seaborn.barplot(numbers, x=x, y=y, hue=hue, ax=axes, **marks)
    if hue is not None:
        axes.legend(title=hue, loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def heat_map(axes: Axes, table: pd.DataFrame, label: str) -> Axes:
    """Draw a table of shares, from 0 to 1, as colours with the numbers written in."""
    bar = {"label": label, "shrink": 0.9}
    small = {"annot": table.size <= 120, "fmt": ".2f", "annot_kws": {"size": 8}}
    seaborn.heatmap(table, ax=axes, vmin=0, vmax=1, cmap="mako", cbar_kws=bar, **small)
    axes.tick_params(length=0, rotation=0)
    return axes


def forest(
    axes: Axes, table: pd.DataFrame, value: str, low: str, high: str, level: str = ""
) -> Axes:
    """Draw one line per row: a dot with its interval, the first row on top.

    Lines whose interval holds 0 are grey, those below 0 orange, those above blue. ``level`` names a
    column of significance levels that decides instead of the interval: grey unless below 0.05.
    """
    heights = np.arange(len(table))[::-1]
    if level:
        above, below = (table[level] < 0.05) & (table[value] > 0), table[level] < 0.05
    else:
        above, below = table[low] > 0, table[high] < 0
    colours = np.where(above, PALETTE[0], np.where(below, PALETTE[5], PLAIN))
    axes.hlines(heights, table[low], table[high], color=colours, lw=1.6)
    axes.scatter(table[value], heights, color=colours, s=16, zorder=3)
    axes.set_yticks(heights, table.index.astype(str))
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.tick_params(axis="y", length=0)
    return axes


def scores_by_tokens(axes: Axes, rows: pd.DataFrame, names: list[str]) -> Axes:
    """Draw a benchmark's score over the visual tokens (logarithmic), a dot and interval per method.

    ``rows``, of one benchmark and metric, have ``label``, ``tokens_mean``, ``value``, ``low``,
    ``high`` and ``constant``, the score of the best constant answer, drawn dashed. ``names``: the
    labels in the order of their colours, at most six.
    """
    for name, colour in zip(names, PALETTE, strict=False):
        own = rows[rows["label"] == name]
        below, above = own["value"] - own["low"], own["high"] - own["value"]
        dot = {"fmt": "o", "markersize": 5, "capsize": 2, "elinewidth": 1.2, "color": colour}
        axes.errorbar(own["tokens_mean"], own["value"], [below, above], label=name, **dot)
    axes.axhline(rows["constant"].max(), color="#555555", lw=1, ls="--", label="constant answer")
    axes.set_xscale("log", base=2)
    # The axis begins at the next power of two below the fewest tokens.
    fewest = 2 ** int(max(rows["tokens_mean"].min() - 1, 1)).bit_length() / 2
    ticks = [tokens for tokens in (8, 16, 32, 64, 128, 256, 576) if tokens >= fewest]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(right=700)
    top = 1.05 * max(rows[["high", "constant"]].max(axis=None), 1.0)
    axes.set_ylim(-0.04 * top, top)  # room for dots at 0
    return axes


def waterfall(axes: Axes, table: pd.DataFrame) -> Axes:
    """Draw one bar per step, from ``before`` to ``after``, with the interval of the difference.

    The first row is where it starts and the last where it ends: the last step's bar stands on the
    others, as theirs do. Steps whose interval, ``low`` to ``high``, holds 0 are grey, those below 0
    orange, those above blue. The first row on top.
    """
    heights = np.arange(len(table))[::-1]
    beyond = np.where(table["low"] > 0, PALETTE[0], np.where(table["high"] < 0, PALETTE[5], PLAIN))
    colours = ["#555555", *beyond[1:]]
    start, end = table["before"].to_numpy(), table["after"].to_numpy()
    axes.barh(heights, end - start, left=start, color=colours, height=0.6, lw=0)
    bounds = np.stack([table["low"], table["high"]]) + start
    axes.hlines(heights, *bounds, color="black", lw=1, zorder=3)
    axes.vlines(end[:-1], heights[:-1] + 0.3, heights[1:] - 0.3, color=PLAIN, lw=0.8)
    gains = [f"{100 * end[0]:.1f} %", *(f"{100 * gain:+.1f}" for gain in (end - start)[1:])]
    room = 0.02 * max(1.0, bounds.max())
    for height, edge, gain in zip(heights, np.maximum(bounds[1], end), gains, strict=True):
        axes.text(edge + room, height, gain, va="center", fontsize=8)
    axes.set_yticks(heights, table["step"].astype(str))
    axes.set_xlim(0, max(1.0, bounds.max()) + 8 * room)
    axes.tick_params(axis="y", length=0)
    return axes


def specification_curve(
    above: Axes, below: Axes, table: pd.DataFrame, choices: Sequence[str]
) -> None:
    """Draw ``accuracy`` with its interval in ``above``, what was chosen for it in ``below``.

    One column per row of the table, in its order; ``low`` to ``high`` is the interval. ``below``
    has a line of dots for each value of each of the ``choices``, which are columns.
    """
    places = np.arange(len(table))
    above.vlines(places, table["low"], table["high"], color=PLAIN, lw=0.8)
    above.scatter(places, table["accuracy"], color=PALETTE[0], s=6, zorder=3)
    above.set(ylim=(0, None), xlim=(-1, len(table)), xticks=[])
    names: list[str] = []
    for number, choice in enumerate(choices):
        for value in table[choice].unique():
            chosen = np.flatnonzero(table[choice] == value)
            height = -len(names) - 0.6 * number  # a gap between choices
            colour = PALETTE[number % len(PALETTE)]
            below.scatter(chosen, np.full(len(chosen), height), color=colour, s=4, marker="|")
            names.append(f"{choice.replace('_', ' ')}: {value}")
    groups = np.repeat(np.arange(len(choices)), [table[choice].nunique() for choice in choices])
    below.set_yticks(-np.arange(len(names)) - 0.6 * groups, names)
    below.set(xlim=(-1, len(table)), xticks=[])
    below.tick_params(axis="y", length=0)
    below.spines["bottom"].set_visible(False)
