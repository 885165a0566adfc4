"""A sweep asks a LLaVA-NeXT about pictures in tiles, and the mini-LLaVA about the same, shrunk."""

import pytest
import torch
from PIL import Image

from prumerge import attach, paths
from prumerge.experiments.sweeps.answers import PER_PICTURE, answer_set, draw_questions
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.run import open_encodings, run_point
from prumerge.mini.export import export
from prumerge.mini.mini_next import MiniNext
from prumerge.mini.styles import LARGE
from prumerge.models import load
from prumerge.models.asking import answer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The mini-LLaVA's weights as a LLaVA-NeXT, which answer already; encodings of its own."""
    folder = tmp_path_factory.mktemp("next")
    record = {"pictures": 0, "hours": 0.0, "seed": 0, "device": "CPU", "torch": "2", "kept": 0}
    model = MiniNext(load("mini")[0])
    torch.manual_seed(0)
    torch.nn.init.normal_(model.llava.model.image_newline, std=0.02)
    export(model, folder / "made", [{"step": 0, "left_s": 0.0}], record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", folder / "runs")
        yield str(folder / "made")


def test_questions_are_about_pictures_of_every_frame():
    drawn = draw_questions("tiles", 8)
    sizes = {tuple(edge // 8 for edge in own.shape[:2]) for own in drawn.pixels}
    assert sizes == set(LARGE.frames[: len(drawn.pixels)])
    smaller = draw_questions("tiles", 4)
    assert all((a == b).all() for a, b in zip(smaller.pixels, drawn.pixels, strict=False))


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_answers_are_those_of_the_attached_model(untrained, positions):
    seen = open_encodings(untrained, "tiles", 4)
    values = {"model": untrained, "method": "prumerge+", "budget": 200, "questions": "tiles"}
    point = Point.of(values | {"per_family": 4, "order": "raster", "positions": positions})
    method, table = point.resolved, seen.questions.table
    quick = answer_set(seen.model, seen.processor, table, seen.read(method.settings), method)
    asked = table.iloc[: 3 * PER_PICTURE]
    pictures = [Image.fromarray(seen.questions.pixels[place]) for place in asked["picture"]]
    with attach(seen.model, method) as reducer:
        slow = answer(seen.model, seen.processor, pictures, list(asked["text"]), batch_size=12)
        assert reducer.kept == [200] * len(asked)
    right = [text == truth for text, truth in zip(slow, asked["answer"], strict=True)]
    assert quick.right[: len(right)].tolist() == right and any(right)


def test_the_mini_llava_is_asked_about_the_same_pictures(untrained):
    point = {"questions": "tiles", "method": "top_k", "per_family": 4, "order": "raster"}
    shrunk, tiled = (
        run_point(Point.of(point | {"model": model, "budget": 64})) for model in ("mini", untrained)
    )
    assert shrunk.cells["drawn"] == tiled.cells["drawn"]
    assert list(shrunk.cells) == list(tiled.cells) and tiled.cells["share"] == "size"
    assert shrunk.cells["tokens_per_image"] == tiled.cells["tokens_per_image"] == "64.0"
    with pytest.raises(ValueError, match="budget=600 is more than the 576 visual tokens"):
        Point.of(point | {"model": "mini", "budget": 600})
    Point.of(point | {"model": untrained, "budget": 2880})
    with pytest.raises(ValueError, match="more than the 2880"):
        Point.of(point | {"model": untrained, "budget": 2881})
