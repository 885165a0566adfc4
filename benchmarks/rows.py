"""Benchmarks to rows and a table: ``python benchmarks/rows.py`` runs them all first."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from prumerge.paths import ROOT, RUNS
from prumerge.provenance import provenance
from prumerge.timing.runs import write_rows
from prumerge.timing.tables import BENCH, reduction_times

HERE = Path(__file__).parent
ROWS = BENCH / "reduction-cpu.csv"


def run(raw: Path, arguments: list[str]) -> int:
    """Run the benchmarks under pytest, without the type checks that tests add to every call."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", str(HERE / "test_speed.py"), "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={raw}"]
    return subprocess.run([*command, *arguments], cwd=ROOT).returncode


def rows_of(raw: Path) -> pd.DataFrame:
    """Read pytest-benchmark's file: one row per benchmark, times in ms."""
    rows = []
    for found in json.loads(raw.read_text())["benchmarks"]:
        stats = {name: 1e3 * found["stats"][name] for name in ("min", "median", "q1", "q3")}
        times = {f"{name}_ms": value for name, value in stats.items()}
        usual = {"patches": 576, "width": 1024, "budget": None}
        rows.append(usual | found["extra_info"] | times | {"rounds": found["stats"]["rounds"]})
    return pd.DataFrame(rows).assign(**provenance())


def main(arguments: list[str]) -> int:
    """Run, write the rows, print the table."""
    raw = RUNS / "bench.json"
    if status := run(raw, arguments):
        return status
    rows = rows_of(raw)
    write_rows(rows, ROWS)
    print(reduction_times(rows).round(1).to_string(na_rep="-"))
    encoder = rows[rows["what"].str.startswith("encoder")].set_index("what")["min_ms"]
    if len(encoder) == 2:
        share = encoder["encoder_reduced"] / encoder["encoder_stock"]
        print(f"encoder with PruMerge+ attached, against without: {share:.3f} of the time")
    print(f"rows: {ROWS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
