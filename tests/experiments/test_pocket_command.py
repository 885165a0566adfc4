"""Making ``pocket`` by one command: from drawing to scores, and on where it was stopped."""

import json

import pandas as pd
import pytest
from small_tower import PLAINER, SIZE, draw_few_digits, small_tower

from prumerge.experiments import pocket
from prumerge.mini.features import RECORD, VALUES
from prumerge.models import frozen


@pytest.fixture
def tower(monkeypatch):
    """A tiny tower where the pretrained one is asked for, and scenes that need no photographs."""
    monkeypatch.setattr(pocket, "PICTURED", PLAINER)
    draw_few_digits()
    small = small_tower()
    monkeypatch.setattr(frozen, "load_tower", lambda name, **options: small)
    return small


def test_a_trial_ends_in_a_scored_model_and_goes_on_where_it_stands(tower, tmp_path, capsys):
    options = {"pictures": 24, "scale": 0.0005, "size": SIZE, "tower": tower}
    first = pocket.make(tmp_path / "run", **options)
    assert "left_s" in capsys.readouterr().out
    again = pocket.make(tmp_path / "run", **options, export_to=tmp_path / "made")
    assert [row["answer"] for row in first[1:]] == [row["answer"] for row in again[1:]]
    assert "pictures_per_s" not in capsys.readouterr().out  # neither features nor steps anew
    assert (tmp_path / "run" / "features" / VALUES).stat().st_size == 24 * 144 * 32 * 2
    record = json.loads((tmp_path / "run" / "features" / RECORD).read_text())
    assert record["tower"] == tower.origin
    assert json.loads((tmp_path / "made" / "training.json").read_text())["kept"] == 24
    assert len(pd.read_csv(tmp_path / "made" / "scores.csv")) == 10


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--scale", "0"], "got 0.0"), (["--pictures", "5"], "got 5")]
)
def test_what_cannot_be_used_is_told_in_a_sentence(arguments, named, tmp_path, capsys):
    assert pocket.main(["--folder", str(tmp_path), *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("pocket: ") and named in told and not list(tmp_path.iterdir())
