"""The folders of the workbook by name, so that no notebook needs a relative path.

nbval and JupyterLab run a notebook in its own folder, papermill in the caller's: a relative path
works under one of them only.
"""

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
