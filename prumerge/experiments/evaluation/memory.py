"""The most memory that a part of a run held."""

import contextlib
import gc
import re
import sys
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    """Begin anew, where the system can: on CUDA devices, and on Linux."""
    gc.collect()  # a model and its reducer hold on to each other
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _RESET.write_text("5")


def peak_mib(device: str) -> float:
    """Return the most memory held since :func:`reset_peak`, in MiB.

    Of tensors on a GPU, else of the process, libraries included; outside of Linux since its start.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return psutil.Process().memory_info().peak_wset / 2**20
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
