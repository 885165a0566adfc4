"""Where the data sets of the real benchmarks are: a local folder if there is one, else the hub.

``PRUMERGE_DATA`` names a folder of snapshots, one per data set and named like it, as made by
``hf download --repo-type dataset lmms-lab-encoder/POPE --local-dir $PRUMERGE_DATA/POPE``.
The task files name them by constants, ``POPE`` and ``POPE_OPTIONS`` and so on.
"""

import hashlib
import os
from pathlib import Path

OWNER = "lmms-lab-encoder"
FOLDER_VARIABLE = "PRUMERGE_DATA"
REAL_PREFIX = "prumerge_"
"""How the names of the real tasks begin."""


def source(name: str) -> str:
    """Find a data set.

    Args:
        name: Of the hub's repository, without owner.

    Returns:
        Its snapshot in the folder that ``PRUMERGE_DATA`` names, or its hub id when that variable
        is not set.

    Raises:
        ValueError: If the variable is set and the folder holds no such snapshot.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return f"{OWNER}/{name}"
    snapshot = Path(folder).resolve() / name
    if not any(snapshot.rglob("*.parquet")):
        raise ValueError(
            f"{FOLDER_VARIABLE} is {folder}, but {snapshot} holds no Parquet file: {command(name)}"
        )
    return str(snapshot)


def command(name: str) -> str:
    """Return what fetches a data set to where :func:`source` looks for it."""
    folder = os.environ.get(FOLDER_VARIABLE)
    place = Path(folder).resolve() if folder else f"${FOLDER_VARIABLE}"
    return f"hf download --repo-type dataset {OWNER}/{name} --local-dir {place}/{name}"


REPOSITORIES = {
    "VQAV2": "VQAv2",
    "SCIENCEQA": "ScienceQA",
    "TEXTVQA": "textvqa",
    "POPE": "POPE",
    "MME": "MME",
    "MMBENCH": "MMBench",
}


def options(name: str) -> dict[str, str]:
    """Return how the ``datasets`` library is to load a data set.

    Its cache knows a folder by its last name alone: without a place of its own in that cache, a
    changed snapshot, or another folder's of the same name, would be answered with the old rows.

    Args:
        name: Of the hub's repository.

    Returns:
        Keyword arguments; none for the hub, whose revisions tell data apart.
    """
    folder = Path(source(name))
    if not folder.is_absolute():
        return {}
    from datasets import config  # takes a second to import, and preflight does without

    seen = hashlib.sha256(str(folder).encode())
    for file in sorted(folder.rglob("*.parquet")):
        state = file.stat()
        seen.update(f"{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns}".encode())
    return {"cache_dir": str(Path(config.HF_DATASETS_CACHE) / f"prumerge-{seen.hexdigest()[:16]}")}


def __getattr__(constant: str) -> str | dict[str, str]:
    # Looked up when a task is loaded, so that a missing snapshot stops that task alone.
    name = constant.removesuffix("_OPTIONS")
    if name not in REPOSITORIES:
        raise AttributeError(f"module {__name__!r} has no attribute {constant!r}")
    return source(REPOSITORIES[name]) if name == constant else options(REPOSITORIES[name])
