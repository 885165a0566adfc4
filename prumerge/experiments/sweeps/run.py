"""Running sweeps: Snakemake over the jobs that are not done.

A plan lists, job by job, the points that have no row yet, neither in a committed table nor in
``data/runs/sweeps/points``: a killed run goes on, and a point of several grids is answered once.

Pictures, questions and the hidden states asked for so far are kept in ``data/runs/encodings``, a
folder per weights and set. Features, keys and scores of any settings follow from these by one
LayerNorm and two linear maps.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration

from prumerge import paths
from prumerge.encoder import Encoded, hidden_states, needed_layers, shrunk_features
from prumerge.experiments.parameters import check_parameters
from prumerge.experiments.sweeps import answers, tables
from prumerge.experiments.sweeps.answers import (
    STYLED,
    QuestionSet,
    answer_set,
    answer_set_inside,
    draw_questions,
    in_one_array,
)
from prumerge.experiments.sweeps.grids import Point, Sweep, weights_of
from prumerge.experiments.sweeps.tables import Row, known_rows, table_of
from prumerge.experiments.sweeps.tiles import Tiles
from prumerge.mini import families, glyphs, grounds, photographs, questions, scenes, styles
from prumerge.mini.pictures import grid_of, to_pixels
from prumerge.mini.relevance import read_text
from prumerge.mini.styles import style_of
from prumerge.models import load
from prumerge.models.families.llava_next import cut, tiles_of
from prumerge.models.loading import Llava, Processor, fingerprint
from prumerge.paths import written_whole
from prumerge.scores import read_states
from prumerge.settings import Settings
from prumerge.tower import open_tower

WORKER = Path(__file__).resolve().with_name("points.ipynb")
BATCH = 15  # pictures encoded at a time


@dataclasses.dataclass(frozen=True)
class Encodings:
    """A model with a question set that it has seen; ``folder`` keeps the hidden states."""

    model: Llava
    processor: Processor
    weights: str
    folder: Path
    questions: QuestionSet

    @torch.inference_mode()
    def read(self, settings: Settings) -> Encoded | Tiles:
        """Return features, keys and scores of all pictures, as these settings want them."""
        tower = open_tower(self.model.model.vision_tower)
        feature_layer = self.model.config.vision_feature_layer
        layers = needed_layers(settings, feature_layer, len(tower.blocks))
        hidden = self.states(layers)
        encoded = read_states(tower, hidden, layers, settings, (grid_of(self.model),) * 2)
        if self._tiled:
            return Tiles(encoded, self.model.model, self._sizes(range(len(self.questions.pixels))))

        def again(function: Callable, pictures: torch.Tensor) -> Any:
            return function(tower.module, self._pixels(pictures.tolist()), layers[0])

        def shrunk(grid: tuple[int, int], pictures: torch.Tensor) -> torch.Tensor:
            pixels, every = self._pixels(pictures.tolist()), torch.arange(len(pictures))
            return shrunk_features(tower, pixels, layers[0], grid, every)

        return dataclasses.replace(encoded, at_grid=shrunk, rerun=again)

    def states(self, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Return hidden states of all pictures; those that are not on disk are computed."""
        files = {layer: self.folder / f"state-{layer}.npy" for layer in layers}
        missing = {layer for layer, path in files.items() if not path.exists()}
        if missing:
            self._compute(missing)
        weight = next(self.model.parameters())
        return {layer: torch.from_numpy(np.load(path)).to(weight) for layer, path in files.items()}

    @torch.inference_mode()
    def _compute(self, layers: set[int]) -> None:
        tower = open_tower(self.model.model.vision_tower)
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        for start in range(0, len(self.questions.pixels), BATCH):
            pixels = self._pixels(range(start, min(start + BATCH, len(self.questions.pixels))))
            for layer, state in hidden_states(tower, pixels, layers).items():
                parts[layer].append(state.float().cpu().numpy())
        for layer, found in parts.items():
            _write_array(self.folder / f"state-{layer}.npy", np.concatenate(found))

    @property
    def _tiled(self) -> bool:
        return isinstance(self.model, LlavaNextForConditionalGeneration)

    def _sizes(self, pictures: Iterable[int]) -> list[list[int]]:
        """Height and width of pictures."""
        return [list(self.questions.pixels[picture].shape[:2]) for picture in pictures]

    def _pixels(self, pictures: Iterable[int]) -> torch.Tensor:
        images = [Image.fromarray(self.questions.pixels[picture]) for picture in pictures]
        pixels = to_pixels(self.processor, images)
        return (
            cut(pixels, tiles_of(self.model.model, self._sizes(pictures)))
            if self._tiled
            else pixels
        )


