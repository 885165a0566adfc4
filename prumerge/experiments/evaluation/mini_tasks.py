"""The six mini benchmarks, drawn from seeds with the truth known, and their files.

``python -m prumerge.evaluation.mini_tasks`` draws the committed ``lite`` files anew, bit for bit,
``... full`` ten times as many questions, ``... lite pocket`` and ``... lite mini-next`` those for
these models, in the scenes that they were trained on. They mirror the benchmarks of the paper's
main table, in the words of the embedded models and the columns that the harness reads.
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from prumerge.mini.families import LETTERS, Question
from prumerge.mini.questions import ask
from prumerge.mini.scenes import Scene, draw_scene
from prumerge.mini.styles import PLAIN, STYLES, Style
from prumerge.paths import DATA, written_whole

_DICTIONARY_BYTES = 1 << 30  # a picture asked about several times is stored once
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encode_picture(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return the bytes of a picture file, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, rows: Iterable[tuple[bytes, dict[str, Any]]]) -> Path:
    """Write questions, each with its picture file; the same rows give the same bytes."""
    pictures, columns = zip(*rows, strict=True)
    encoded = pa.array([{"bytes": picture, "path": None} for picture in pictures], _PICTURE)
    table = pa.Table.from_pylist(list(columns)).append_column("image", encoded)
    # With this the `datasets` library hands out pictures instead of bytes.
    features = {field.name: _feature(field.type) for field in table.schema}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    with written_whole(path) as partial:
        pq.write_table(
            table.replace_schema_metadata(notes),
            partial,
            compression="zstd",
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
        )
    return path


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == _PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}


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


MINI_TASKS = DATA / "mini-tasks"
GRID = 24  # patches along an edge, where a style's pictures have no frames of their own
SEED = 91_000  # far from training and from the held-out items of prumerge.mini.questions
CIRCLE = 1_000_000  # MMBench numbers the rotations of one question this far apart
LITE = {"vqav2": 24, "scienceqa": 40, "textvqa": 64, "pope": 16, "mme": 16, "mmbench": 20}
PICTURES = {"lite": LITE, "full": {name: 10 * number for name, number in LITE.items()}}
"""Pictures by size and benchmark."""


def draw(benchmark: str, size: str = "lite", style: Style = PLAIN) -> Iterator[tuple[Scene, list]]:
    """Yield scenes with 1 to 12 things and held-out digits, and the rows about each."""
    if benchmark not in BENCHMARKS or size not in PICTURES:
        raise ValueError(
            f"no mini benchmark {benchmark!r} of size {size!r}: there are "
            f"{', '.join(BENCHMARKS)} in the sizes {', '.join(PICTURES)}"
        )
    place = (list(PICTURES).index(size), list(BENCHMARKS).index(benchmark))
    rng = np.random.default_rng((SEED, *place))
    drawn, look, grids = 0, {"held_out": True, "style": style}, style.grids(GRID)
    while drawn < PICTURES[size][benchmark]:
        sign, grid = True if benchmark == "textvqa" else None, grids[drawn % len(grids)]
        scene = draw_scene(rng, grid, objects=1 + drawn % 12, sign=sign, **look)
        rows = BENCHMARKS[benchmark](scene, rng)
        if not rows and drawn % 12 < 3:
            # Three different things that are there need three things.
            scene = draw_scene(rng, grid, objects=4, **look)
            rows = BENCHMARKS[benchmark](scene, rng)
        if rows:
            drawn += 1
            yield scene, rows


def path_of(benchmark: str, size: str = "lite", style: str = PLAIN.name) -> Path:
    """Return where the file of a benchmark is; the plain style's ``lite`` ones are committed."""
    own = "" if style == PLAIN.name else style
    return MINI_TASKS / own / ("full" if size == "full" else "") / f"{benchmark}.parquet"


def drawn_file(benchmark: str, size: str = "lite", style: str = PLAIN.name) -> Path:
    """Return :func:`path_of` a benchmark; ValueError, with the command, if it is not drawn yet."""
    path = path_of(benchmark, size, style)
    if not path.exists():
        told = size if style == PLAIN.name else f"{size} {style}"
        raise ValueError(
            f"the questions of {style}_{benchmark}{'_full' * (size == 'full')} are not drawn yet: "
            f"python -m prumerge.evaluation.mini_tasks {told}"
        )
    return path


def numbered(benchmark: str, size: str, style: Style = PLAIN) -> Iterator[tuple[bytes, Row]]:
    """Yield picture file and complete row of every question, numbers and groups included."""
    question_id = 0
    for picture, (scene, rows) in enumerate(draw(benchmark, size, style)):
        encoded = encode_picture(scene.pixels)
        for row in rows:
            row = dict(row)
            # MME pairs the two questions about one picture by this id, within a category.
            row["question_id"] = picture if benchmark == "mme" else question_id
            row["image_id"] = picture
            if benchmark == "mmbench":
                turn = row.pop("turn")
                row["index"] = question_id // len(LETTERS) + CIRCLE * turn
                row |= {"hint": "nan", "source": style.name, "split": "dev"}
                asked = row["question"].split()[1]  # where "is" the red star
                row |= {"category": {"is": "position"}.get(asked, asked)}
                row |= {"L2-category": "perception"}
            question_id += 1
            yield encoded, row


def make(size: str = "lite", style: str = PLAIN.name) -> list[Path]:
    """Draw all six benchmarks and write their files, ``lite`` or ``full``, in a style by name."""
    if style not in STYLES:
        raise ValueError(f"no style {style!r} of scenes: there are {', '.join(STYLES)}")
    named = (size, STYLES[style])
    return [write(path_of(name, size, style), numbered(name, *named)) for name in BENCHMARKS]


if __name__ == "__main__":
    for file in make(*sys.argv[1:]):
        print(f"{file.stat().st_size / 2**20:6.2f} MiB  {file.relative_to(DATA.parent)}")
