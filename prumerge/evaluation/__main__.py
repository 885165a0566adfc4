"""``python -m prumerge.evaluation``: evaluate, or tell beforehand what a run needs.

python -m prumerge.evaluation method=prumerge+ --tasks mini --rows rows.csv
python -m prumerge.evaluation --preflight pretrained=llava-hf/llava-1.5-7b-hf --tasks real
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from prumerge.evaluation.options import read

SHOWN = ["task", "metric", "value", "unit", "items", "tokens_mean", "tokens_min", "tokens_max"]
STATES = {True: "ready", False: "MISSING", None: "-"}


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line; ``name=value`` are arguments of the model."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.evaluation")
    parser.add_argument("model", nargs="*", metavar="name=value", help="such as method=prumerge+")
    parser.add_argument("--tasks", nargs="+", default=["mini"], help="names, mini, or real")
    parser.add_argument("--limit", type=int, help="questions per task")
    parser.add_argument("--rows", type=Path, help="CSV file to add the rows to")
    parser.add_argument("--preflight", action="store_true", help="only tell what is missing")
    parser.add_argument("--hardware", default="H100", help="card the length is estimated for")
    chosen = parser.parse_intermixed_args(arguments)
    pairs = [text.partition("=") for text in chosen.model]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        parser.error(f"{wrong[0]!r} is no name=value")
    return chosen, {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def add_rows(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a CSV file, complete or not at all."""
    if path.exists():
        rows = pd.concat([pd.read_csv(path), rows], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    rows.to_csv(partial, index=False, lineterminator="\n")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 1 when a run could not be made, or when preflight misses something.
    """
    chosen, model = parse(arguments)
    try:
        if chosen.preflight:
            return _tell(chosen, model)
        from prumerge.evaluation.runs import evaluate

        rows, _ = evaluate(chosen.tasks, chosen.limit, **model)
    except (ValueError, RuntimeError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 1
    if len(rows):
        print(rows[SHOWN].round(2).to_string(index=False))
        if chosen.rows:
            add_rows(chosen.rows, rows)
    return 0


def _tell(chosen: argparse.Namespace, model: dict[str, Any]) -> int:
    from prumerge.evaluation.preflight import preflight
    from prumerge.evaluation.runs import task_manager, tasks_named

    names = tasks_named(chosen.tasks, task_manager())
    findings = preflight(read(model), names, chosen.limit, chosen.hardware)
    for finding in findings:
        print(f"{STATES[finding.ready]:<8}{finding.need:<36}{finding.note}")
    missing = sum(finding.ready is False for finding in findings)
    print(f"{missing} missing" if missing else "nothing is missing")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
