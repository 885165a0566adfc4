"""Execute copies of notebooks with other parameters.

papermill does the running. Added here are the check of parameters before anything starts, and a
final name that only a finished run gets. Shell:
``python -m prumerge.runs NOTEBOOK OUTPUT [--figures] [-p NAME VALUE]...``
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prumerge.extras import needs

with needs("notebooks"):
    import papermill

    from prumerge.outcomes import RunError, finish, stopped, told
    from prumerge.parameters import check_parameters, declared_parameters, read_texts

KERNEL = "python3"


def run_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout_s: int | None = None,
) -> Path:
    """Execute a copy of a notebook with other parameters.

    The kernel works in the notebook's own folder. The copy grows under a temporary name and gets
    its final one when the last cell has run; a run that fails leaves ``NAME.failed.ipynb`` with
    the error in place, and a file of the final name stays as it was.

    Args:
        notebook: Notebook to execute; it is not changed.
        output: Where the executed copy goes; folders are made.
        parameters: Values by name for the cell tagged ``parameters``; the rest keep defaults.
        timeout_s: Longest time one cell may take, in seconds; None sets no limit.

    Returns:
        ``output``.

    Raises:
        ValueError: If there is no notebook, or a parameter is refused; see
            :func:`prumerge.parameters.check_parameters`.
        RunError: If a cell fails or takes longer than ``timeout_s``.
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
        )
    except Exception as error:
        raise stopped(notebook, partial, output, error) from error
    finish(partial, output)
    return output


def main(arguments: list[str] | None = None) -> int:
    """Run one notebook from the shell.

    Args:
        arguments: Command line; None takes the process's own.

    Returns:
        Exit status: 0, or 1 when the notebook failed or a parameter was refused.
    """
    parser = argparse.ArgumentParser(prog="python -m prumerge.runs", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--figures", action="store_true", help="set save_figures, where declared")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    chosen = parser.parse_args(arguments)
    try:
        parameters = read_texts(chosen.notebook, dict(chosen.p))
        if chosen.figures and "save_figures" in declared_parameters(chosen.notebook):
            parameters.setdefault("save_figures", True)
        with told(chosen.notebook.stem):
            run_notebook(chosen.notebook, chosen.output, parameters)
    except (RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
