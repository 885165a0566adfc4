"""Diagrams: how scores are spread, curves, and tables as colours.

Every function takes an Axes, draws on it, and hands it back.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn
from jaxtyping import Float
from matplotlib.axes import Axes

from prumerge.draw.figures import PALETTE
from prumerge.draw.overlays import REASONS
from prumerge.selection import OUTLIER

BINS = 40


def distribution(
    axes: Axes, scores: Float[np.ndarray, " patches"], fence: float, quartiles: Sequence[float] = ()
) -> Axes:
    """Draw how a picture's scores are spread, with the fence that separates the outliers.

    Scores are drawn in multiples of an even share (1 / patches) on a logarithmic scale.

    Args:
        axes: Where to.
        scores: Attention each patch receives, at least 0 and not all 0.
        fence: Score above which a patch is an outlier, above 0, in the unit of ``scores``.
        quartiles: Lower and upper quartile, drawn as a band; none without.

    Returns:
        ``axes``.
    """
    even = float(scores.mean())
    shown = np.log(np.maximum(scores, scores.max() * 1e-9) / even)
    middle, low, high = np.log(fence / even), shown.min(), shown.max()
    width = max(high - low, 0.1) / BINS
    # Bins begin and end at the fence, so that none holds outliers and others.
    below, above = np.floor((low - middle) / width), np.ceil((high - middle) / width)
    edges = middle + width * np.arange(min(below, 0), max(above, 0) + 2)
    counts, _ = np.histogram(shown, edges)
    colours = np.where(edges[:-1] > middle - width / 2, REASONS[OUTLIER][1], "#9AA5B1")
    spans = np.exp(edges)
    axes.bar(spans[:-1], counts, np.diff(spans), align="edge", color=colours, lw=0)
    if len(quartiles):
        axes.axvspan(
            *np.asarray(quartiles) / even, color=PALETTE[0], alpha=0.15, lw=0, label="middle half"
        )
    axes.axvline(fence / even, color="black", lw=1.2, ls="--", label="fence")
    axes.set(xscale="log", xlabel="score / mean score", ylabel="patches")
    axes.legend()
    return axes


def curves(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw curves with a mark at each value, the means where a value has several rows.

    Args:
        axes: Where to.
        table: Tidy: one row per observation.
        x: Column along the horizontal axis.
        y: Column along the vertical axis, drawn from 0.
        hue: Column that separates the curves; None draws one.

    Returns:
        ``axes``. Bands are 95 % intervals of the mean, by a bootstrap with a fixed seed.
    """
    marks = {"marker": "o", "markersize": 5, "seed": 0}
    if hue is not None:
        marks["palette"] = list(PALETTE[: table[hue].nunique()])
    seaborn.lineplot(table, x=x, y=y, hue=hue, ax=axes, **marks)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if table[y].min() < 0 else 0)
    return axes


def dots(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw one dot per row with the straight line through them, from 0 upwards.

    Args:
        axes: Where to.
        table: Tidy: one row per observation.
        x: Column of numbers along the horizontal axis.
        y: Column of numbers along the vertical axis.
        hue: Column that separates the colours; None draws one.

    Returns:
        ``axes``.
    """
    for number, (name, rows) in enumerate(table.groupby(hue, sort=False) if hue else [("", table)]):
        dot = {"s": 18, "alpha": 0.7, "edgecolors": "none"}
        seaborn.regplot(
            rows,
            x=x,
            y=y,
            ax=axes,
            ci=None,
            color=PALETTE[number % len(PALETTE)],
            label=name,
            scatter_kws=dot,
            line_kws={"lw": 1.2},
            fit_reg=bool(rows[x].max() > rows[x].min()),
        )
    axes.set_ylim(bottom=0)
    if hue is not None:
        axes.legend(title=hue)
    return axes


def bars(axes: Axes, table: pd.DataFrame, x: str, y: str, hue: str | None = None) -> Axes:
    """Draw means as bars from 0, with their standard errors.

    Args:
        axes: Where to.
        table: Tidy: one row per observation.
        x: Column that names the groups.
        y: Column of numbers or truth values.
        hue: Column that names the bars of a group; None draws one bar each.

    Returns:
        ``axes``, beside it the legend with ``hue`` as its title.
    """
    marks = {"errorbar": "se", "err_kws": {"linewidth": 0.8, "color": "#555555"}}
    if hue is not None:
        marks["palette"] = list(PALETTE[: table[hue].nunique()])
    seaborn.barplot(
        table.assign(**{y: table[y].astype(float)}), x=x, y=y, hue=hue, ax=axes, **marks
    )
    if hue is not None:
        axes.legend(title=hue, loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def heat_map(axes: Axes, table: pd.DataFrame, label: str) -> Axes:
    """Draw a table of shares as colours with the numbers written in.

    Args:
        axes: Where to.
        table: Values between 0 and 1; its index and columns name the axes.
        label: Of the colour bar.

    Returns:
        ``axes``.
    """
    bar = {"label": label, "shrink": 0.9}
    small = {"annot": table.size <= 120, "fmt": ".2f", "annot_kws": {"size": 8}}
    seaborn.heatmap(table, ax=axes, vmin=0, vmax=1, cmap="mako", cbar_kws=bar, **small)
    axes.tick_params(length=0, rotation=0)
    return axes
