"""Where the data sets of the real benchmarks are: a local folder if there is one, else the hub.

``PRUMERGE_DATA`` names a folder of snapshots, one per data set and named like it, as made by
``hf download --repo-type dataset lmms-lab-encoder/POPE --local-dir $PRUMERGE_DATA/POPE``.
The task files name the constants below.
"""

import os
from pathlib import Path

OWNER = "lmms-lab-encoder"
FOLDER_VARIABLE = "PRUMERGE_DATA"


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
            f"{FOLDER_VARIABLE} is {folder}, but {snapshot} holds no Parquet file: "
            f"hf download --repo-type dataset {OWNER}/{name} --local-dir {snapshot}"
        )
    return str(snapshot)


REPOSITORIES = {
    "VQAV2": "VQAv2",
    "SCIENCEQA": "ScienceQA",
    "TEXTVQA": "textvqa",
    "POPE": "POPE",
    "MME": "MME",
    "MMBENCH": "MMBench",
}


def __getattr__(constant: str) -> str:
    # Looked up when a task is loaded, so that a missing snapshot stops that task alone.
    if constant in REPOSITORIES:
        return source(REPOSITORIES[constant])
    raise AttributeError(f"module {__name__!r} has no attribute {constant!r}")
