"""Figures show what they are given: which patches, how many outliers, in which colours."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from PIL import Image

from prumerge import draw, paths
from prumerge.draw import figures
from prumerge.draw.charts import PLAIN, forest
from prumerge.draw.methods import COLOURS, bands, differences, standings, two_models
from prumerge.draw.pictures import HEAT
from prumerge.reduction import DROPPED, FILL, OUTLIER, SPATIAL

matplotlib.use("agg")
GRIDS = [(24, 24), (2, 3), (1, 1), (5, 2)]


@pytest.fixture(autouse=True)
def own_style():
    """Leave neither figures nor settings behind."""
    with plt.rc_context():
        yield
    plt.close("all")


def axes_of(width=3.0, height=3.0):
    """An Axes that fills its figure, so that places in the picture are places in the figure."""
    figure = plt.figure(figsize=(width, height), dpi=40)
    return figure.add_axes((0, 0, 1, 1))


def painted(axes):
    """What an Axes looks like, [height, width, 3]."""
    target = io.BytesIO()
    axes.figure.savefig(target, format="png")
    return np.asarray(Image.open(target).convert("RGB")).astype(int)


def middles(pixels, grid):
    """The colour in the middle of each patch, [rows, columns, 3]."""
    rows, columns = grid
    down = (np.arange(rows) + 0.5) * len(pixels) / rows
    across = (np.arange(columns) + 0.5) * pixels.shape[1] / columns
    return pixels[down.astype(int)][:, across.astype(int)]


def light(grid, level=200):
    """An even picture, four pixels to a patch."""
    return np.full((4 * grid[0], 4 * grid[1], 3), level, dtype=np.uint8)


def segments(axes):
    """All outlines of an Axes, as colour and lines."""
    return {
        tuple(np.round(c.get_color()[0][:3], 3)): len(c.get_segments())
        for c in axes.collections
        if isinstance(c, LineCollection) and len(c.get_segments())
    }


@pytest.mark.parametrize("grid", GRIDS)
def test_picture_lies_on_its_patches(grid):
    axes = axes_of(grid[1], grid[0])
    pixels = np.random.default_rng(0).integers(0, 255, (*grid, 3), dtype=np.uint8)
    assert draw.picture(axes, pixels, grid, "title") is axes
    assert axes.get_xlim() == (0, grid[1])
    assert axes.get_ylim() == (grid[0], 0)
    assert abs(middles(painted(axes), grid) - pixels).max() <= 1
    assert axes.get_title() == "title"


@pytest.mark.parametrize("grid", GRIDS)
def test_dropped_patches_are_dimmed_and_kept_ones_are_not(grid):
    reason = np.resize([DROPPED, OUTLIER, SPATIAL, DROPPED, FILL], grid).astype(np.int8)
    axes = draw.kept(axes_of(2 * grid[1], 2 * grid[0]), light(grid), reason.ravel(), grid)
    seen = middles(painted(axes), grid)[..., 0]
    assert (seen[reason != DROPPED] == 200).all()
    assert (seen[reason == DROPPED] < 100).all()


def test_outlines_have_the_colour_of_the_reason_and_join_neighbours():
    reason = np.zeros((4, 6), dtype=np.int8)
    reason[0, 0:2] = OUTLIER  # two neighbours: six edges, none between them
    reason[3, 5] = SPATIAL
    reason[2, 2:4] = reason[3, 2:4] = FILL
    axes = draw.kept(axes_of(), light((4, 6)), reason.ravel(), (4, 6))
    colours = {code: tuple(np.round(to_rgb(draw.REASONS[code][1]), 3)) for code in draw.REASONS}
    assert segments(axes) == {colours[OUTLIER]: 6, colours[SPATIAL]: 4, colours[FILL]: 8}


def test_an_outline_goes_around_its_patch():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    axes = draw.outline(axes_of(), mask, "white")
    lines = np.array(axes.collections[0].get_segments())
    assert lines[..., 0].min() == 2 and lines[..., 0].max() == 3
    assert lines[..., 1].min() == 1 and lines[..., 1].max() == 2


@pytest.mark.parametrize("grid", GRIDS)
def test_attention_is_light_where_scores_are_high(grid):
    patches = grid[0] * grid[1]
    scores = np.zeros(patches, dtype=np.float32)
    scores[-1] = 0.7
    axes = draw.attention(axes_of(2 * grid[1], 2 * grid[0]), light(grid), scores, grid)
    seen = middles(painted(axes), grid).sum(axis=-1).ravel()
    assert seen.argmax() == patches - 1
    assert patches == 1 or (seen[:-1] < seen[-1] / 2).all()


def test_attention_of_nothing_is_dark_and_raises_nothing():
    axes = draw.attention(axes_of(), light((2, 2)), np.zeros(4, dtype=np.float32), (2, 2))
    assert painted(axes).max() < 130


def test_maps_of_one_scale_compare_as_their_scores_do():
    few, many = (
        middles(
            painted(draw.attention(axes_of(), light((1, 2)), scores, (1, 2), largest=0.9)), (1, 2)
        )
        for scores in (np.array([0.03, 0.01]), np.array([0.9, 1.8]))
    )
    assert few.sum(axis=2).max() < many.sum(axis=2).min() / 2
    assert (many[0, 0] == many[0, 1]).all()  # beyond the scale nothing is lighter


def test_a_colour_bar_tells_the_scale_of_its_maps():
    _, axes = plt.subplots(1, 2, layout="constrained")
    bar = draw.colour_bar(list(axes), 0.5, "weight")
    assert (bar.vmin, bar.vmax, bar.ax.get_ylabel()) == (0, 0.5, "weight")
    assert bar.norm(0.125) == pytest.approx(0.5)  # the square root, as the maps have it
    assert bar.cmap.name == HEAT


def test_legend_names_the_reasons_that_occur():
    figure, axes = plt.subplots(layout="constrained")
    draw.kept(axes, light((2, 2)), np.array([0, 1, 1, 2]), (2, 2))
    draw.legend(figure, (OUTLIER, SPATIAL))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["kept for its score", "kept for its place", "dropped"]


@pytest.mark.parametrize("fence", [0.0001, 0.021, 0.5, 3.0])
def test_distribution_counts_the_outliers_in_their_colour(fence):
    scores = np.random.default_rng(1).lognormal(-4, 1.5, 576).astype(np.float32)
    axes = draw.distribution(axes_of(), scores, fence, (0.005, 0.05))
    orange = to_rgb(draw.REASONS[OUTLIER][1])
    heights = [p.get_height() for p in axes.patches if p.get_facecolor()[:3] == orange]
    assert sum(heights) == (scores > fence).sum()
    bars = [p for p in axes.patches if hasattr(p, "get_height") and p.get_facecolor()[3] == 1]
    assert sum(bar.get_height() for bar in bars) == 576
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize("scores", [[0.25] * 4, [0.0, 0.0, 0.0, 1.0]])
def test_distribution_of_degenerate_scores(scores):
    axes = draw.distribution(axes_of(), np.array(scores, dtype=np.float32), fence=0.3)
    assert sum(bar.get_height() for bar in axes.patches) == 4


def test_curves_start_at_zero_and_have_one_line_per_name():
    table = pd.DataFrame({"x": [1, 2, 1, 2], "y": [5.0, 6.0, 7.0, 9.0], "name": list("aabb")})
    axes = draw.curves(axes_of(), table, "x", "y", hue="name")
    assert axes.get_ylim()[0] == 0
    drawn = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata())]
    assert drawn == [[5, 6], [7, 9]]
    assert draw.curves(axes_of(), table.assign(y=-table["y"]), "x", "y").get_ylim()[0] < -8


def test_dots_have_a_line_through_them():
    table = pd.DataFrame({"x": [1.0, 2, 3] * 2, "y": [2.0, 4, 6, 1, 1, 1], "name": list("aaabbb")})
    axes = draw.dots(axes_of(), table, "x", "y", hue="name")
    slopes = [np.ptp(line.get_ydata()) / np.ptp(line.get_xdata()) for line in axes.lines]
    assert slopes == pytest.approx([2, 0])
    assert [len(dots.get_offsets()) for dots in axes.collections] == [3, 3]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert axes.get_ylim()[0] == 0


def test_a_single_dot_needs_no_line():
    axes = draw.dots(axes_of(), pd.DataFrame({"x": [3], "y": [5]}), "x", "y")
    assert not axes.lines
    assert axes.collections[0].get_offsets().tolist() == [[3, 5]]


def test_bars_are_as_high_as_the_share_of_what_is_true():
    table = pd.DataFrame({"family": list("aabb"), "right": [True, False, True, True]})
    axes = draw.bars(axes_of(), table, "family", "right")
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1]
    named = draw.bars(axes_of(), table.assign(method=list("xyxy")), "family", "right", "method")
    texts = [text.get_text() for text in named.get_legend().get_texts()]
    assert texts == ["x", "y"]
    assert named.get_legend().get_title().get_text() == "method"


def test_heat_map_writes_its_numbers():
    table = pd.DataFrame([[0.125, 0.5], [1.0, 0.0]])
    axes = draw.heat_map(axes_of(), table, "share")
    assert [text.get_text() for text in axes.texts] == ["0.12", "0.50", "1.00", "0.00"]
    assert not draw.heat_map(axes_of(), pd.DataFrame(np.zeros((24, 16))), "share").texts


def test_methods_keep_their_colours_and_all_others_are_grey():
    table = pd.DataFrame({"method": ["divprune", "evit"] * 2, "tokens": [16, 16, 64, 64]})
    table = table.assign(accuracy=[0.5, 0.4, 0.8, 0.7], low=0.3, high=0.9)
    curves = {to_rgb(line.get_color()) for line in bands(axes_of(), table, "tokens").lines}
    assert curves == {to_rgb(COLOURS["divprune"]), to_rgb(PLAIN)}
    board = table.tail(2).set_index("method").assign(published=[0.6, np.nan])
    axes = standings(axes_of(), board, "published", "as published")
    dots = axes.collections[1]
    assert tuple(dots.get_facecolors()[0][:3]) == to_rgb(COLOURS["divprune"])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["divprune", "evit"]
    assert axes.get_legend_handles_labels()[1] == ["as published"]


def test_what_a_method_sends_in_two_ways_has_one_colour_and_one_dot_is_hollow():
    sent = ["prumerge, released", "prumerge, equal"]
    index = pd.MultiIndex.from_product([sent, ["count", "read"]])
    table = pd.DataFrame({"difference": [0.0, -5, 1, -1], "low": -6.0, "high": 2.0}, index)
    axes = differences(axes_of(), table, hollow=sent[0])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert {to_rgb(dot.get_color()) for dot in dots} == {to_rgb(COLOURS["prumerge"])}
    assert [to_rgb(dot.get_markerfacecolor()) == (1, 1, 1) for dot in dots] == [True, False]
    assert [dot.get_xdata().tolist() for dot in dots] == [[0, -5], [1, -1]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["count", "read"]


def test_two_models_stand_filled_and_hollow_and_what_is_far_below_is_an_arrow():
    lines = ["divprune", "prumerge", "paper-literal"]
    values = pd.DataFrame({"difference": [4.0, 0.0, -50.0]}, index=lines)
    table = values.assign(low=values["difference"] - 2, high=values["difference"] + 2)
    axes = axes_of()
    axes.set_xlim(-30, 10)
    two_models(axes, {"one": table, "other": table + 1}, lines)
    assert [label.get_text() for label in axes.get_yticklabels()] == lines
    dots = [c for c in axes.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    assert [len(dot.get_offsets()) for dot in dots] == [2, 1, 2, 1]
    assert [dot.get_offsets()[0, 0] for dot in dots] == [4, -30, 5, -30]
    assert to_hex(dots[0].get_facecolors()[0]) == COLOURS["divprune"].lower()
    assert to_hex(dots[2].get_facecolors()[0]) == "#ffffff"
    assert [text.get_text() for text in axes.legend().get_texts()] == ["one", "other"]


def test_every_text_has_at_least_eight_points():
    draw.use_style()
    figure, axes = plt.subplots(2, 2, layout="constrained")
    table = pd.DataFrame({"x": [1, 2], "y": [0.5, 0.6], "name": ["a", "b"]})
    draw.kept(axes[0, 0], light((2, 2)), np.array([0, 1, 1, 2]), (2, 2), "title")
    draw.distribution(axes[0, 1], np.array([0.1, 0.2, 0.3], dtype=np.float32), 0.25)
    draw.curves(axes[1, 0], table, "x", "y", hue="name")
    draw.heat_map(axes[1, 1], table[["x", "y"]], "share")
    values = table.assign(accuracy=0.5, low=0.4, high=0.6)
    methods = values.assign(method=["top_k", "top_k"])
    bands(axes[1, 0], methods, "x")
    draw.legend(figure).canvas.draw()
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert min(sizes) >= 8


def test_a_small_picture_keeps_every_one_of_its_few_colours():
    levels = np.round(np.arange(figures.LEVELS + 1) * 255 / figures.LEVELS)
    grid = np.stack(np.meshgrid(levels, levels), axis=-1).reshape(-1, 2)[:200]
    pixels = np.pad(grid, ((0, 0), (0, 1))).astype(np.uint8)[None]
    for levels in (figures.LEVELS, 255):
        small = Image.open(io.BytesIO(figures.small_png(Image.fromarray(pixels), levels)))
        assert small.mode == "P" and np.array_equal(np.asarray(small.convert("RGB")), pixels)


def test_a_small_picture_of_a_photograph_stays_near_its_colours():
    """Thousands of colours and an outline: no pixel goes far, and most bytes go."""
    photograph = np.asarray(Image.radial_gradient("L")).astype(float)
    noise = np.random.default_rng(0).normal(0, 6, (*photograph.shape, 3))
    pixels = (photograph[..., None] * (1.0, 0.8, 0.6) + noise).clip(0, 255).astype(np.uint8)
    pixels[40:44] = (255, 166, 0)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "png")
    written = figures.small_png(Image.fromarray(pixels))
    apart = np.abs(np.asarray(Image.open(io.BytesIO(written)).convert("RGB")) - pixels.astype(int))
    assert len(written) < len(whole.getvalue()) / 2
    assert apart.mean() < 6 and apart.max() < 40 and apart[40:44].max() < 12


def test_similarities_share_a_scale_that_the_bar_explains():
    axes = plt.subplots(2)[1]
    alike = np.array([0.5, 0.75, 1.0, 0.2], dtype=np.float32)
    weights = np.array([0.0, 0.1, 0.2, 0.0], dtype=np.float32)
    draw.merged(axes, light((2, 2)), alike, weights, 3, (2, 2), (0.5, 1.0), 0.2)
    shown = axes[0].images[1].get_array()[..., :3].reshape(4, 3)
    np.testing.assert_allclose(shown[[0, 2]], [plt.get_cmap("viridis")(x)[:3] for x in (0.0, 1.0)])
    assert (shown[3] == shown[0]).all() and shown[1].sum() > shown[0].sum()
    assert [axis.get_title() for axis in axes] == ["alike: mean 0.61", "weights: sum 0.3"]
    bar = draw.colour_bar([axes[0]], (0.5, 1.0), "cosine")
    assert (bar.vmin, bar.vmax, bar.cmap.name) == (0.5, 1.0, "viridis")
    bar = draw.colour_bar([axes[1]], 0.2, "weight")
    assert (bar.vmin, bar.vmax, bar.cmap.name) == (0, 0.2, "inferno")


def test_lines_of_a_forest_are_grey_by_interval_or_by_a_corrected_level():
    table = pd.DataFrame({"value": [2.0, 1.0, -2.0], "low": [1.0, -1.0, -3.0]})
    table = table.assign(high=2 * table["value"] - table["low"], p=[0.06, 0.01, 0.01])

    def shown(level):
        axes = forest(axes_of(), table, "value", "low", "high", level)
        return [to_hex(colour) for colour in axes.collections[0].get_colors()]

    blue, grey, orange = "#0072b2", "#9aa5b1", "#d55e00"
    assert shown("") == [blue, grey, orange]
    assert shown("p") == [grey, blue, orange]


def test_saved_figure_is_complete_and_the_same_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1])
    assert draw.save(figure, "07-some-topic") == "figures/07-some-topic.png"
    [written] = (tmp_path / "figures").iterdir()
    first = written.read_bytes()
    draw.save(figure, "07-some-topic")
    assert written.read_bytes() == first
    with Image.open(written) as image:
        assert image.size == (300, 150)
        assert "Software" not in image.info


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_vector_figure_is_the_same_twice(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    monkeypatch.setitem(plt.rcParams, "savefig.format", kind)
    draw.use_style()
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.set_title("share of answers")
    assert draw.save(figure, "07-topic") == f"figures/07-topic.{kind}"
    first = (tmp_path / f"07-topic.{kind}").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # another day
    draw.save(figure, "07-topic")
    assert (tmp_path / f"07-topic.{kind}").read_bytes() == first
    assert first.startswith({"svg": b"<?xml", "pdf": b"%PDF"}[kind]) and b"<image" not in first


@pytest.mark.parametrize("name", ["fence", "2-fence", "02-fence.png", "../02-fence", "02-Fence"])
def test_figure_of_another_name_is_refused(name):
    with pytest.raises(ValueError, match="NN-topic"):
        draw.save(plt.figure(), name)


def test_an_interrupted_save_leaves_the_former_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    figure = plt.figure(figsize=(1, 1))
    draw.save(figure, "07-topic")
    before = (tmp_path / "07-topic.png").read_bytes()

    def breaks_off(target, data):
        target.open("wb").write(data[:9])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        draw.save(figure, "07-topic")
    assert [path.name for path in tmp_path.iterdir()] == ["07-topic.png"]
    assert (tmp_path / "07-topic.png").read_bytes() == before


def test_shown_figure_is_small_closed_and_written_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path)
    shown = []
    monkeypatch.setattr(figures, "display", shown.append)
    figure, axes = plt.subplots(figsize=(2, 2))
    noise = np.random.default_rng(0).normal(100, 4, (200, 200, 3)).astype(np.uint8)
    draw.picture(axes, noise, (2, 2))
    target = io.BytesIO()
    figure.savefig(target, format="png")
    draw.show(figure)
    assert not list(tmp_path.iterdir())
    assert not plt.get_fignums()
    assert len(shown[0].data) < len(target.getvalue()) / 2
    coarse = np.asarray(Image.open(io.BytesIO(shown[0].data)).convert("RGB")).astype(int)
    exact = np.asarray(Image.open(target).convert("RGB")).astype(int)
    assert abs(coarse - exact).max() <= 5
    assert (coarse[0, 0] == 255).all()
    draw.show(plt.figure(), "07-topic")
    assert (tmp_path / "07-topic.png").exists()
