"""The command line: ``python -m prumerge.experiments.clip_rows``: budgets and methods on clips.

Every cell (method, budget, how it is shared over frames, merging, handling) answers the same
held-out questions. Two tables go to ``data/results/video``: ``mini-video.csv`` with a row per cell
and where it was computed, ``mini-video-answers.csv`` with a row per cell and question. Cells that
are there already, of the same weights and questions, are not run again.

    python -m prumerge.experiments.clip_rows --per-family 20
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from prumerge import attach
from prumerge.experiments.rows import provenance, read_csv, write_csv
from prumerge.methods import resolve
from prumerge.mini.clip_questions import ClipItem, held_out_clips
from prumerge.mini.clips import still
from prumerge.mini.questions import is_right, score
from prumerge.models.asking import generate_answers
from prumerge.models.canvases import reduce_packed
from prumerge.models.checks import needs
from prumerge.models.families import family_of
from prumerge.models.loading import fingerprint
from prumerge.models.slots import Packed
from prumerge.models.videos import VideoProcessor, load_video, video_prompt
from prumerge.paths import RESULTS
from prumerge.settings import Settings

STOCK = "stock"
METHODS = ("prumerge", "prumerge+", "top_k", "divprune", "random", "uniform")
BUDGETS = (128, 256, 512)
FOLDER = RESULTS / "video"


@dataclass(frozen=True)
class Cell:
    """What is sent of each clip; ``frames`` is ``all``, ``one`` (shown all the time) or ``none``.

    ``stock`` sends every token of what is shown.
    """

    method: str
    budget: int | None = None
    share: str = "size"
    merging: str = "within"
    order: str = "raster"
    positions: str = "original"
    frames: str = "all"

    @property
    def settings(self) -> dict[str, Any]:
        """What is set for :func:`prumerge.attach`; every frame's class token is sent."""
        names = ("budget", "share", "merging", "order", "positions")
        return {name: getattr(self, name) for name in names} | {"markers": "all"}


