"""Write the report from the shell."""

import argparse
import sys
from pathlib import Path

from prumerge.paths import RUNS
from prumerge.workbook.report import write_site


def main(arguments: list[str] | None = None) -> int:
    """Write the site and say where it starts; 1 when a notebook cannot be shown."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.report", description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+", help="executed notebooks, in order")
    parser.add_argument("--to", type=Path, default=RUNS / "report", help="folder of the site")
    chosen = parser.parse_args(arguments)
    try:
        print(f"report: {write_site(chosen.notebooks, chosen.to)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
