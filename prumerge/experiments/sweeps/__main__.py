"""Shell of the sweeps: ``python -m prumerge.sweeps neighbours weights``.

NAME...                 run committed grids, or YAML files of your own
choosing, reporting     those before and those after the preset ``tuned`` is chosen
tuned                   choose it from the committed rows; tell what changed
leaderboard --budget N  every method at one budget, with intervals, in one handling:
                        --order raster --positions original, unless another is named
"""

import argparse
import shlex
import sys
import time

from prumerge.models.checks import needs

with needs("notebooks", "sweep"):
    from prumerge.experiments.sweeps import grids, leaderboard
    from prumerge.experiments.sweeps.handling import EQUAL
    from prumerge.experiments.sweeps.run import run_sweeps, write_tables


def main(arguments: list[str] | None = None) -> int:
    """Run sweeps from the shell; the exit status is 1 when something was refused or failed."""
    parser = argparse.ArgumentParser(
        prog="python -m prumerge.sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--budget", type=int, default=64, help="of the leaderboard")
    for name, value in EQUAL.items():
        parser.add_argument(f"--{name}", default=value, help="of the leaderboard")
    parser.add_argument("--model", help="instead of the grid's: a folder or hub id")
    parser.add_argument("--per-family", type=int, help="questions of each family")
    parser.add_argument("--module", default="", help="file with a method of your own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cores", type=int, default=2, help="jobs at a time")
    parser.add_argument(
        "--snakemake",
        default="",
        help='more for Snakemake: --snakemake="--executor slurm --jobs 8"',
    )
    chosen = parser.parse_args(arguments)
    named = {"model": chosen.model, "per_family": chosen.per_family}
    overrides = {name: value for name, value in named.items() if value is not None}
    options = {
        "cores": chosen.cores,
        "device": chosen.device,
        "snakemake": shlex.split(chosen.snakemake),
    }
    started = time.perf_counter()
    try:
        _run(chosen, overrides, options)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    print(f"done in {time.perf_counter() - started:.0f} s")
    return 0


def _run(chosen: argparse.Namespace, overrides: dict, options: dict) -> None:
    if chosen.names == ["leaderboard"]:
        handling = {name: getattr(chosen, name) for name in EQUAL}
        found = leaderboard.run(chosen.budget, chosen.module, overrides, options, handling)
        print(found.to_string())
    elif chosen.names == ["tuned"]:
        print(leaderboard.update())
    else:
        groups = {"reporting": grids.REPORTING}
        groups["choosing"] = [name for name in grids.names() if name not in grids.REPORTING]
        names = [own for name in chosen.names for own in groups.get(name, [name])]
        sweeps = [grids.read_sweep(name, **overrides) for name in names]
        rows = run_sweeps(sweeps, **options)
        for table in write_tables(sweeps, rows):
            print(f"rows: {table}")


if __name__ == "__main__":
    with needs("notebooks", "sweep"):
        sys.exit(main())
