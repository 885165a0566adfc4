"""Six mini benchmarks in the shape of the paper's six: what each asks about a scene.

Questions are in the words of the mini-LLaVA, columns are those that the harness reads.

Source: the six benchmarks of the paper's main table; pictures and questions are ours.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from prumerge.mini.families import LETTERS, Question
from prumerge.mini.questions import ask
from prumerge.mini.scenes import Scene

ANNOTATORS = 10  # who answer each question of VQAv2 and TextVQA; here they agree
OPEN_FAMILIES = ("colour", "shape", "digit", "count", "position")
MME_CATEGORIES = ("existence", "color", "count", "position")
_TRIES = 200

Row = dict[str, Any]


def _vqav2(scene: Scene, rng: np.random.Generator) -> list[Row]:
    asked = [ask(scene, family, rng) for family in OPEN_FAMILIES]
    return [
        {
            "question": question.text,
            "question_type": question.family,
            "multiple_choice_answer": question.answer,
            "answers": [
                {"answer": question.answer, "answer_confidence": "yes", "answer_id": number + 1}
                for number in range(ANNOTATORS)
            ],
        }
        for question in asked
        if question is not None
    ]


def _textvqa(scene: Scene, rng: np.random.Generator) -> list[Row]:
    question = ask(scene, "read", rng)
    if question is None:
        return []
    answers = [question.answer] * ANNOTATORS
    return [{"question": question.text, "answers": answers, "ocr_tokens": question.answer.split()}]


def _distinct(
    scene: Scene,
    family: str,
    rng: np.random.Generator,
    group: Callable[[Question], Any],
    wanted: dict[Any, int],
) -> list[Question]:
    """Draw different questions until each group has as many as wanted; [] if that fails."""
    found: dict[str, Question] = {}
    missing = dict(wanted)
    for _ in range(_TRIES):
        question = ask(scene, family, rng)
        if question is None or question.text in found or missing.get(group(question), 0) == 0:
            continue
        found[question.text] = question
        missing[group(question)] -= 1
        if not any(missing.values()):
            return list(found.values())
    return []


def _pope(scene: Scene, rng: np.random.Generator) -> list[Row]:
    halves = {"yes": 3, "no": 3}
    asked = _distinct(scene, "existence", rng, lambda question: question.answer, halves)
    return [{"question": q.text, "answer": q.answer, "category": _absence(scene, q)} for q in asked]


def _absence(scene: Scene, question: Question) -> str:
    """Name POPE's kind of a question; adversarial ones share colour or kind with a thing."""
    colour, kind = question.text.split()[-3:-1]
    near = any(thing.colour == colour or thing.kind == kind for thing in scene.things)
    return "adversarial" if near else "random"


def _mme(scene: Scene, rng: np.random.Generator) -> list[Row]:
    pairs = []
    for family, categories in (("existence", MME_CATEGORIES[:1]), ("verify", MME_CATEGORIES[1:])):
        wanted = {(category, answer): 1 for category in categories for answer in ("yes", "no")}
        found = _distinct(scene, family, rng, lambda q: (_category(q), q.answer), wanted)
        if not found:
            return []
        pairs += found
    return [{"question": q.text, "answer": q.answer, "category": _category(q)} for q in pairs]


def _category(question: Question) -> str:
    if question.family == "existence":
        return "existence"
    if question.text.startswith("are there"):
        return "count"
    return "position" if " at the " in question.text else "color"


def _choices(scene: Scene, rng: np.random.Generator) -> list[tuple[str, list[str], int]]:
    """Draw two multiple-choice questions: text, options, number of the right one."""
    asked = _distinct(scene, "choice", rng, lambda question: "any", {"any": 2})
    parsed = []
    for question in asked:
        text, *options = re.split(rf" (?:{'|'.join(LETTERS)}) \. ", question.text)
        parsed.append((text, options, LETTERS.index(question.answer)))
    return parsed


def _scienceqa(scene: Scene, rng: np.random.Generator) -> list[Row]:
    return [
        {"question": text, "choices": options, "answer": right, "hint": ""}
        for text, options, right in _choices(scene, rng)
    ]


def _mmbench(scene: Scene, rng: np.random.Generator) -> list[Row]:
    rows = []
    for text, options, right in _choices(scene, rng):
        for turn in range(len(LETTERS)):
            turned = options[turn:] + options[:turn]
            letters = {letter.upper(): o for letter, o in zip(LETTERS, turned, strict=True)}
            answer = LETTERS[(right - turn) % len(LETTERS)].upper()
            rows.append({"question": text, "turn": turn, "answer": answer, **letters})
    return rows


BENCHMARKS: dict[str, Callable[[Scene, np.random.Generator], list[Row]]] = {
    "vqav2": _vqav2,
    "scienceqa": _scienceqa,
    "textvqa": _textvqa,
    "pope": _pope,
    "mme": _mme,
    "mmbench": _mmbench,
}
"""Rows about a scene, by benchmark; none where the scene allows no such questions."""
