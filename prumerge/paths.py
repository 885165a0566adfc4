"""The folders of the workbook by name, so that no notebook needs a relative path.

nbval and JupyterLab run a notebook in its own folder, papermill in the caller's: a relative path
works under one of them only.
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository: everything below is found from here."""

NOTEBOOKS = ROOT / "notebooks"
"""Executed notebooks, outputs committed."""

FIGURES = ROOT / "figures"
"""Pictures, each written by the notebook that bears the same number."""

DATA = ROOT / "data"
"""Inputs, the mini-LLaVA, printed tables and result rows."""

RESULTS = DATA / "results"
"""Tidy tables, one row per run."""

RUNS = DATA / "runs"
"""Executed copies of notebooks; not committed."""

MINI = DATA / "mini-llava"
"""The trained mini-LLaVA: weights, config, tokenizer, processor, model card."""


def rows_place(parser: argparse.ArgumentParser, chosen: argparse.Namespace, usual: Path) -> Path:
    """Return where a command writes its rows: only a run with the defaults among the committed.

    That is ``chosen.rows``, or ``usual``, a place in ``data/results``, or the same place in
    ``data/runs`` if any argument is not the parser's default.
    """
    if chosen.rows is not None:
        return chosen.rows
    given = {name: value for name, value in vars(chosen).items() if name != "rows"}
    defaults = all(_same(value, parser.get_default(name)) for name, value in given.items())
    return usual if defaults else RUNS / usual.relative_to(RESULTS)


def _same(value: object, default: object) -> bool:
    return list(value) == list(default) if isinstance(value, list | tuple) else value == default
