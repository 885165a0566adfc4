"""The files of the six mini benchmarks, drawn from seeds with the truth known.

``python -m prumerge.evaluation.mini_tasks`` draws the committed ``lite`` files anew, bit for bit,
``... full`` ten times as many questions.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from prumerge.evaluation.mini_benchmarks import BENCHMARKS, Row
from prumerge.evaluation.parquet import encode_picture, write
from prumerge.mini.families import LETTERS
from prumerge.mini.scenes import Scene, draw_scene
from prumerge.paths import DATA

MINI_TASKS = DATA / "mini-tasks"
SEED = 91_000  # far from training and from the held-out items of prumerge.mini.benchmark
CIRCLE = 1_000_000  # MMBench numbers the rotations of one question this far apart
LITE = {"vqav2": 24, "scienceqa": 40, "textvqa": 64, "pope": 16, "mme": 16, "mmbench": 20}
PICTURES = {"lite": LITE, "full": {name: 10 * number for name, number in LITE.items()}}
"""Pictures by size and benchmark."""


def draw(benchmark: str, size: str = "lite") -> Iterator[tuple[Scene, list[Row]]]:
    """Draw the pictures of one benchmark with their questions.

    Args:
        benchmark: One of the six.
        size: ``lite`` or ``full``.

    Yields:
        A scene with 1 to 12 things and held-out digits, and the rows about it.

    Raises:
        ValueError: If there is no such benchmark or size.
    """
    if benchmark not in BENCHMARKS or size not in PICTURES:
        raise ValueError(
            f"no mini benchmark {benchmark!r} of size {size!r}: there are "
            f"{', '.join(BENCHMARKS)} in the sizes {', '.join(PICTURES)}"
        )
    place = (list(PICTURES).index(size), list(BENCHMARKS).index(benchmark))
    rng = np.random.default_rng((SEED, *place))
    drawn = 0
    while drawn < PICTURES[size][benchmark]:
        sign = True if benchmark == "textvqa" else None
        scene = draw_scene(rng, objects=1 + drawn % 12, held_out=True, sign=sign)
        rows = BENCHMARKS[benchmark](scene, rng)
        if not rows and drawn % 12 < 3:
            # Three different things that are there need three things.
            scene = draw_scene(rng, objects=4, held_out=True)
            rows = BENCHMARKS[benchmark](scene, rng)
        if rows:
            drawn += 1
            yield scene, rows


def path_of(benchmark: str, size: str = "lite") -> Path:
    """Return where the file of a benchmark is; ``full`` ones are not committed."""
    return MINI_TASKS / ("full" if size == "full" else "") / f"{benchmark}.parquet"


def numbered(benchmark: str, size: str) -> Iterator[tuple[bytes, Row]]:
    """Yield picture file and complete row of every question, numbers and groups included."""
    question_id = 0
    for picture, (scene, rows) in enumerate(draw(benchmark, size)):
        encoded = encode_picture(scene.pixels)
        for row in rows:
            row = dict(row)
            # MME pairs the two questions about one picture by this id, within a category.
            row["question_id"] = picture if benchmark == "mme" else question_id
            row["image_id"] = picture
            if benchmark == "mmbench":
                turn = row.pop("turn")
                row["index"] = question_id // len(LETTERS) + CIRCLE * turn
                row |= {"hint": "nan", "source": "mini", "split": "dev"}
                asked = row["question"].split()[1]  # where "is" the red star
                row |= {"category": {"is": "position"}.get(asked, asked)}
                row |= {"L2-category": "perception"}
            question_id += 1
            yield encoded, row


def make(size: str = "lite") -> list[Path]:
    """Draw all six benchmarks and write their files.

    Args:
        size: ``lite`` or ``full``.

    Returns:
        The files.
    """
    return [write(path_of(benchmark, size), numbered(benchmark, size)) for benchmark in BENCHMARKS]


if __name__ == "__main__":
    for file in make(*sys.argv[1:]):
        print(f"{file.stat().st_size / 2**20:6.2f} MiB  {file.relative_to(DATA.parent)}")
