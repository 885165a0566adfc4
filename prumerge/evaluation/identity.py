"""Names for weights, so that a result can be told from one of other weights."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prumerge.evaluation.random_model import RANDOM, SEED
from prumerge.paths import MINI

_LARGE_BYTES, _PART_BYTES = 1 << 30, 4 << 20


def fingerprint(pretrained: str, model: Any) -> str:
    """Name the weights, so that a result can be told from one of other weights.

    Args:
        pretrained: As given to :func:`prumerge.models.load`.
        model: The loaded model.

    Returns:
        The hub's commit; for a folder a hash of its weight files (of files above a gibibyte: of
        name, size, time, begin, middle and end); for random weights their seed.

    Raises:
        ValueError: If the folder holds no weight file.
    """
    if pretrained in RANDOM:
        return f"random, seed {SEED}"
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return commit
    folder = MINI if pretrained.partition("@")[0] == "mini" else Path(pretrained)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no weights to tell apart: no *.safetensors, no *.bin")
    seen = hashlib.sha256()
    for file in files:
        seen.update(f"{file.name} {file.stat().st_size}\n".encode())
        for part in _read(file):
            seen.update(part)
    return seen.hexdigest()[:12]


def _read(file: Path) -> Iterator[bytes]:
    """Yield a file, or, of a large one, when it was written and parts of it."""
    state = file.stat()
    if state.st_size < _LARGE_BYTES:
        yield file.read_bytes()
        return
    yield str(state.st_mtime_ns).encode()
    with file.open("rb") as opened:
        for place in (0, state.st_size // 2, state.st_size - _PART_BYTES):
            opened.seek(place)
            yield opened.read(_PART_BYTES)
