"""Names for weights, so that a result can be told from one of other weights."""

import hashlib
from pathlib import Path
from typing import Any

from prumerge.evaluation.random_model import RANDOM, SEED
from prumerge.paths import MINI

_UNSHORTENED_FINGERPRINT_BYTES = 1 << 30


def fingerprint(pretrained: str, model: Any) -> str:
    """Name the weights, so that a result can be told from one of other weights.

    Args:
        pretrained: As given to :func:`prumerge.models.load`.
        model: The loaded model.

    Returns:
        The hub's commit; for a folder a hash of its weight files (of names and sizes alone where
        they exceed a gibibyte); for random weights their seed.
    """
    if pretrained in RANDOM:
        return f"random, seed {SEED}"
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return commit
    folder = MINI if pretrained.partition("@")[0] == "mini" else Path(pretrained)
    files = sorted(folder.glob("*.safetensors"))
    seen = hashlib.sha256()
    for file in files:
        seen.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.stat().st_size < _UNSHORTENED_FINGERPRINT_BYTES:
            seen.update(file.read_bytes())
    return seen.hexdigest()[:12]