@functools.lru_cache(maxsize=2)
def open_encodings(model: str, name: str, per_family: int, device: str = "cpu") -> Encodings:
    """Load a model and a question set (two are held); what was encoded before is read from disk."""
    llava, processor = load(model, device)
    weights = fingerprint(model, llava)
    style = STYLED.get(name) or style_of(llava)
    asked_of = f"{name}-{per_family}-{_drawing()}-{style.name}-{grid_of(llava)}"
    drawn = paths.RUNS / "encodings" / asked_of
    seen = drawn / f"{weights}-{next(llava.parameters()).dtype}".replace("torch.", "")
    seen.mkdir(parents=True, exist_ok=True)
    pixels, table = drawn / "pixels.npz", drawn / "questions.parquet"
    if not (pixels.exists() and table.exists()):
        asked = draw_questions(name, per_family, grid_of(llava), style)
        with written_whole(pixels) as partial, partial.open("wb") as file:
            np.savez(file, *asked.pixels)
        with written_whole(table) as partial:
            asked.table.to_parquet(partial)
    with np.load(pixels) as stored:
        shown = in_one_array([stored[name] for name in stored.files])
    asked = QuestionSet(shown, pd.read_parquet(table))
    return Encodings(llava, processor, weights, seen, asked)


def _drawing() -> str:
    """Name the code that draws, so that an old drawing is not taken for a new one."""
    modules = (scenes, glyphs, styles, grounds, photographs, families, questions, answers)
    sources = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(sources.encode()).hexdigest()[:8]


def _write_array(path: Path, array: np.ndarray) -> None:
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def encode(model: str, name: str, per_family: int, device: str) -> None:
    """Encode a question set as most points want it: what the Snakefile does before the jobs."""
    seen = open_encodings(model, name, per_family, device)
    layers = open_tower(seen.model.model.vision_tower).blocks
    read = needed_layers(Settings(), seen.model.config.vision_feature_layer, len(layers))
    # The block before the last too: most rivals read their scores there.
    seen.states({*read, len(layers) - 2})


def run_point(point: Point, device: str = "cpu") -> Row:
    """Answer a point's questions; ValueError if the method does not work on this encoder."""
    method = point.resolved
    seen = open_encodings(point.model, point.questions, point.per_family, device)
    if point.inside:
        started = time.perf_counter()
        how = (method.name, method.settings.budget)
        outcome = answer_set_inside(seen.model, seen.processor, seen.questions, *how)
    else:
        encoded, table = seen.read(method.settings), seen.questions.table
        reader = read_text(point.model, device) if method.reads_question else None
        started = time.perf_counter()
        outcome = answer_set(seen.model, seen.processor, table, encoded, method, reader)
    seconds = time.perf_counter() - started
    return tables.row_of(point, outcome, seen.weights, seen.questions.table, device, seconds)


def run_points(
    points: Sequence[Point], rows: str | Path = "", device: str = "cpu"
) -> dict[Point, str]:
    """Run points that have no row, each leaving it when done; return the tracebacks of failures."""
    failures, folder = {}, Path(rows or tables.POINTS)
    for point in points:
        path = folder / f"{point.key(weights_of(point.model))}.parquet"
        if path.exists():
            continue
        try:
            tables.write_row(path, run_point(point, device))
        except Exception as error:  # whatever it is, the other points do not depend on it
            failures[point] = traceback.format_exc()
            _write_reason(failure_of(path), point, error)
    return failures


def failure_of(row: Path) -> Path:
    """Return the file that says why a row is not there."""
    return row.with_name(f".{row.stem}.failed.txt")


def _write_reason(path: Path, point: Point, error: Exception) -> None:
    """Say in a line what failed and where: in the method's own file, if the trace touches it."""
    trace = traceback.extract_tb(error.__traceback__)
    module = Path(point.module).resolve() if point.module else None
    frame = ([f for f in trace if Path(f.filename).resolve() == module] or trace)[-1]
    budget = dict(point.changes).get("budget")
    name = point.method if budget is None else f"{point.method}, budget {budget}"
    reason = f"{type(error).__name__}: {error}".strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name}: {reason} ({frame.filename}, line {frame.lineno})\n")


class PointsFailed(RuntimeError):
    """Points have no row; the message says why, ``rows`` holds those that have one, by sweep."""

    def __init__(self, message: str, rows: dict[str, list[Row]]) -> None:
        super().__init__(message)
        self.rows = rows


def run_sweeps(
    sweeps: Sequence[Sweep], cores: int = 2, device: str = "cpu", snakemake: Sequence[str] = ()
) -> dict[str, list[Row]]:
    """Run what sweeps lack; return the rows of each in order; PointsFailed says what is missing."""
    known = known_rows()
    plan = make_plan(sweeps, known, device)
    keys = {sweep.name: [p.key(weights_of(p.model)) for p in sweep.points] for sweep in sweeps}
    if there := len({key for own in keys.values() for key in own} & set(known)):
        print(f"{there} points have their rows already", flush=True)
    if plan["jobs"]:
        _snakemake(plan, cores, snakemake)
        known = known_rows()
    rows = {name: [known[key] for key in own if key in known] for name, own in keys.items()}
    lacking = {name: len(own) - len(rows[name]) for name, own in keys.items()}
    if any(lacking.values()):
        raise PointsFailed(_why(plan, lacking), rows)
    return rows