def cells(budgets: Sequence[int] = BUDGETS) -> list[Cell]:
    """Return all cells of the tables.

    The first are controls: every frame, one frame, none, and the frames' class tokens with a single
    patch. The last are in the order and places of the release.
    """
    middle = budgets[len(budgets) // 2]
    return [
        Cell(STOCK),
        *(Cell(STOCK, frames=frames) for frames in ("one", "none")),
        Cell("top_k", 1, share="joint"),
        *(Cell(method, budget) for budget in budgets for method in METHODS),
        *(
            Cell(method, budget, share="joint")
            for budget in budgets
            for method in ("prumerge", "top_k")
        ),
        *(Cell(method, budget, merging="across") for budget in budgets for method in METHODS[:2]),
        Cell("prumerge", middle, share="joint", merging="across"),
        Cell("prumerge"),
        *(Cell(method, middle, positions="compact") for method in ("prumerge", "random")),
        *(
            Cell(method, budget, order="attention", positions="compact")
            for method, budget in (
                ("prumerge", middle),
                ("prumerge+", middle),
                ("prumerge+", budgets[-1]),
            )
        ),
    ]


class Asker:
    """Answers held-out questions about clips; frames are encoded once for all methods alike."""

    def __init__(
        self, model: Any, processor: VideoProcessor, items: Sequence[ClipItem], batch_size: int = 8
    ) -> None:
        self.model, self.processor, self.items = model, processor, items
        self.batch_size = batch_size
        self._packed: dict[tuple, Packed] = {}

    def answers(self, cell: Cell) -> Iterator[tuple[str, int]]:
        """Answer each question as a cell says: answers, and the visual tokens sent.

        Class tokens of frames are sent beside these and not counted, as in the paper.
        """
        for start in range(0, len(self.items), self.batch_size):
            chosen = self.items[start : start + self.batch_size]
            inputs = inputs_of(self.processor, chosen, cell.frames).to(self.model.device)
            if cell.method == STOCK:
                sent = [0 if cell.frames == "none" else one.clip.owner.size for one in chosen]
                said = generate_answers(self.model, self.processor, inputs, 4)
            else:
                with attach(self.model, cell.method, **cell.settings) as reducer:
                    inputs["pixel_values_videos"] = self._encoded(start, inputs, reducer.settings)
                    said = generate_answers(self.model, self.processor, inputs, 4)
                sent = reducer.kept
            yield from zip(said, sent, strict=True)

    def _encoded(self, start: int, inputs: Any, settings: Settings) -> Packed:
        key = (start, settings.score, settings.softmax_class)
        key += (settings.score_layer, settings.key_layer)
        if key not in self._packed:
            shown = {"pixel_values_videos": inputs["pixel_values_videos"]}
            with torch.no_grad():
                packed = family_of(self.model).pack(self.model, shown, settings)
            self._packed[key] = packed["video"]
        return self._packed[key]


def inputs_of(processor: VideoProcessor, items: Sequence[ClipItem], frames: str = "all") -> Any:
    """Prepare clips and their questions; ``frames`` as in :class:`Cell`."""
    prompts = [video_prompt(processor, item.question.text) for item in items]
    if frames == "none":
        mark = processor.video_token
        return processor([prompt.replace(f"{mark} ", "") for prompt in prompts], padding=True)
    shown = [item.clip if frames == "all" else still(item.clip, 4) for item in items]
    videos = [[Image.fromarray(frame) for frame in clip.pixels] for clip in shown]
    return processor(prompts, videos, padding=True)


def run(
    folder: Path = FOLDER,
    name: str = "mini-video",
    per_family: int = 20,
    chosen: Iterable[Cell] | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Run the cells that ``folder`` does not hold yet, and return the table of all."""
    model, processor = load_video(name, device)
    items = held_out_clips(per_family)
    asker = Asker(model, processor, items)
    weights = fingerprint(str(name), model)
    table, answers = _held(folder, weights, len(items))
    for cell in cells() if chosen is None else chosen:
        number = len(table)
        if any(all(_same(row[k], v) for k, v in asdict(cell).items()) for row in table):
            continue
        given = list(asker.answers(cell))
        rows = [
            {
                "cell": number,
                "item": place,
                "family": item.question.family,
                "question": item.question.text,
                "answer": item.question.answer,
                "said": said,
                "right": is_right(said, item.question.answer),
                "visual_tokens": tokens,
            }
            for place, (item, (said, tokens)) in enumerate(zip(items, given, strict=True))
        ]
        frame = pd.DataFrame(rows)
        told = {"accuracy": frame["right"].mean(), "visual_tokens": frame["visual_tokens"].mean()}
        table.append(
            {"cell": number, "model": Path(name).name, "weights": weights, "questions": len(items)}
            | asdict(cell)
            | {key: round(float(value), 4) for key, value in told.items()}
            | provenance(device)
        )
        answers += rows
        write_csv(pd.DataFrame(answers), folder / "mini-video-answers.csv")
        write_csv(pd.DataFrame(table).astype({"budget": "Int64"}), folder / "mini-video.csv")
        print(f"{number} {cell}: {told}", flush=True)
    return pd.DataFrame(table)


def write_scores(folder: Path, per_family: int = 100) -> pd.DataFrame:
    """Score an exported model with every token of every frame, and leave ``scores.csv`` there."""
    items = held_out_clips(per_family)
    given = Asker(*load_video(folder), items).answers(Cell(STOCK))
    table = score(items, [said for said, _ in given])
    write_csv(table.round(4), folder / "scores.csv")
    return table


def _same(held: Any, wanted: Any) -> bool:
    return bool(pd.isna(held)) if wanted is None else held == wanted


def _held(folder: Path, weights: str, questions: int) -> tuple[list[dict], list[dict]]:
    path = folder / "mini-video.csv"
    if not path.exists():
        return [], []
    table = read_csv(path)
    if set(table["weights"]) != {weights} or set(table["questions"]) != {questions}:
        raise ValueError(
            f"{path} holds rows of other weights or questions: name another folder, or delete it"
        )
    answers = pd.read_csv(folder / "mini-video-answers.csv", dtype={"answer": str, "said": str})
    # Those of a cell whose row a killed run did not write come again.
    answers = answers[answers["cell"].isin(table["cell"])].fillna({"said": ""})
    return table.to_dict("records"), answers.to_dict("records")


@torch.no_grad()
def kept_by_frame(
    model: Any,
    pixels: Float[Tensor, "videos frames 3 height width"],
    ways: Mapping[str, Mapping[str, Any]],
    method: str = "prumerge",
) -> dict[str, list[list[int]]]:
    """Count what each frame of videos keeps under several settings, which read the same scores."""
    reduced, packed = {}, None
    for name, settings in ways.items():
        own = resolve(method, **settings)
        if packed is None:
            shown = {"pixel_values_videos": pixels}
            packed = family_of(model).pack(model, shown, own.settings)["video"]
        reduced[name] = reduce_packed(packed, own).kept_by_tile
    return reduced


@dataclass(frozen=True, eq=False)
class ClipAnswers:
    """Answers by cell: ``right[item, cell]``, the questions by item, the cells by number."""

    cells: pd.DataFrame
    right: pd.DataFrame
    questions: pd.DataFrame

    def of(self, method: str, budget: int | None = None, **wanted: str) -> pd.Series:
        """Which questions one cell answers right; a cell that was not run is a ValueError."""
        cell = asdict(Cell(method, budget, **wanted))
        for number, row in self.cells.iterrows():
            if all(_same(row[name], value) for name, value in cell.items()):
                return self.right[number]
        told = ", ".join(f"{name}={value!r}" for name, value in cell.items())
        raise ValueError(f"no row of {told}: python -m prumerge.experiments.clip_rows runs it")


def read_clip_rows(folder: Path = FOLDER) -> ClipAnswers:
    """Read what :func:`run` left in a folder; nothing there is a ValueError."""
    if not (folder / "mini-video.csv").exists():
        raise ValueError(f"{folder} holds no rows: python -m prumerge.experiments.clip_rows")
    cells = read_csv(folder / "mini-video.csv", index_col="cell")
    answers = pd.read_csv(folder / "mini-video-answers.csv", dtype={"answer": str, "said": str})
    right = answers.pivot_table("right", "item", "cell", aggfunc="first").astype(bool)
    questions = answers.drop_duplicates("item").set_index("item")
    return ClipAnswers(cells, right, questions[["family", "question", "answer"]])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    parser = argparse.ArgumentParser(prog="prumerge.experiments.clip_rows", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--name", default="mini-video", help="or a folder with its weights")
    parser.add_argument("--per-family", type=int, default=20, help="questions of each family")
    parser.add_argument("--device", default="cpu")
    try:
        run(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        print(f"clip_rows: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with needs("notebooks"):
        sys.exit(main())
