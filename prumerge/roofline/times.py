"""The roofline itself: an operation takes as long as its arithmetic or its bytes, the longer."""

from collections.abc import Iterable
from typing import Any

from prumerge.roofline.hardware import Hardware, Precision
from prumerge.roofline.operations import Operation

_KINDS = "weight activation_read activation_write cache_read cache_write traffic".split()
COUNTED = ("operations", *(f"{kind}_bytes" for kind in _KINDS))
"""What rows count, besides time."""


def timed(operation: Operation, card: Hardware, precision: Precision) -> dict[str, Any]:
    """Return an operation as a row, all its repeats together.

    Args:
        operation: What is done.
        card: Its peaks and bandwidth.
        precision: Decides which peak holds.

    Returns:
        ``operation``, ``repeats``, the counts of :data:`COUNTED`, ``time_ms``,
        ``intensity_per_byte`` (operations per byte) and ``bound``: ``compute`` where arithmetic
        takes longer than memory, else ``memory``.
    """
    computing = operation.operations / card.peak_per_s(precision)
    moving = operation.traffic_bytes / card.bandwidth_bytes_per_s
    row = {"operation": operation.name, "repeats": operation.repeats}
    row |= {name: getattr(operation, name) * operation.repeats for name in COUNTED}
    row["time_ms"] = 1e3 * operation.repeats * max(computing, moving)
    row["intensity_per_byte"] = operation.operations / operation.traffic_bytes
    row["bound"] = "compute" if computing > moving else "memory"
    return row


def summed(
    operations: Iterable[Operation], card: Hardware, precision: Precision
) -> dict[str, float | int]:
    """Add up operations that are done one after another.

    Args:
        operations: What is done; at least one.
        card: Its peaks and bandwidth.
        precision: Decides which peak holds.

    Returns:
        The counts of :data:`COUNTED`, ``time_ms``, and ``compute_bound_share``, the part of the
        time that compute-bound operations take.
    """
    rows = [timed(operation, card, precision) for operation in operations]
    total = {name: sum(row[name] for row in rows) for name in (*COUNTED, "time_ms")}
    computing = sum(row["time_ms"] for row in rows if row["bound"] == "compute")
    return total | {"compute_bound_share": computing / total["time_ms"]}
