"""Snakemake over the jobs of sweeps that are not done.

A plan lists, job by job, the points that have no row yet: neither in a committed table nor in
``data/runs/sweeps/points``. So a killed run is started again by the same command and does only what
is left, and a point that several grids share is answered once.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prumerge import paths
from prumerge.runs import check_parameters
from prumerge.sweeps import points as places
from prumerge.sweeps.encodings import open_encodings
from prumerge.sweeps.grids import GRIDS, Sweep
from prumerge.sweeps.points import Point, weights_of
from prumerge.sweeps.rows import Row, read_row, read_rows, write_table
from prumerge.sweeps.tables import write_questions

WORKER = GRIDS / "points.ipynb"


def table_of(sweep: Sweep) -> Path:
    """Return where a sweep's rows are committed; other models than the mini-LLaVA apart."""
    models = {point.model.rstrip("/").rpartition("/")[2] for point in sweep.points} - {"mini"}
    return places.RESULTS / ("-".join([sweep.name, *sorted(models)]) + ".csv")


def known_rows() -> dict[str, Row]:
    """Read all rows that are there, committed or not.

    Returns:
        Rows by key.

    Raises:
        ValueError: Naming a file that was edited or cut short.
    """
    rows = {}
    for path in sorted(places.RESULTS.glob("*.csv")):
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
        RuntimeError: If points failed; each job's notebook is named and holds the errors. Rows
            that were written stay.
        ValueError: If a row that is there was edited or cut short.
    """
    known = known_rows()
    plan = make_plan(sweeps, known, device)
    if plan["jobs"]:
        _snakemake(plan, cores, snakemake)
        known = known_rows()
    keys = {sweep.name: [p.key(weights_of(p.model)) for p in sweep.points] for sweep in sweeps}
    lacking = {name: sum(key not in known for key in own) for name, own in keys.items()}
    if any(lacking.values()):
        logs = [Path(job["notebook"]).with_suffix(".failed.ipynb") for job in plan["jobs"]]
        kept = ", ".join(_shown(log) for log in logs if log.exists()) or "the output above"
        counts = [f"{count} of {name}" for name, count in lacking.items() if count]
        raise RuntimeError(f"points without a row: {', '.join(counts)}; look into {kept}")
    return {name: [known[key] for key in own] for name, own in keys.items()}


def write_tables(sweeps: Sequence[Sweep], rows: dict[str, list[Row]]) -> list[Path]:
    """Write the tables that are committed.

    Returns:
        Their paths.
    """
    for sweep in sweeps:
        write_table(table_of(sweep), rows[sweep.name])
    for point in {p.questions: p for sweep in sweeps for p in sweep.points}.values():
        asked = open_encodings(point.model, point.questions, point.per_family).questions.table
        found = [row for own in rows.values() for row in own]
        write_questions(point.questions, asked, found)
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
    file = places.POINTS.parent / f"plan-{plan['jobs'][0]['name']}.json"  # two may run at once
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(plan, indent=1))
    partial.replace(file)
    for job in plan["jobs"]:
        Path(job["notebook"]).with_suffix(".failed.ipynb").unlink(missing_ok=True)
    count = sum(len(job["rows"]) for job in plan["jobs"])
    print(f"{count} points in {len(plan['jobs'])} jobs", flush=True)
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(GRIDS / "Snakefile"),
        "--directory", str(file.parent), "--config", f"plan={file}", "--cores", str(cores),
        # A job that fails or is killed keeps its rows: each is written whole or not at all.
        "--keep-going", "--keep-incomplete", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "mtime", "--quiet", "rules", "host", *more,
    ]  # fmt: skip
    subprocess.run(command, check=False)


def _shown(path: Path) -> str:
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)
