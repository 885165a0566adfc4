"""Snakemake over the jobs of sweeps that are not done.

A plan lists, job by job, the points that have no row yet: neither in a committed table nor in
``data/runs/sweeps/points``. So a killed run is started again by the same command and does only what
is left, and a point that several grids share is answered once.
"""

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prumerge import paths
from prumerge.parameters import check_parameters
from prumerge.sweeps import points as places
from prumerge.sweeps.encodings import open_encodings
from prumerge.sweeps.grids import GRIDS, Sweep
from prumerge.sweeps.points import Point, suffix_of, weights_of
from prumerge.sweeps.rows import Row, read_row, read_rows, write_table
from prumerge.sweeps.tables import write_questions
from prumerge.sweeps.worker import failure_of

WORKER = GRIDS / "points.ipynb"


class PointsFailed(RuntimeError):
    """Points have no row; the message says why, ``rows`` holds those that have one, by sweep."""

    def __init__(self, message: str, rows: dict[str, list[Row]]) -> None:
        super().__init__(message)
        self.rows = rows


def table_of(sweep: Sweep) -> Path:
    """Return where a sweep's rows go: only those of the committed grids among the committed."""
    folder = places.RESULTS if sweep.committed else places.POINTS.parent
    return folder / f"{sweep.name}{_suffix(sweep.points)}.csv"


def _suffix(points: Sequence[Point]) -> str:
    return suffix_of((point.model for point in points), (point.per_family for point in points))


def known_rows() -> dict[str, Row]:
    """Read all rows that are there, committed or not.

    Returns:
        Rows by key.

    Raises:
        ValueError: Naming a file that was edited or cut short.
    """
    rows = {}
    folders = (places.POINTS.parent, places.RESULTS)
    for path in sorted(path for folder in folders for path in folder.glob("*.csv")):
        if not path.name.startswith("questions-"):
            rows |= {row.key: row for row in read_rows(path)}
    for path in sorted(places.POINTS.glob("[!.]*.parquet")):
        row = read_row(path)
        rows[row.key] = row
    return rows


def run_sweeps(
    sweeps: Sequence[Sweep], cores: int = 2, device: str = "cpu", snakemake: Sequence[str] = ()
) -> dict[str, list[Row]]:
    """Run what is missing of some sweeps.

    Args:
        sweeps: Grids, read and checked.
        cores: Jobs at a time.
        device: Where models run.
        snakemake: More arguments for Snakemake, such as ``--executor slurm``.

    Returns:
        The rows of each sweep, in the order of its points.

    Raises:
        PointsFailed: If points failed: with method, file and line of each, and the jobs' notebooks.
            Rows that were written stay.
        ValueError: If a row that is there was edited or cut short.
    """
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


def _why(plan: dict[str, Any], lacking: dict[str, int]) -> str:
    """Say how many points have no row, which notebooks tell more, and the reasons known."""
    logs = [Path(job["notebook"]).with_suffix(".failed.ipynb") for job in plan["jobs"]]
    kept = ", ".join(_shown(log) for log in logs if log.exists()) or "the output above"
    counts = [f"{count} of {name}" for name, count in lacking.items() if count]
    reasons = [file.read_text().rstrip() for file in _failures(plan) if file.exists()]
    told = f"points without a row: {', '.join(counts)}; look into {kept}"
    return "\n  ".join([told, *dict.fromkeys(reasons)])


def _failures(plan: dict[str, Any]) -> list[Path]:
    return [failure_of(Path(row)) for job in plan["jobs"] for row in job["rows"]]


def write_tables(sweeps: Sequence[Sweep], rows: dict[str, list[Row]]) -> list[Path]:
    """Write the tables: committed grids into ``data/results/sweeps``, others below ``data/runs``.

    Returns:
        Their paths.
    """
    for sweep in sweeps:
        write_table(table_of(sweep), rows[sweep.name])
    sets: dict[tuple[Path, str, str], list[Sweep]] = {}
    for sweep in sweeps:
        for name in {point.questions: None for point in sweep.points}:
            of = (table_of(sweep).parent, name, _suffix(sweep.points))
            sets.setdefault(of, []).append(sweep)
    for (folder, name, suffix), own in sets.items():
        point = next(p for sweep in own for p in sweep.points if p.questions == name)
        asked = open_encodings(point.model, name, point.per_family).questions.table
        found = [row for sweep in own for row in rows[sweep.name]]
        found = [row for row in found if row.cells["questions"] == name]
        write_questions(name + suffix, asked, found, folder)
    return [table_of(sweep) for sweep in sweeps]


def make_plan(
    sweeps: Sequence[Sweep], known: dict[str, Row], device: str = "cpu"
) -> dict[str, Any]:
    """List the jobs with points that have no row.

    Args:
        sweeps: Grids.
        known: Rows by key.
        device: Where models run.

    Returns:
        What ``sweeps/Snakefile`` reads.
    """
    jobs, encodings, taken = [], {}, set(known)
    for sweep in sweeps:
        for name, points in sweep.jobs.items():
            left = {p.key(weights_of(p.model)): p for p in points}
            left = {key: point for key, point in left.items() if key not in taken}
            if left:
                taken |= set(left)
                needs = {_encoding(point)["name"]: _encoding(point) for point in left.values()}
                encodings |= needs
                jobs.append(_job(f"{sweep.name}-{name}", left, needs))
    check_parameters(WORKER, {"points": [], "rows": "", "device": device})
    return {
        "jobs": jobs,
        "encodings": list(encodings.values()),
        "rows": str(places.POINTS),
        "device": device,
        "gpus": int(device.startswith("cuda")),
        "python": sys.executable,
        "worker": str(WORKER),
    }


def _job(name: str, left: dict[str, Point], needs: dict[str, dict]) -> dict[str, Any]:
    return {
        "name": name.replace(".", "_"),
        "points": [point.values for point in left.values()],
        "rows": [str(places.POINTS / f"{key}.parquet") for key in left],
        "needs": [need["done"] for need in needs.values()],
        "notebook": str(places.POINTS.parent / f"{name}.ipynb"),
    }


def _encoding(point: Point) -> dict[str, Any]:
    of = [point.model, point.questions, point.per_family]
    weights = weights_of(point.model)
    name = f"encode-{point.questions}-{point.per_family}-{weights}"
    done = paths.RUNS / "encodings" / f".{name}.done"
    return {"name": name, "of": of, "done": str(done)}


def _snakemake(plan: dict[str, Any], cores: int, more: Sequence[str]) -> None:
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("snakemake is not installed", name="snakemake")
    file = places.POINTS.parent / f"plan-{plan['jobs'][0]['name']}.json"  # two may run at once
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(plan, indent=1))
    partial.replace(file)
    for job in plan["jobs"]:
        Path(job["notebook"]).with_suffix(".failed.ipynb").unlink(missing_ok=True)
    for failure in _failures(plan):
        failure.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(GRIDS / "Snakefile"),
        "--directory", str(file.parent), "--config", f"plan={file}", "--cores", str(cores),
        # A job that fails or is killed keeps its rows: each is written whole or not at all.
        "--keep-going", "--keep-incomplete", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "mtime", "--quiet", "rules", "host", "progress", *more,
    ]  # fmt: skip
    print(f"{len(_failures(plan))} points in {len(plan['jobs'])} jobs", flush=True)
    _watch(subprocess.Popen(command), [Path(row) for job in plan["jobs"] for row in job["rows"]])


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


def _shown(path: Path) -> str:
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)
