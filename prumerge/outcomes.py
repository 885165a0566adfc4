"""How a run of a notebook ends: with its final name, or kept aside with the failure in words.

Nothing half-written ever stands under a final name.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat


class RunError(RuntimeError):
    """A notebook stopped before its last cell; the message says where and what is kept."""


def finish(partial: Path, output: Path) -> None:
    """Give a finished notebook its final name and forget an earlier failure.

    Args:
        partial: The finished notebook under its temporary name.
        output: Its final name.
    """
    partial.replace(output)
    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)


def stopped(notebook: Path, partial: Path, output: Path, error: Exception) -> RunError:
    """Keep what a failed run left and put the failure in words.

    Args:
        notebook: Notebook that was run.
        partial: Where the run wrote; moved to ``NAME.failed.ipynb`` beside ``output`` if it is
            there and whole, and taken away if a full disk cut it short.
        output: The name a finished run would have got.
        error: What was raised.

    Returns:
        The error to raise: notebook, code cell, reason, and where the notebook is kept.
    """
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
    """Leave of each widget what a page without a kernel can show: its picture, or its text.

    Args:
        notebook: Executed notebook, changed in place.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


@contextmanager
def told(name: str) -> Iterator[None]:
    """Print a name when work on it starts, and the seconds when it ends.

    Args:
        name: What is being worked on.
    """
    print(f"{name:<28} running", flush=True)
    started, state = time.perf_counter(), "stopped"
    try:
        yield
        state = "done"
    finally:
        print(f"{name:<28} {state} after {time.perf_counter() - started:.1f} s", flush=True)
