"""FastV, PyramidDrop and SparseVLM: after which layers they drop, how many, and by whose attention.

=========== ================== ============================== ====================================
name        drops after        keeps                          rates visual tokens by
=========== ================== ============================== ====================================
fastv       2 of 32 layers     half                           the last prompt token's attention in
                                                              the layer before
pyramiddrop 8, 16, 24 of 32    1/2, 1/4, 1/8                  the last prompt token's attention in
                                                              the layer behind
sparsevlm   3, 7, 16 of 32     300, 200, 110 of 576 and the   the raters' attention in the layer
                               two steeper rows published     before; recycles some of the dropped
=========== ================== ============================== ====================================

In a model of another depth a stage comes after the same share of the layers, rounded, but not
before the first layer has run; of stages that fall together the last one counts. A model of 4
layers runs ``fastv`` after 1, ``pyramiddrop`` after 1, 2, 3, and ``sparsevlm`` after 1 and 2.

A budget is the mean number of visual tokens that the layers read, which is what a reducer before
the language model sends: ``fastv`` keeps k' tokens after K of L layers so that
``(K * patches + (L - K) * k') / L`` is the budget; ``pyramiddrop`` keeps powers of one ratio;
``sparsevlm`` keeps the published counts, of the row nearest to the budget, times one factor.
Recycled tokens count, as layers read them. The authors count otherwise: SparseVLM's row for
64 tokens (66, 30 and 17 kept) makes the layers of LLaVA-1.5-7B read 82 on average.

Source: FastV (arXiv 2403.06764), PyramidDrop (2410.17247), SparseVLM (2410.04417) and the code of
the two latter's authors. Its counts run one layer later than SparseVLM's paper says, as here.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal

from prumerge.encoder import Encoded
from prumerge.methods import Method, inside_only
from prumerge.reduction import Reduction
from prumerge.settings import Settings, suggestion

# Rows that SparseVLM publishes, by the share of the visual tokens that they are named after.
_SPARSEVLM = {1 / 3: (300, 200, 110), 2 / 9: (303, 110, 36), 1 / 9: (66, 30, 17)}
_BISECTIONS = 60

HANDLING = {"order": "raster", "positions": "original"}
"""Tokens that stay keep their order and position ids; two of the authors' codes renumber them."""


@dataclasses.dataclass(frozen=True)
class Dropping:
    """A way to drop visual tokens between layers of the language model.

    Args:
        after: Shares of the layers that have run before each stage.
        keeps: Shares of the visual tokens that are read from each stage on, of a level to solve
            for and of the budget as a share of the visual tokens.
        usual: The published level, for a call without budget.
        rated_by: Whose attention rates: the ``last`` prompt token's, or the mean of the ``raters``,
            the words that visual tokens find more alike than the mean of the words behind them.
        layer: Which layer's attention: the one ``before`` a stage, or the one ``behind`` it.
        recycles: Whether clusters of the best-rated dropped tokens take the place of some.
    """

    name: str
    after: tuple[float, ...]
    keeps: Callable[[float, float], tuple[float, ...]]
    usual: float
    rated_by: Literal["last", "raters"] = "last"
    layer: Literal["before", "behind"] = "before"
    recycles: bool = False

    def starts(self, layers: int) -> tuple[int, ...]:
        """Return the first layer of each stage, from 0; of stages that fall together all."""
        if layers < 2:
            raise ValueError(f"{self.name} drops between layers, and the model has {layers}")
        return tuple(max(1, int(share * layers + 0.5)) for share in self.after)

    def reads(self, layers: int, patches: int, budget: int | None = None) -> tuple[int, ...]:
        """Return how many visual tokens each layer reads.

        With a budget the mean over the layers is at most that, and less than one token below. One
        that cannot be had, since the layers before the first stage read all, is a ValueError.
        """
        if budget is None:
            return self._reads(layers, patches, self.usual, 1 / 3)
        if budget >= patches:
            return (patches,) * layers
        least = sum(self._reads(layers, patches, 0.0, budget / patches))
        if least > budget * layers:
            first = self.starts(layers)[0]
            raise ValueError(
                f"budget={budget}: {self.name} reads all {patches} visual tokens in {first} of "
                f"{layers} layers, so the mean over the layers is at least {-(-least // layers)}"
            )
        low, high = 0.0, float(patches)
        for _ in range(_BISECTIONS):
            level = (low + high) / 2
            fits = sum(self._reads(layers, patches, level, budget / patches)) <= budget * layers
            low, high = (level, high) if fits else (low, level)
        return self._filled(self._reads(layers, patches, low, budget / patches), budget * layers)

    def _reads(self, layers: int, patches: int, level: float, share: float) -> tuple[int, ...]:
        counts = [patches] * layers
        for start, kept in zip(self.starts(layers), self.keeps(level, share), strict=True):
            most = max(1, int(patches * min(kept, 1.0)))
            counts[start:] = [min(most, counts[start - 1])] * (layers - start)
        return tuple(counts)

    def _filled(self, reads: tuple[int, ...], total: int) -> tuple[int, ...]:
        """Let stages read one token more, the first ones first, as far as the total allows."""
        counts = list(reads)
        begun = {start for start in self.starts(len(reads)) if start < len(reads)}
        starts = [*sorted(begun), len(reads)]
        for start, end in itertools.pairwise(starts):
            if sum(counts) + end - start <= total and counts[start] < counts[start - 1]:
                counts[start:end] = [counts[start] + 1] * (end - start)
        return tuple(counts)


def _published(level: float, share: float) -> tuple[float, ...]:
    row = _SPARSEVLM[min(_SPARSEVLM, key=lambda named: abs(named - share))]
    return tuple(level * count / 576 for count in row)


DROPPINGS = {
    "fastv": Dropping("fastv", (2 / 32,), lambda level, _: (level,), 0.5),
    "pyramiddrop": Dropping(
        "pyramiddrop",
        (8 / 32, 16 / 32, 24 / 32),
        lambda level, _: (level, level**2, level**3),
        0.5,
        layer="behind",
    ),
    "sparsevlm": Dropping(
        "sparsevlm",
        (3 / 32, 7 / 32, 16 / 32),
        _published,
        1.0,
        rated_by="raters",
        recycles=True,
    ),
}


def find_dropping(name: str | Dropping) -> Dropping:
    """Find one of the three by name; ValueError lists them. One of your own stays as it is."""
    if isinstance(name, Dropping):
        return name
    if name not in DROPPINGS:
        raise ValueError(f"unknown method {name!r}: {suggestion(str(name), DROPPINGS)}")
    return DROPPINGS[name]


def resolve_inside(name: str, **overrides: Any) -> Method:
    """Describe one of the three as other methods are, for rows; calling it is a ValueError.

    It has one setting, ``budget``; its handling is fixed. Others are a ValueError.
    """
    fixed = {"neighbours": 0, "extra_token": False, **HANDLING}
    settings = Settings(**fixed)
    for setting, value in overrides.items():
        if setting != "budget" and value != getattr(settings, setting, None):
            raise ValueError(
                f"{setting}={value!r}: {find_dropping(name).name} has one setting, budget; its "
                "tokens stay in raster order at their original positions"
            )
    return Method(name, _refuse(name), settings.with_changes(**overrides), sends="on average")


def _refuse(name: str) -> Callable[[Encoded, Settings], Reduction]:
    def refuse(encoded: Encoded, settings: Settings) -> Reduction:
        raise inside_only(name)

    return refuse
