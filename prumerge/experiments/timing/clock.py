"""Time and memory of one call: warm-up, synchronised, median with spread; the most it holds."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile


@dataclasses.dataclass(frozen=True)
class Spread:
    """Quartiles of repeats, and the quickest: on a busy machine the nearest to the call alone."""

    median_ms: float
    low_ms: float
    high_ms: float
    min_ms: float
    repeats: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Spread":
        """Summarise the times of single calls, at least one."""
        low, median, high = np.quantile(times_ms, [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high, min(times_ms), len(times_ms))


def elapsed_ms(call: Callable[[], Any], device: str = "cpu") -> float:
    """Return how long one call takes: until its device has finished, not been asked."""
    synchronise(device)
    start = time.perf_counter()
    finished(call, device)()
    return 1e3 * (time.perf_counter() - start)


def finished(call: Callable[[], Any], device: str = "cpu") -> Callable[[], Any]:
    """Make a call return only when its device has done the work."""

    def called() -> Any:
        result = call()
        synchronise(device)
        return result

    return called


def measure(
    call: Callable[[], Any], device: str = "cpu", repeats: int = 5, warm_ups: int = 1
) -> Spread:
    """Time a call at least once, after ``warm_ups`` that fill caches and choose kernels.

    Example:
        >>> spread = measure(lambda: time.sleep(0.001), repeats=3)
        >>> spread.repeats, spread.min_ms > 1
        (3, True)
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    for _ in range(warm_ups):
        call()
    return Spread.of([elapsed_ms(call, device) for _ in range(repeats)])


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was asked; nothing to wait for on a CPU."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_mib(call: Callable[[], Any], device: str = "cpu") -> float:
    """Return the most memory that a call holds in tensors at one time, beyond what was there.

    On a CPU from torch's own record of what is allocated and freed, so that buffers inside
    libraries are missing. Evaluation and fine-tuning have one of whole processes, by that name too.

    Example:
        >>> round(peak_mib(lambda: torch.zeros(2**20).add(1)))  # 4 MiB, and 4 of the sum
        8
    """
    if str(device).startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Else torch's profiler says on stderr that it starts and that it stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    changes = [
        event.nbytes()
        for event in record.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return float(max(np.cumsum(changes), default=0)) / 2**20