def make_plan(
    sweeps: Sequence[Sweep], known: dict[str, Row], device: str = "cpu"
) -> dict[str, Any]:
    """List the jobs with points that have no row among those known: what the Snakefile reads."""
    jobs, encodings, taken = [], {}, set(known)
    for sweep in sweeps:
        for name, points in sweep.jobs.items():
            left = {p.key(weights_of(p.model)): p for p in points}
            left = {key: point for key, point in left.items() if key not in taken}
            if left:
                taken |= set(left)
                needs = {need["name"]: need for need in map(_encoding, left.values())}
                encodings |= needs
                jobs.append(_job(f"{sweep.name}-{name}", left, needs))
    check_parameters(WORKER, {"points": [{}], "rows": "", "device": device})
    return {
        "jobs": jobs,
        "encodings": list(encodings.values()),
        "rows": str(tables.POINTS),
        "device": device,
        "gpus": int(device.startswith("cuda")),
        "python": sys.executable,
        "worker": str(WORKER),
    }


def _job(name: str, left: dict[str, Point], needs: dict[str, dict]) -> dict[str, Any]:
    return {
        "name": name.replace(".", "_"),
        "points": [point.values for point in left.values()],  # noqa: PD011
        "rows": [str(tables.POINTS / f"{key}.parquet") for key in left],
        "needs": [need["done"] for need in needs.values()],
        "notebook": str(tables.POINTS.parent / f"{name}.ipynb"),
    }


def _encoding(point: Point) -> dict[str, Any]:
    of = [point.model, point.questions, point.per_family]
    name = f"encode-{point.questions}-{point.per_family}-{weights_of(point.model)}"
    return {"name": name, "of": of, "done": str(paths.RUNS / "encodings" / f".{name}.done")}


def _snakemake(plan: dict[str, Any], cores: int, more: Sequence[str]) -> None:
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("snakemake is not installed", name="snakemake")
    folder = tables.POINTS.parent
    file = folder / f"plan-{plan['jobs'][0]['name']}.json"  # two may run at once
    with written_whole(file) as partial:
        partial.write_text(json.dumps(plan, indent=1))
    rows = [Path(row) for job in plan["jobs"] for row in job["rows"]]
    for stale in (*_logs(plan), *map(failure_of, rows)):
        stale.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(WORKER.with_name("Snakefile")),
        "--directory", str(folder), "--config", f"plan={file}", "--cores", str(cores),
        # A job that fails or is killed keeps its rows: each is written whole or not at all.
        "--keep-going", "--keep-incomplete", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "mtime", "--quiet", "rules", "host", "progress", *more,
    ]  # fmt: skip
    print(f"{len(rows)} points in {len(plan['jobs'])} jobs", flush=True)
    _watch(subprocess.Popen(command), rows)


def _logs(plan: dict[str, Any]) -> list[Path]:
    return [Path(job["notebook"]).with_suffix(".failed.ipynb") for job in plan["jobs"]]


def _watch(process: subprocess.Popen, rows: Sequence[Path], every_s: float = 10.0) -> None:
    """Tell how many points are done, and the time left, until a process ends."""
    started = told = time.monotonic()
    before = 0
    while process.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - told < every_s:
            continue
        told, done = time.monotonic(), sum(row.exists() for row in rows)
        if done > before:
            left = (told - started) / done * (len(rows) - done)
            print(f"{done} of {len(rows)} points done, about {left:.0f} s left", flush=True)
        before = done


def _why(plan: dict[str, Any], lacking: dict[str, int]) -> str:
    """Say how many points have no row, which notebooks tell more, and the reasons known."""
    root = paths.ROOT
    logs = [log for log in _logs(plan) if log.exists()]
    shown = [str(log.relative_to(root) if log.is_relative_to(root) else log) for log in logs]
    counts = [f"{count} of {name}" for name, count in lacking.items() if count]
    told = f"points without a row: {', '.join(counts)}; look into "
    failures = [failure_of(Path(row)) for job in plan["jobs"] for row in job["rows"]]
    reasons = [file.read_text().rstrip() for file in failures if file.exists()]
    return "\n  ".join([told + (", ".join(shown) or "the output above"), *dict.fromkeys(reasons)])


def write_tables(sweeps: Sequence[Sweep], rows: dict[str, list[Row]]) -> list[Path]:
    """Write the tables and, once for all sweeps that ask them, the questions of each set."""
    asked: dict[Path, Point] = {}
    found: dict[Path, list[Row]] = {}
    for sweep in sweeps:
        tables.write_table(table_of(sweep), rows[sweep.name])
        for point in {point.questions: point for point in reversed(sweep.points)}.values():
            path = table_of(sweep).with_name(f"questions-{point.questions}{sweep.suffix}.csv")
            asked.setdefault(path, point)
            own = [row for row in rows[sweep.name] if row.cells["questions"] == point.questions]
            found[path] = found.get(path, []) + own
    for path, point in asked.items():
        seen = open_encodings(point.model, point.questions, point.per_family)
        tables.write_questions(path, seen.questions.table, found[path])
    return [table_of(sweep) for sweep in sweeps]
