"""Execute copies of notebooks with other parameters.

papermill does the running. Added here are the check of parameters before anything starts, and how
a run ends: with a final name that only a finished one gets, or kept aside with the failure in
words. Shell:
``python -m prumerge.runs NOTEBOOK OUTPUT [--figures [svg|pdf]] [-p NAME VALUE]...``
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prumerge.models.checks import needs

with needs("notebooks"):
    import nbformat
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    from prumerge.experiments.parameters import (
        VECTOR,
        check_parameters,
        declared_parameters,
        read_texts,
    )

KERNEL = "python3"


class RunError(RuntimeError):
    """A notebook stopped before its last cell; the message says where and what is kept."""


def run_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout_s: int | None = None,
    kernel: AsyncKernelManager | None = None,
) -> Path:
    """Execute a copy of a notebook with other parameters; return ``output``.

    The kernel works in the notebook's own folder. The copy grows under a temporary name and gets
    its final one when the last cell has run. One that fails, or has a cell of more than
    ``timeout_s`` seconds, is a :class:`RunError`; it leaves ``NAME.failed.ipynb`` with the error in
    place, and a file of the final name stays as it was. ``kernel`` is started where it is not yet
    running and stays; without one the run has its own. A ValueError is a parameter that
    :func:`prumerge.experiments.parameters.check_parameters` refuses.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    values = check_parameters(notebook, parameters or {})
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            values,
            cwd=str(notebook.parent),
            kernel_name=KERNEL,
            progress_bar=False,
            execution_timeout=timeout_s,
            km=kernel,
        )
    except Exception as error:
        raise stopped(notebook, partial, output, error) from error
    finish(partial, output)
    return output


def finish(partial: Path, output: Path) -> None:
    """Give a finished notebook its final name and forget an earlier failure."""
    partial.replace(output)
    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)


def stopped(notebook: Path, partial: Path, output: Path, error: Exception) -> RunError:
    """Keep what a failed run left, if it is there and whole, and put the failure in words."""
    reason = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
    kept = ""
    if (cells := _readable(partial)) is None:
        kept = "; what it had written was cut short and is not kept"
        partial.unlink()
    elif cells:
        failed = partial.replace(output.with_suffix(".failed.ipynb"))
        count = max((c.execution_count or 0 for c in cells if c.cell_type == "code"), default=0)
        kept = f" in cell [{count}]; as far as it got: {_shown(failed)}"
    return RunError(f"{notebook.name} stopped{kept}\n  {reason.strip()}")


def _readable(partial: Path) -> list[nbformat.NotebookNode] | None:
    """Return a notebook's cells: none where there is no file, None where it was cut short."""
    try:
        return nbformat.read(partial, as_version=4).cells if partial.exists() else []
    except (ValueError, OSError):  # nbformat's error is a ValueError
        return None


def _shown(path: Path) -> str:
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def drop_widgets(notebook: nbformat.NotebookNode) -> None:
    """Leave of each widget what a page without a kernel can show: its picture, or its text."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Print a name when work on it starts, and the seconds when it ends."""
    print(f"{name:<28} running", flush=True)
    started, state = time.perf_counter(), "stopped"
    try:
        yield
        state = "done"
    finally:
        print(f"{name:<28} {state} after {time.perf_counter() - started:.1f} s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one notebook from the shell; 1 when it failed or a parameter was refused."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.runs", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    figures = "set save_figures, where declared; a vector format goes to data/runs/figures"
    parser.add_argument("--figures", nargs="?", const=True, choices=VECTOR, help=figures)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    chosen = parser.parse_args(arguments)
    try:
        parameters = read_texts(chosen.notebook, dict(chosen.p))
        if chosen.figures and "save_figures" in declared_parameters(chosen.notebook):
            parameters.setdefault("save_figures", chosen.figures)
        with told(chosen.notebook.stem):
            run_notebook(chosen.notebook, chosen.output, parameters)
    except (RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
