"""What answers took: visual tokens and seconds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Effort:
    """What the answers of one task took: visual tokens by item, seconds, and the new items."""

    visual_tokens: dict[int, int] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)
    seconds: float = 0.0

    def add(self, other: "Effort") -> None:
        """Add what another process did at the same time."""
        self.visual_tokens |= other.visual_tokens
        self.fresh |= other.fresh
        self.seconds = max(self.seconds, other.seconds)


def summary(efforts: Sequence[Effort]) -> dict[str, Any]:
    """Return tokens per picture and speed of some tasks together, as columns.

    Args:
        efforts: One per task.

    Returns:
        Columns of a row. Answers from a journal count with the seconds they took when they were
        given, so a killed run that went on tells the speed of the whole.
    """
    tokens = [count for effort in efforts for count in effort.visual_tokens.values()]
    # The harness asks some items twice where they do not share out evenly between processes.
    fresh, seconds = sum(len(e.fresh) for e in efforts), sum(e.seconds for e in efforts)
    return {
        "items": len(tokens),
        "tokens_mean": statistics.fmean(tokens) if tokens else None,
        "tokens_min": min(tokens, default=None),
        "tokens_max": max(tokens, default=None),
        "fresh_items": fresh,
        "seconds": seconds,
        "images_per_s": len(tokens) / seconds if seconds else None,
    }
