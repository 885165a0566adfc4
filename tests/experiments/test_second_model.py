"""What asks the mini-LLaVA asks a model behind a frozen tower as well, in its own scenes."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from small_tower import SIZE, export_untrained, small_tower

from prumerge import paths
from prumerge.experiments.evaluation import mini_tasks
from prumerge.experiments.evaluation.beside import titles
from prumerge.experiments.evaluation.comparison import take_turns
from prumerge.experiments.evaluation.preflight import save_small
from prumerge.experiments.evaluation.tasks import drawn_for, task_manager, tasks_named
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.run import open_encodings, run_point
from prumerge.mini.styles import MORE_COLOURS, PICTURED
from prumerge.models import frozen, load

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


def test_the_mini_benchmarks_are_drawn_in_the_scenes_of_the_model(pocket, tmp_path, monkeypatch):
    asked = ["mini", "mini_full", "mini_pope", "real"]
    assert drawn_for(asked, str(pocket)) == ["pocket", "pocket_full", "mini_pope", "real"]
    for other in ("mini", "random-7b", str(tmp_path / "absent")):
        assert drawn_for(asked, other) == asked
    assert set(titles(["pocket_pope_full", "mini_mme"]).values()) == {"pocket POPE", "mini MME"}
    scene, rows = next(mini_tasks.draw("pope", "lite", PICTURED))
    assert scene.pixels.shape == (336, 336, 3) and len(rows) == 6

    monkeypatch.setattr(mini_tasks, "MINI_TASKS", tmp_path)
    monkeypatch.setitem(mini_tasks.LITE, "pope", 1)
    monkeypatch.setattr(mini_tasks, "BENCHMARKS", {"pope": mini_tasks.BENCHMARKS["pope"]})
    command = r"pocket_pope are not drawn yet: python -m \S+mini_tasks lite pocket$"
    with pytest.raises(ValueError, match=command):
        tasks_named(["pocket_pope"], task_manager())
    with pytest.raises(ValueError, match=command):
        take_turns(benchmarks=["pope"], pretrained=str(pocket), device="cpu")
    assert mini_tasks.make("lite", "pocket") == [tmp_path / "pocket" / "pope.parquet"]
    assert tasks_named(["pocket_pope"], task_manager()) == ["pocket_pope"]
    turns = take_turns(
        ["release@32"], ["pope"], questions=2, rounds=1, pretrained=str(pocket), device="cpu"
    )
    assert turns["visual_tokens"].tolist() == [32]
    with pytest.raises(ValueError, match="no style 'huge' of scenes: there are mini,"):
        mini_tasks.make("lite", "huge")


def test_a_run_is_tried_by_a_small_model_that_holds_its_tower(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "load_tower", lambda *_, **__: pytest.fail("the pretrained one"))
    save_small(str(pocket), tmp_path / "small")
    model, _ = load(tmp_path / "small")
    assert model.config.vision_config.hidden_size == 32
