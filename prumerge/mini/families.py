"""What the question families ask about a mini scene, with the answer that the drawing knows.

Each function draws one question of the family of its name; None when the scene gives no
unambiguous one. Words are separated by spaces, as the tokenizer sees them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prumerge.mini.glyphs import DIGITS, KINDS, SHAPES
from prumerge.mini.scenes import Scene, Thing

LETTERS = ("a", "b", "c", "d")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")  # a word each


@dataclass(frozen=True)
class Question:
    """A question of one family, and its answer in the words of the vocabulary."""

    family: str
    text: str
    answer: str


def pick(rng: np.random.Generator, options: Iterable[Any]) -> Any:
    """Draw one of the options; None where there is none."""
    options = list(options)
    return options[rng.integers(len(options))] if options else None


def unique(things: Sequence[Any], attribute: str) -> list[Any]:
    """Return the things, or actors, whose kind, colour or name no other one shares."""
    seen = Counter(getattr(thing, attribute) for thing in things)
    return [thing for thing in things if seen[getattr(thing, attribute)] == 1]


def existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Is a named thing there? Half of the answers are no, half of those names near misses."""
    names = {thing.name for thing in scene.things}
    if rng.random() < 0.5:
        thing = pick(rng, scene.things)
        name = thing.name if thing else None
    else:
        # Half of the absent names share colour or kind with a thing: one of them tells nothing.
        thing = pick(rng, scene.things) if rng.random() < 0.5 else None
        colour = thing.colour if thing and rng.random() < 0.5 else pick(rng, scene.style.colours)
        kind = thing.kind if thing and colour != thing.colour else pick(rng, KINDS)
        name = f"{colour} {kind}" if f"{colour} {kind}" not in names else None
    if name is None:
        return None
    return Question("existence", f"is there a {name} ?", "yes" if name in names else "no")


def colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which colour has the only thing of its kind?"""
    thing = pick(rng, unique(scene.things, "kind"))
    return thing and Question("colour", f"what colour is the {thing.kind} ?", thing.colour)


def _only_of_colour(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...]) -> Thing | None:
    things = [thing for thing in scene.things if thing.kind in kinds]
    seen = Counter(thing.colour for thing in things)
    return pick(rng, [thing for thing in things if seen[thing.colour] == 1])


def shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which shape is the only one of its colour? Digits may share the colour."""
    thing = _only_of_colour(scene, rng, SHAPES)
    return thing and Question("shape", f"what shape is {thing.colour} ?", thing.kind)


def digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which digit is the only one of its colour? Shapes may share the colour."""
    thing = _only_of_colour(scene, rng, DIGITS)
    return thing and Question("digit", f"which digit is {thing.colour} ?", thing.kind)


def count(scene: Scene, rng: np.random.Generator) -> Question | None:
    """How many things have a colour or a shape? Numbers are drawn evenly, 0 among them."""
    groups = {
        colour: sum(t.colour == colour for t in scene.things) for colour in scene.style.colours
    }
    groups |= {shape: sum(t.kind == shape for t in scene.things) for shape in SHAPES}
    # First the number, then what to count: otherwise most answers would be 1.
    number = pick(rng, sorted(set(groups.values())))
    group = pick(rng, [name for name, size in groups.items() if size == number])
    return Question("count", f"how many {group} objects are there ?", str(number))


def place(scene: Scene, thing: Thing) -> str | None:
    """Return the quadrant of the frame a thing lies in; None within a patch of the middle lines."""
    row, column = thing.centre
    middle, across = (edge / 2 for edge in scene.frame)
    if min(abs(row - middle), abs(column - across)) < 1:
        return None
    return f"{'top' if row < middle else 'bottom'}-{'left' if column < across else 'right'}"


def position(scene: Scene, rng: np.random.Generator) -> Question | None:
    """In which quadrant lies the only thing of its name?"""
    thing = pick(rng, [thing for thing in unique(scene.things, "name") if place(scene, thing)])
    return thing and Question("position", f"where is the {thing.name} ?", place(scene, thing))


def read(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which number is on the sign? The answer is its digits, a word each."""
    if scene.sign is None:
        return None
    return Question("read", "what number is on the sign ?", " ".join(scene.sign.number))


def verify(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Is an answer about colour, count or position right? Half of the time it is."""
    base = pick(rng, (colour, count, position))(scene, rng)
    if base is None:
        return None
    truth = rng.random() < 0.5
    claim = base.answer if truth else pick(rng, _alternatives(base, scene))
    if claim is None:
        return None
    if base.family == "colour":
        text = base.text.replace("what colour is", "is").replace(" ?", f" {claim} ?")
    elif base.family == "count":
        text = base.text.replace("how many", f"are there {claim}").replace(" are there ?", " ?")
    else:
        text = base.text.replace("where is", "is").replace(" ?", f" at the {claim} ?")
    return Question("verify", text, "yes" if truth else "no")


def _alternatives(question: Question, scene: Scene) -> list[str]:
    """Return wrong answers of the right type."""
    if question.family == "count":
        number = int(question.answer)
        near = {number - 2, number - 1, number + 1, number + 2, 0, 1, 2, 3} - {number}
        return [str(n) for n in sorted(near) if n >= 0]
    types = {"colour": scene.style.colours, "shape": SHAPES, "digit": DIGITS, "position": PLACES}
    return [option for option in types[question.family] if option != question.answer]


def choice(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Which of four lettered answers is right?"""
    base = pick(rng, (colour, shape, digit, position))(scene, rng)
    if base is None:
        return None
    return _lettered("choice", base.text, base.answer, _alternatives(base, scene), rng)


def _lettered(
    family: str, text: str, answer: str, wrong: Sequence[str], rng: np.random.Generator
) -> Question:
    chosen = rng.choice(wrong, size=len(LETTERS) - 1, replace=False)
    options = list(rng.permutation([answer, *chosen]))
    listed = " ".join(
        f"{letter} . {option}" for letter, option in zip(LETTERS, options, strict=True)
    )
    return Question(family, f"{text} {listed}", LETTERS[options.index(answer)])


def letter(scene: Scene, rng: np.random.Generator) -> Question:
    """Which letter stands before a word that is given? Asked for practice: no picture is needed."""
    options = pick(rng, (tuple(scene.style.colours), SHAPES, DIGITS, PLACES))
    answer = pick(rng, options)
    wrong = [option for option in options if option != answer]
    return _lettered("letter", f"which is {answer} ?", answer, wrong, rng)
