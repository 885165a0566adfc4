"""Execute notebooks in place with their defaults, and clean them for committing.

A committed notebook shows outputs and counts 1 to n, and nothing that differs from machine to
machine: times, versions, paths. Shell: ``python -m prumerge.record NOTEBOOK...``, under the
variables of ``.ci/env.sh`` that the check uses too (``make record``).
"""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

from prumerge.models.checks import needs

with needs("notebooks"):
    import nbclient
    import nbformat

    from prumerge.workbook.runs import KERNEL, RunError, drop_widgets, finish, stopped, told

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL}
# What a cleaned notebook keeps is what nbval compares: outputs, counts, cell ids, tags.
CLEAN = (
    "--keep-output",
    "--keep-count",
    "--keep-id",
    "--extra-keys=metadata.language_info.version",
)


def record_notebook(notebook: Path) -> Path:
    """Execute and clean a notebook in place; a failure goes to ``NAME.failed.ipynb`` instead."""
    notebook = Path(notebook).resolve()
    partial = notebook.with_suffix(".partial.ipynb")
    document = nbformat.read(notebook, as_version=4)
    document.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC})
    for cell in document.cells:
        if cell.cell_type == "code":  # a run that stops must not show what an earlier one left
            cell.update(execution_count=None, outputs=[])
    client = nbclient.NotebookClient(
        document,
        kernel_name=KERNEL,
        resources={"metadata": {"path": str(notebook.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:
        client.execute()
        drop_widgets(document)
        nbformat.write(document, partial)
        subprocess.run([sys.executable, "-m", "nbstripout", *CLEAN, str(partial)], check=True)
    except Exception as error:
        with contextlib.suppress(OSError):
            nbformat.write(document, partial)
        raise stopped(notebook, partial, notebook, error) from error
    finish(partial, notebook)
    return notebook


def main(arguments: list[str] | None = None) -> int:
    """Record notebooks one after another; 1 when one failed, those before it being recorded."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.record", description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+")
    try:
        for notebook in parser.parse_args(arguments).notebooks:
            with told(notebook.stem):
                record_notebook(notebook)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
