"""Where a result comes from: device, versions and time, for every row and checkpoint."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

import prumerge


def provenance(device: str = "cpu") -> dict[str, str]:
    """Return what a reader needs to know about the machine that computed a result.

    Args:
        device: Where it was computed, such as ``cpu`` or ``cuda``.

    Returns:
        Device name, day (UTC) and the versions of Python, torch, transformers and prumerge.
    """
    if str(device).startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return {
        "device": name,
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "prumerge": version(prumerge.__name__),
    }
