"""The reduction against loops, the encoder and its inputs: benchmarks run, rows written, a table.

python -m prumerge.timing.bench --device cuda
python -m prumerge.timing.bench --rows mine.csv -k encoder

The benchmarks are pytest's, in ``tests/speed`` of a clone; other options go to pytest.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from prumerge.experiments.rows import provenance
from prumerge.experiments.timing.runs import write_rows
from prumerge.experiments.timing.tables import BENCH, encoder_shares, reduction_times
from prumerge.models.checks import needs
from prumerge.models.loading import check_device, find_precision
from prumerge.paths import ROOT, RUNS

with needs("notebooks", "test"):
    import pandas as pd
    import pytest_benchmark  # noqa: F401  # pytest needs it for the options below

SPEED = ROOT / "tests/speed/test_speed.py"


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line and say where rows go; what is not known here is left for pytest."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.timing.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", help="by default float32 on a CPU and bfloat16 elsewhere")
    told = "CSV file; by default data/results/bench/reduction-cpu.csv, for a part in data/runs"
    parser.add_argument("--rows", type=Path, help=told)
    chosen, for_pytest = parser.parse_known_args(arguments)
    part = bool(for_pytest) or (chosen.device, chosen.dtype) != ("cpu", None)
    chosen.rows = chosen.rows or rows_file(chosen.device, part)
    return chosen, for_pytest


def rows_file(device: str, part: bool) -> Path:
    """Return where rows go: those of a part, or in another precision, never over the usual."""
    return (RUNS if part else BENCH) / f"reduction-{device.partition(':')[0]}.csv"


def run(raw: Path, arguments: list[str]) -> int:
    """Run the benchmarks under pytest, without the type checks that tests add to every call."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", str(SPEED), "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={raw}"]
    return subprocess.run([*command, *arguments], cwd=ROOT).returncode


def rows_of(raw: Path, device: str) -> pd.DataFrame:
    """Read pytest-benchmark's file: one row per benchmark, times in ms."""
    rows = []
    for found in json.loads(raw.read_text())["benchmarks"]:
        stats = {name: 1e3 * found["stats"][name] for name in ("min", "median", "q1", "q3")}
        times = {f"{name}_ms": value for name, value in stats.items()}
        usual = {"patches": 576, "width": 1024, "budget": None, "compile_s": None}
        rows.append(usual | found["extra_info"] | times | {"rounds": found["stats"]["rounds"]})
    return pd.DataFrame(rows).assign(**provenance(device))


def main(arguments: list[str] | None = None) -> int:
    """Run, write the rows, print the table."""
    chosen, for_pytest = parse(arguments)
    try:
        if not SPEED.exists():
            raise ValueError(f"no benchmarks at {SPEED}: run this from a clone of the repository")
        check_device(chosen.device)
        precision = str(find_precision(chosen.dtype, chosen.device)).removeprefix("torch.")
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    raw = RUNS / "bench.json"
    options = [f"--device={chosen.device}", f"--dtype={precision}"]
    if status := run(raw, [*options, *for_pytest]):
        return status
    rows = rows_of(raw, chosen.device)
    write_rows(rows, chosen.rows)
    for table in (reduction_times(rows).round(1), encoder_shares(rows).round(3)):
        if len(table):
            print(table.to_string(na_rep="-"))
    print(f"rows: {chosen.rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
