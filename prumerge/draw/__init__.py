"""Figures: pictures with what is seen and kept of them, diagrams, one manner for all.

    pictures   a picture, its attention map, its kept patches outlined
    charts     how scores are spread, curves, tables as colours, differences with intervals
    methods    curves and standings of methods, which keep their colours
    figures    fonts and palette; showing in a notebook, writing to ``figures/``
    explorer   widgets that show at once what a method keeps of a picture; ``looking`` finds it

Every function that draws a figure takes an Axes and hands it back. The hues are Okabe and Ito's,
told apart by all common kinds of colour vision.
"""

from prumerge.draw.charts import bars, curves, distribution, dots, heat_map
from prumerge.draw.figures import PALETTE, save, show, use_style
from prumerge.draw.pictures import (
    REASONS,
    attention,
    colour_bar,
    kept,
    legend,
    merged,
    outline,
    picture,
    similarity,
)
