"""What asks the mini-LLaVA asks a model behind a frozen tower as well, in its own scenes."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from small_tower import SIZE, export_untrained, small_tower

from prumerge import paths
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.run import open_encodings, run_point
from prumerge.mini.styles import MORE_COLOURS
from prumerge.models import frozen

pytestmark = pytest.mark.skipif(
    find_spec("skimage") is None, reason="its grounds need scikit-image"
)


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """An untrained model with 576 tokens, and encodings in a folder of the tests' own."""
    folder, small = tmp_path_factory.mktemp("second"), small_tower()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "load_tower", lambda name, **options: small)
        patch.setattr(paths, "RUNS", folder / "runs")
        yield export_untrained(folder / "pocket", small, replace(SIZE, grid=24))


def test_a_sweep_draws_the_scenes_of_the_model_it_asks(pocket):
    mini = open_encodings.__wrapped__("mini", "report", 4)
    other = open_encodings.__wrapped__(str(pocket), "report", 4)
    assert mini.questions.pixels.shape[1:] == (192, 192, 3)
    assert other.questions.pixels.shape[1:] == (336, 336, 3)
    assert mini.folder.parent != other.folder.parent
    again = open_encodings.__wrapped__(str(pocket), "report", 4)
    assert again.questions.table.equals(other.questions.table)
    asked = open_encodings.__wrapped__(str(pocket), "report", 8).questions.table["text"]
    assert set(" ".join(asked).split()) & set(MORE_COLOURS)


def test_a_row_says_which_model_answered(pocket):
    point = Point.of({"model": str(pocket), "method": "prumerge+", "budget": 32, "per_family": 4})
    row = run_point(point)
    assert row.cells["model"] == str(pocket) and row.cells["tokens_per_image"] == "32.0"
    assert row.cells["weights"] != run_point(replace(point, model="mini")).cells["weights"]
