"""The manner of all figures, how a notebook shows one and how it is written to a file."""

import io
import re

import matplotlib.pyplot as plt
import seaborn
from IPython.display import Image, display
from matplotlib.figure import Figure
from PIL import Image as Pillow

from prumerge import paths

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
LEVELS = 25  # steps of each colour in a notebook; the noise of pictures would fill megabytes
_NAME = re.compile(r"(\d\d|train)-[a-z0-9-]+")


def use_style() -> None:
    """Set fonts of at least 8 points, the palette and a thin frame for all figures that follow."""
    seaborn.set_theme(style="ticks", palette=PALETTE)
    sizes = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8}
    sizes |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "legend.title_fontsize": 8}
    frame = {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8}
    ticks = {"xtick.major.size": 4, "ytick.major.size": 4, "xtick.minor.size": 2}
    rest = {"figure.dpi": 100, "legend.frameon": False}
    plt.rcParams.update(sizes | frame | ticks | rest)


def show(figure: Figure, name: str = "", folder: str = "figures") -> None:
    """Show a figure below a notebook's cell, in few colours so that the notebook stays small.

    With ``name`` and ``folder`` it is first saved in all its colours; it is closed in the end.
    """
    if name and folder:
        save(figure, name, folder)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    display(Image(small_png(Pillow.open(drawn)), format="png"))


def small_png(picture: Pillow.Image) -> bytes:
    """Write a picture as PNG in few colours, so that a notebook that holds it stays small."""
    coarse = picture.convert("RGB").point(
        lambda value: round(round(value * LEVELS / 255) * 255 / LEVELS)
    )
    if coarse.getcolors(256):  # a palette holds them all, in half the bytes
        coarse = coarse.quantize(256, dither=Pillow.Dither.NONE)
    file = io.BytesIO()
    coarse.save(file, "png", optimize=True)
    return file.getvalue()


def save(figure: Figure, name: str, folder: str = "figures") -> str:
    """Write a figure to ``figures/NAME.png`` at 150 dots per inch and return that path.

    ``name`` must be ``NN-topic``. The file gets it when complete, and holds nothing that differs
    from run to run.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a figure is called NN-topic, such as 02-fence, not {name!r}")
    place = paths.FIGURES if folder == "figures" else paths.ROOT / folder
    with paths.written_whole(place / f"{name}.png") as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
    return f"{folder}/{name}.png"
