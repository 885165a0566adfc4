"""Questions about a mini scene, with the answer that the drawing knows.

Each family asks one thing in one form; :func:`ask` draws a question of a family, or None when the
scene gives no unambiguous one. Words are separated by spaces, as the tokenizer sees them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prumerge.mini.glyphs import COLOURS, DIGITS, KINDS, SHAPES
from prumerge.mini.scenes import Scene, Thing

LETTERS = ("a", "b", "c", "d")
PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Question:
    """A question of one family, and its answer in the words of the vocabulary."""

    family: str
    text: str
    answer: str


Asker = Callable[[Scene, np.random.Generator], Question | None]


def _pick(rng: np.random.Generator, options):
    options = list(options)
    return options[rng.integers(len(options))] if options else None


def _unique(scene: Scene, attribute: str) -> list[Thing]:
    """Return the things whose kind, colour or name no other thing shares."""
    seen = Counter(getattr(thing, attribute) for thing in scene.things)
    return [thing for thing in scene.things if seen[getattr(thing, attribute)] == 1]


def _existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = {thing.name for thing in scene.things}
    if rng.random() < 0.5:
        thing = _pick(rng, scene.things)
        name = thing.name if thing else None
    else:
        # Half of the absent names share colour or kind with a thing: one of them tells nothing.
        thing = _pick(rng, scene.things) if rng.random() < 0.5 else None
        colour = thing.colour if thing and rng.random() < 0.5 else _pick(rng, COLOURS)
        kind = thing.kind if thing and colour != thing.colour else _pick(rng, KINDS)
        name = f"{colour} {kind}" if f"{colour} {kind}" not in names else None
    if name is None:
        return None
    return Question("existence", f"is there a {name} ?", "yes" if name in names else "no")


def _colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _pick(rng, _unique(scene, "kind"))
    return thing and Question("colour", f"what colour is the {thing.kind} ?", thing.colour)


def _only_of_colour(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...]) -> Thing | None:
    things = [thing for thing in scene.things if thing.kind in kinds]
    seen = Counter(thing.colour for thing in things)
    return _pick(rng, [thing for thing in things if seen[thing.colour] == 1])


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _only_of_colour(scene, rng, SHAPES)
    return thing and Question("shape", f"what shape is {thing.colour} ?", thing.kind)


def _digit(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _only_of_colour(scene, rng, DIGITS)
    return thing and Question("digit", f"which digit is {thing.colour} ?", thing.kind)


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    groups = {colour: sum(t.colour == colour for t in scene.things) for colour in COLOURS}
    groups |= {shape: sum(t.kind == shape for t in scene.things) for shape in SHAPES}
    # First the number, then what to count: otherwise most answers would be 1.
    number = _pick(rng, sorted(set(groups.values())))
    group = _pick(rng, [name for name, size in groups.items() if size == number])
    return Question("count", f"how many {group} objects are there ?", str(number))


def place(scene: Scene, thing: Thing) -> str | None:
    """Return the quadrant of the frame a thing lies in; None within a patch of the middle lines."""
    row, column = thing.centre
    middle = scene.grid / 2
    if min(abs(row - middle), abs(column - middle)) < 1:
        return None
    return f"{'top' if row < middle else 'bottom'} {'left' if column < middle else 'right'}"


def _position(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = _pick(rng, [thing for thing in _unique(scene, "name") if place(scene, thing)])
    return thing and Question("position", f"where is the {thing.name} ?", place(scene, thing))


def _read(scene: Scene, rng: np.random.Generator) -> Question | None:
    if scene.sign is None:
        return None
    return Question("read", "what number is on the sign ?", " ".join(scene.sign.number))


def _verify(scene: Scene, rng: np.random.Generator) -> Question | None:
    base = _pick(rng, (_colour, _count, _position))(scene, rng)
    if base is None:
        return None
    truth = rng.random() < 0.5
    claim = base.answer if truth else _pick(rng, _alternatives(base))
    if claim is None:
        return None
    if base.family == "colour":
        text = base.text.replace("what colour is", "is").replace(" ?", f" {claim} ?")
    elif base.family == "count":
        text = base.text.replace("how many", f"are there {claim}").replace(" are there ?", " ?")
    else:
        text = base.text.replace("where is", "is").replace(" ?", f" at the {claim} ?")
    return Question("verify", text, "yes" if truth else "no")


def _alternatives(question: Question) -> list[str]:
    """Return wrong answers of the right type."""
    if question.family == "count":
        number = int(question.answer)
        near = {number - 2, number - 1, number + 1, number + 2, 0, 1, 2, 3} - {number}
        return [str(n) for n in sorted(near) if n >= 0]
    types = {"colour": COLOURS, "shape": SHAPES, "digit": DIGITS, "position": PLACES}
    return [option for option in types[question.family] if option != question.answer]


def _choice(scene: Scene, rng: np.random.Generator) -> Question | None:
    base = _pick(rng, (_colour, _shape, _digit, _position))(scene, rng)
    if base is None:
        return None
    wrong = rng.choice(_alternatives(base), size=len(LETTERS) - 1, replace=False)
    options = list(rng.permutation([base.answer, *wrong]))
    listed = " ".join(
        f"{letter} . {option}" for letter, option in zip(LETTERS, options, strict=True)
    )
    return Question("choice", f"{base.text} {listed}", LETTERS[options.index(base.answer)])


FAMILIES: dict[str, Asker] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "digit": _digit,
    "count": _count,
    "position": _position,
    "read": _read,
    "verify": _verify,
    "choice": _choice,
}


def ask(scene: Scene, family: str, rng: np.random.Generator) -> Question | None:
    """Draw one question of ``family`` about ``scene``.

    Returns:
        None when the scene allows no unambiguous question of that family (no sign to read, say).
    """
    if family not in FAMILIES:
        raise ValueError(f"no question family {family!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[family](scene, rng)


def ask_many(
    scene: Scene,
    count: int,
    rng: np.random.Generator,
    families: Sequence[str] = tuple(FAMILIES),
) -> list[Question]:
    """Draw up to ``count`` different questions, ``families`` in turn, from a random one on."""
    found: dict[str, Question] = {}
    first = int(rng.integers(len(families)))
    for attempt in range(4 * count):
        if len(found) == count:
            break
        question = ask(scene, families[(first + attempt) % len(families)], rng)
        if question is not None:
            found.setdefault(question.text, question)
    return list(found.values())


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Name every thing in random order, half of them with their place, and read the sign.

    This is what CLIP's text tower is given: ``red circle top left , blue 7 , sign 4 1``.
    """
    names = []
    for thing in scene.things:
        where = place(scene, thing) if rng.random() < 0.5 else None
        names.append(f"{thing.name} {where}" if where else thing.name)
    if scene.sign is not None:
        names.append("sign " + " ".join(scene.sign.number))
    return " , ".join(rng.permutation(names)) if names else "nothing"
