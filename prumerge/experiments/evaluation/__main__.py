"""``python -m prumerge.evaluation``: evaluate, or tell beforehand what a run needs.

python -m prumerge.evaluation method=prumerge+ --tasks mini --rows rows.csv
python -m prumerge.evaluation --compare full release release@64 --tasks mini --save data/runs/mine
python -m prumerge.evaluation --preflight pretrained=llava-hf/llava-1.5-7b-hf --tasks real
"""

import argparse
import contextlib
import hashlib
import sys
from pathlib import Path
from typing import Any

from prumerge.experiments.arguments import named_values
from prumerge.experiments.evaluation.options import FULL, read
from prumerge.experiments.processes import process_group_ended
from prumerge.models.checks import needs
from prumerge.paths import RUNS

with needs("eval"):
    import pandas as pd

    from prumerge.experiments.rows import read_csv, write_csv

SHOWN = "label task metric value low high constant unit items".split()
SHOWN += "value_llava neither tokens_mean tokens_min tokens_max images_per_s".split()
STATES = {True: "ready", False: "MISSING", None: "-"}


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line; ``name=value`` are arguments of the model."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.evaluation")
    parser.add_argument("model", nargs="*", metavar="name=value", help="such as method=prumerge+")
    parser.add_argument("--tasks", nargs="+", default=["mini"], help="names, mini, mini_full, real")
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="METHOD[@TOKENS][:SETTING=VALUE,...]",
        help="evaluate several methods; without names: full tokens, the readings, two rivals",
    )
    parser.add_argument("--save", type=Path, help="folder for the compared rows and answers")
    parser.add_argument("--limit", type=int, help="questions per task")
    parser.add_argument("--rows", type=Path, help="CSV file to add the rows to")
    parser.add_argument("--preflight", action="store_true", help="only tell what is missing")
    parser.add_argument("--hardware", default="H100", help="card the length is estimated for")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        model = named_values(chosen.model)
    except ValueError as error:
        parser.error(str(error))
    if chosen.compare is not None and "method" in model:
        parser.error("name methods either by method= or behind --compare")
    if chosen.save and chosen.compare is None:
        parser.error("--save goes with --compare; --rows adds the rows of one method to a file")
    return chosen, model


def add_rows(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a CSV file, complete or not at all."""
    if path.exists():
        rows = pd.concat([read_csv(path), rows], ignore_index=True)
    write_csv(rows, path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 when a run could not be made, or when preflight misses something."""
    chosen, model = parse(arguments)
    try:
        if chosen.preflight:
            return _tell(chosen, model)
        _check_places(chosen)
        rows = _rows(chosen, model)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"evaluation: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    if len(rows):
        shown = [name for name in SHOWN if name in rows]
        print(rows[shown].round(2).to_string(index=False))
        if chosen.rows:
            add_rows(chosen.rows, rows)
    return 0


def _check_places(chosen: argparse.Namespace) -> None:
    """Refuse places for results before anything is asked, not when all is answered."""
    if chosen.rows and chosen.rows.is_dir():
        raise ValueError(f"--rows {chosen.rows} is a folder: name a CSV file in it")
    for folder in filter(None, (chosen.save, chosen.rows and chosen.rows.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} is no folder to save into: {error}") from error


def _rows(chosen: argparse.Namespace, model: dict[str, Any]) -> pd.DataFrame:
    from prumerge.experiments.evaluation.comparison import COMPARED, compare, evaluate

    if chosen.compare is None:
        return evaluate(chosen.tasks, chosen.limit, **model)[0]
    folder, labels = None, chosen.compare or COMPARED
    if chosen.save and "answers" not in model:
        # A killed comparison goes on from here; a finished one needs it no more.
        folder = journal_of(chosen.save)
        run = _hash(labels, chosen.tasks, chosen.limit, sorted(model.items()))
        model = model | {"answers": str(folder), "run": run}
    rows, _ = compare(labels, chosen.tasks, chosen.limit, chosen.save, **model)
    if folder and len(rows):  # the process that saved
        for own in folder.glob(f"{run}-*.jsonl"):
            own.unlink()
        with contextlib.suppress(OSError):  # another run's answers are there
            folder.rmdir()
    return rows


def journal_of(save: Path) -> Path:
    """Return the folder in which answers are kept until the comparison in ``save`` is done."""
    place = save.resolve()
    return RUNS / "evaluation" / f"{place.name}-{_hash(str(place))}"


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _tell(chosen: argparse.Namespace, model: dict[str, Any]) -> int:
    from prumerge.experiments.evaluation.comparison import COMPARED, method_of
    from prumerge.experiments.evaluation.preflight import preflight

    if chosen.compare is None:
        methods = {model.get("method", FULL): read(model)}
    else:
        labels = chosen.compare or COMPARED
        methods = {label: read(model | method_of(label)) for label in labels}
    findings = preflight(methods, chosen.tasks, chosen.limit, chosen.hardware)
    for finding in findings:
        print(f"{STATES[finding.ready]:<8}{finding.need:<36}{finding.note}")
    missing = sum(finding.ready is False for finding in findings)
    print(f"{missing} missing" if missing else "nothing is missing")
    return int(missing > 0)


if __name__ == "__main__":
    with needs("eval"), process_group_ended():
        sys.exit(main())
