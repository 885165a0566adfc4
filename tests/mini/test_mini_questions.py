"""Questions follow from the scene, and their words are the tokenizer's."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from prumerge.mini.families import LETTERS, Question
from prumerge.mini.model import IDS, build_tokenizer, token_ids
from prumerge.mini.questions import FAMILIES, Item, ask, ask_many, caption, is_right, score
from prumerge.mini.scenes import Scene, Sign, Thing, draw_scene

HAND = Scene(
    grid=24,
    corner=(0, 0),
    things=(
        Thing("circle", "red", 2, 2, 3),
        Thing("7", "blue", 18, 18, 3),
        Thing("star", "red", 3, 18, 4),
    ),
    sign=Sign("42", 12, 1),
    pixels=np.zeros((192, 192, 3), dtype=np.uint8),
    owner=np.zeros((24, 24), dtype=np.int64),
)
TRUTH = {
    "is there a red circle ?": "yes",
    "is there a blue circle ?": "no",
    "what colour is the circle ?": "red",
    "what colour is the 7 ?": "blue",
    "which digit is blue ?": "7",
    "how many red objects are there ?": "2",
    "how many star objects are there ?": "1",
    "where is the blue 7 ?": "bottom-right",
    "where is the red star ?": "top-right",
    "what number is on the sign ?": "4 2",
    "is the circle red ?": "yes",
    "are there 1 red objects ?": "no",
    "is the blue 7 at the bottom-right ?": "yes",
}


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    return [q for _ in range(150) for q in ask_many(draw_scene(rng), 20, rng)]


def test_answers_about_a_scene_written_by_hand():
    rng = np.random.default_rng(0)
    asked = {q.text: q.answer for _ in range(400) for q in ask_many(HAND, 20, rng)}
    assert {text: asked[text] for text in TRUTH} == TRUTH


def test_ambiguous_questions_are_never_asked():
    rng = np.random.default_rng(1)
    texts = {q.text for _ in range(400) for q in ask_many(HAND, 20, rng)}
    assert not any(text.startswith("what shape is red") for text in texts)  # circle or star?


def test_letter_points_at_the_right_option():
    rng = np.random.default_rng(2)
    for _ in range(200):
        question = ask(HAND, "choice", rng)
        if question and question.text.startswith("what colour is the circle"):
            options = question.text.split(" ? ")[1].split()
            place = LETTERS.index(question.answer) * 3 + 2  # letter . option
            assert options[place] == "red"


def test_every_family_is_asked_and_no_answer_rules(many):
    answers = defaultdict(Counter)
    for question in many:
        answers[question.family][question.answer] += 1
    assert set(answers) == set(FAMILIES)
    for family, counts in answers.items():
        share = counts.most_common(1)[0][1] / counts.total()
        assert share < 0.62, (family, share)


def test_words_are_the_tokenizers_words(many):
    tokenizer = build_tokenizer()
    for question in many[:300]:
        text = f"{question.text} {question.answer}"
        assert tokenizer(text)["input_ids"] == [IDS["<s>"], *token_ids(text)]


def test_capitals_and_tight_punctuation_read_the_same():
    tokenizer = build_tokenizer()
    tight = tokenizer("What colour is the circle?")["input_ids"]
    assert tight == tokenizer("what colour is the circle ?")["input_ids"]


def test_caption_names_every_thing():
    text = caption(HAND, np.random.default_rng(0))
    assert all(thing.name in text for thing in HAND.things)
    assert "sign 4 2" in text


def test_empty_scene_still_answers_existence():
    empty = draw_scene(np.random.default_rng(0), objects=0, sign=False)
    asked = ask_many(empty, 10, np.random.default_rng(0))
    assert {q.answer for q in asked if q.family == "existence"} == {"no"}
    assert {q.answer for q in asked if q.family == "count"} == {"0"}


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match="'colours'; there are existence"):
        ask(HAND, "colours", np.random.default_rng(0))


def test_one_rule_of_right_and_wrong_for_scores_and_sweeps():
    questions = [
        Question("colour", "what colour ?", "red"),
        Question("colour", "and this ?", "blue"),
    ]
    items = [Item(draw_scene(np.random.default_rng(0), 8), question) for question in questions]
    assert score(items, ["Red.", " red"])["correct"].tolist() == [0.5, 0.5]
    assert is_right(" Top left.\n", "top left") and not is_right("top left", "top right")
