"""The manner of all figures, how a notebook shows one and how it is written to a file."""

import io
import re
from typing import Any

import matplotlib.pyplot as plt
import seaborn
from IPython.display import Image, display
from matplotlib.figure import Figure
from PIL import Image as Pillow

from prumerge import paths

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
LEVELS = 25  # steps of each colour in a notebook: a chart then has few colours, and half the bytes
VECTOR = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Formats of files beside PNG, with what must not be in them: it differs from run to run."""
_NAME = re.compile(r"(\d\d|train)-[a-z0-9-]+")


def use_style() -> None:
    """Set fonts of at least 8 points, the palette and a thin frame for all figures that follow."""
    seaborn.set_theme(style="ticks", palette=PALETTE)
    sizes = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8}
    sizes |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "legend.title_fontsize": 8}
    frame = {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8}
    ticks = {"xtick.major.size": 4, "ytick.major.size": 4, "xtick.minor.size": 2}
    rest = {"figure.dpi": 100, "legend.frameon": False}
    rest |= {"svg.hashsalt": "prumerge", "pdf.fonttype": 42}  # text that can be searched, edited
    plt.rcParams.update(sizes | frame | ticks | rest)


def show(figure: Figure, name: str = "", folder: str = "figures") -> None:
    """Show a figure below a notebook's cell, in few colours so that the notebook stays small.

    With ``name`` and ``folder`` it is first saved, see :func:`save`; it is closed in the end.
    """
    if name and folder:
        save(figure, name, folder)
    shown = small_png(_drawn(figure), LEVELS)
    plt.close(figure)
    display(Image(shown, format="png"))


def small_png(picture: Pillow.Image, levels: int = 255) -> bytes:
    """Write a picture as PNG with at most 256 colours, a fifth of the bytes of all its colours.

    Where 256 suffice for ``levels`` steps of red, green and blue, as in most charts, they are exact
    to that step; else they are chosen so that no pixel is far from its own.
    """
    picture = picture.convert("RGB")
    few = picture.point(lambda value: round(round(value * levels / 255) * 255 / levels))
    if few.getcolors(256):
        few = few.quantize(256, dither=Pillow.Dither.NONE)
    else:
        method = Pillow.Quantize.MAXCOVERAGE
        few = picture.quantize(256, method, kmeans=1, dither=Pillow.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "png", optimize=True)
    return file.getvalue()


def save(figure: Figure, name: str, folder: str = "figures") -> str:
    """Write a figure to ``figures/NAME.png`` at 150 dots per inch and return that path.

    ``name`` must be ``NN-topic``. The file gets it when complete, and holds nothing that differs
    from run to run. With matplotlib's ``savefig.format`` at ``svg`` or ``pdf`` it is that instead.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a figure is called NN-topic, such as 02-fence, not {name!r}")
    place = paths.FIGURES if folder == "figures" else paths.ROOT / folder
    kind = plt.rcParams["savefig.format"]
    kind = kind if kind in VECTOR else "png"
    with paths.written_whole(place / f"{name}.{kind}") as partial:
        if kind == "png":
            partial.write_bytes(small_png(_drawn(figure, dpi=150)))
        else:
            figure.savefig(partial, format=kind, dpi=150, metadata=VECTOR[kind])
    return f"{folder}/{name}.{kind}"


def _drawn(figure: Figure, **options: Any) -> Pillow.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", **options)
    return Pillow.open(file)
