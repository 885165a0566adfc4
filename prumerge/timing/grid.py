"""What is timed: budgets, batches, output lengths and attention implementations."""

import dataclasses
from collections.abc import Iterator

from prumerge.methods import names
from prumerge.settings import suggestion
from prumerge.timing.stages import Case


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cases to time: budgets, batches and attention implementations crossed with one another.

    Args:
        method: What reduces where the budget is smaller than the picture.
        budgets: Visual tokens per picture. At least as many as the picture has: the stock model.
        batches: Prompts answered together.
        new_tokens: Output lengths.
        attention: Implementations: ``sdpa``, ``eager``, ``flash_attention_2`` (CUDA).
        text_tokens: Text tokens of a prompt.
        repeats: Timed calls of each stage.
        warm_ups: Untimed calls before them.
        memory: Whether each stage is called once more to see what it holds.
        until_full: Whether the largest batch is doubled until memory runs out, for each budget by
            itself. Meant for a GPU: a CPU's system may end the process instead of saying no.

    Raises:
        ValueError: If a list is empty, a number is below 1, or the method is unknown.
    """

    method: str = "prumerge+"
    budgets: tuple[int, ...] = (576, 144, 64, 32)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    new_tokens: tuple[int, ...] = (8, 64)
    attention: tuple[str, ...] = ("sdpa",)
    text_tokens: int = 40
    repeats: int = 5
    warm_ups: int = 1
    memory: bool = True
    until_full: bool = False

    def __post_init__(self) -> None:
        for name in ("budgets", "batches", "new_tokens"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {list(values)}")
        if not self.attention:
            raise ValueError("attention must name at least one implementation, such as sdpa")
        if self.method not in names():
            raise ValueError(f"unknown method {self.method!r}: {suggestion(self.method, names())}")
        for name in ("text_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def batch_sizes(self) -> Iterator[int]:
        """Yield the batches, small ones first; with ``until_full`` doubled without end.

        Example:
            >>> from itertools import islice
            >>> list(islice(Grid(batches=(4, 1), until_full=True).batch_sizes(), 4))
            [1, 4, 8, 16]
        """
        yield from sorted(set(self.batches))
        batch = max(self.batches)
        while self.until_full:
            batch *= 2
            yield batch

    def cases(self, patches: int) -> list[Case]:
        """Return a case of one prompt for each budget.

        Args:
            patches: Visual tokens of one picture.

        Returns:
            The cases, in the order of the budgets; the stock model once.
        """
        budgets = dict.fromkeys(min(budget, patches) for budget in self.budgets)
        how = {"text_tokens": self.text_tokens, "new_tokens": self.new_tokens}
        return [
            Case(**how) if budget == patches else Case(self.method, budget, **how)
            for budget in budgets
        ]
