"""Execute copies of notebooks with other parameters.

papermill does the running. Added here are a refusal of parameters that the notebook does not
declare (papermill only prints a line and runs the defaults), and a final name that only a finished
run gets. Shell: ``python -m prumerge.runs NOTEBOOK OUTPUT [--figures] [-p NAME VALUE]...``
"""

import argparse
import ast
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from prumerge.outcomes import RunError, finish, stopped, told

KERNEL = "python3"


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Read which parameters a notebook has.

    Args:
        notebook: Notebook with one cell tagged ``parameters``.

    Returns:
        Default by name, in the order of the cell. A default that is no literal stays source text.

    Raises:
        ValueError: If no notebook is there.
    """
    if not Path(notebook).is_file():
        raise ValueError(f"there is no notebook {notebook}")
    declared = papermill.inspect_notebook(str(notebook))
    return {name: _literal(entry["default"]) for name, entry in declared.items()}


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that would silently change nothing.

    Args:
        notebook: Notebook with one cell tagged ``parameters``.
        parameters: Values by name, as they are to be handed to the notebook.

    Raises:
        ValueError: If a name is not declared in the notebook, or if text is given where the
            default is a number (YAML reads ``1e-3`` as text; ``1.0e-3`` is a number).
    """
    declared = declared_parameters(notebook)
    for name, value in parameters.items():
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(sorted(declared)) or "none"
            raise ValueError(f"{notebook.name} has no parameter {name!r}: {hint}it has {names}")
        number = type(declared[name]) in (int, float)
        if number and isinstance(value, str):
            raise ValueError(f"{name}={value!r} is text where {notebook.name} wants a number")


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
        ValueError: If there is no notebook, or :func:`check_parameters` refuses a parameter.
        RunError: If a cell fails or takes longer than ``timeout_s``.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    check_parameters(notebook, parameters or {})
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            dict(parameters or {}),
            cwd=str(notebook.parent),
            kernel_name=KERNEL,
            progress_bar=False,
            execution_timeout=timeout_s,
        )
    except Exception as error:
        raise stopped(notebook, partial, output, error) from error
    finish(partial, output)
    return output


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


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
    parameters = {name: _literal(text) for name, text in chosen.p}
    try:
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
