"""The quick way through a LLaVA gives the answers of the slow one, from outputs kept on disk."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from prumerge import attach, paths
from prumerge.encoder import hidden_states
from prumerge.experiments.sweeps import run
from prumerge.experiments.sweeps.answers import PER_PICTURE, answer_set, draw_questions
from prumerge.experiments.sweeps.run import open_encodings
from prumerge.methods import Method, resolve
from prumerge.mini.questions import FAMILIES, plain
from prumerge.mini.relevance import read_text
from prumerge.models.asking import answer, prompt_of


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The mini-LLaVA and 36 questions, their encoder outputs in a folder of the test's own."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
    yield open_encodings.__wrapped__("mini", "report", 4)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("all", {}),
        ("prumerge", {}),  # unequal numbers of tokens: the left padding of the pictures matters
        ("prumerge", {"budget": 40, "positions": "original", "order": "raster"}),
        ("prumerge", {"budget": 40, "positions": "stretched"}),
        ("small_picture", {"budget": 36}),
        ("ats", {"budget": 64}),
        ("tome_in_encoder", {"budget": 40}),
    ],
)
def test_answers_are_those_of_the_attached_model(seen, method, settings):
    method = resolve(method, **settings)
    encoded = seen.read(method.settings)
    quick = answer_set(seen.model, seen.processor, seen.questions.table, encoded, method)
    table = seen.questions.table
    pictures = [Image.fromarray(seen.questions.pixels[place]) for place in table["picture"]]
    with attach(seen.model, method) as reducer:
        slow = answer(seen.model, seen.processor, pictures, list(table["text"]), batch_size=36)
        kept = reducer.kept
    right = [text == truth for text, truth in zip(slow, table["answer"], strict=True)]
    assert quick.right.tolist() == right
    assert kept == quick.kept.repeat(PER_PICTURE).tolist()
    assert any(right)


def test_a_method_that_reads_the_question_answers_as_if_each_came_alone(seen):
    method, table = resolve("cdpruner", budget=40), seen.questions.table
    encoded, reader = seen.read(method.settings), read_text()
    quick = answer_set(seen.model, seen.processor, table, encoded, method, reader)
    assert quick.kept.tolist() == [40] * len(seen.questions.pixels)
    for row in (0, 1, 17, 35):
        picture = torch.tensor([table["picture"][row]])
        asked = reader.ask(encoded.at(picture), [table["text"][row]])
        prompt = prompt_of(seen.processor, table["text"][row]).replace("<image>", "<image> " * 576)
        ids = seen.processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with attach(seen.model, method):
            new = seen.model.generate(
                input_ids=ids, pixel_values=asked, max_new_tokens=8, do_sample=False
            )
        text = seen.processor.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
        assert (plain(text) == table["answer"][row]) == quick.right[row]


def test_encoder_outputs_are_computed_once_and_read_afterwards(seen, monkeypatch):
    settings = resolve("top_k").settings
    before = seen.read(settings)
    files = sorted(path.name for path in seen.folder.iterdir())
    assert "state-5.npy" in files and not any("partial" in name for name in files)

    def never(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr(run, "hidden_states", never)
    monkeypatch.setattr(run, "draw_questions", never)
    again = open_encodings.__wrapped__("mini", "report", 4).read(settings)
    torch.testing.assert_close(again.features, before.features, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="encoded again"):
        seen.read(dataclasses.replace(settings, score_layer=0))
    monkeypatch.setattr(run, "hidden_states", hidden_states)


def test_questions_are_stratified_and_pictures_shared():
    drawn = draw_questions("choose", 8)
    counts = drawn.table["family"].value_counts()
    assert set(counts.index) == set(FAMILIES) and set(counts) == {8}
    assert (drawn.table["picture"].value_counts() == PER_PICTURE).all()
    assert drawn.table.groupby("picture")["family"].nunique().eq(PER_PICTURE).all()
    assert drawn.table["objects"].nunique() > 3
    smaller = draw_questions("choose", 4)
    assert np.array_equal(drawn.pixels[: len(smaller.pixels)], smaller.pixels)


def test_the_two_sets_share_no_picture():
    choose, report = (draw_questions(name, 8).pixels for name in ("choose", "report"))
    assert not set(map(bytes, choose)) & set(map(bytes, report))


def test_case_and_final_points_do_not_count():
    assert plain(" Top left.\n") == "top left" != plain("top right")


def test_a_method_that_sends_another_number_is_named(seen):
    top = resolve("top_k", budget=9)
    short = Method(
        "forgetful", lambda encoded, _: resolve("top_k", budget=8)(encoded), top.settings
    )
    with pytest.raises(ValueError, match=r"method 'forgetful' sent \[8, .*budget is exact 9"):
        answer_set(seen.model, seen.processor, seen.questions.table, seen.read(top.settings), short)
