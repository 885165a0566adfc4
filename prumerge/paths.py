"""The folders of the workbook by name, so that no notebook needs a relative path.

nbval and JupyterLab run a notebook in its own folder, papermill in the caller's: a relative path
works under one of them only.
"""

import contextlib
import os
from collections.abc import Iterator
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

TOWERS = DATA / "towers"
"""Pretrained vision towers, converted from packages; not committed."""

POCKET = DATA / "pocket"
"""The LLaVA behind a pretrained tower: all but the tower's weights."""

MINI_VIDEO = DATA / "mini-video"
"""The Video-LLaVA made of the mini-LLaVA: all but the tower's weights."""

MINI_NEXT = DATA / "mini-next"
"""The mini-LLaVA tuned as a LLaVA-NeXT: all but the tower's weights."""

EMBEDDED = {"mini": MINI, "pocket": POCKET, "mini-video": MINI_VIDEO, "mini-next": MINI_NEXT}
"""Folders of the models that come with the repository, by the names they are loaded by."""


def folder_of(name: str | Path) -> Path:
    """Return the folder of a model by name, ``@revision`` aside: an embedded one's, or the path.

    Example:
        >>> folder_of("mini").name, folder_of("models/own").name
        ('mini-llava', 'own')
    """
    embedded = EMBEDDED.get(str(name).partition("@")[0])
    return Path(name) if embedded is None else embedded


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path, which gets its name at the end.

    Folders are made. On an error the file stays as it was, and the temporary one is taken away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
