"""What kept patches see of pictures: how near they come, what attention and objects they hold."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer
from torch import Tensor

from prumerge.experiments.attention import distance_to_kept, share_of_objects
from prumerge.reduction import select
from prumerge.settings import Settings


def measure_coverage(
    scores: Float[Tensor, "images patches"],
    grid: tuple[int, int],
    rules: Mapping[str, Settings],
    budgets: Sequence[int],
    owners: Sequence[Integer[np.ndarray, "rows columns"] | None],
) -> pd.DataFrame:
    """Measure what is seen of each picture under each rule and budget, a row each.

    Columns: ``tokens`` (the budget), ``kept`` (the rule's name), ``picture`` (its number),
    ``sent``; ``farthest patch``, its
    distance to a kept one in patches; ``attention kept``, a share of the scores; ``objects
    touched`` and ``object patches kept``, shares, NaN where ``owners`` (as in
    :func:`share_of_objects`) has None.
    """
    rows = []
    for budget, (name, rule) in product(budgets, rules.items()):
        kept = select(scores, rule.with_changes(budget=budget), grid).numpy() > 0
        held = (scores.numpy() * kept).sum(axis=1) / scores.numpy().sum(axis=1)
        far = distance_to_kept(kept, grid).max(axis=1)
        for picture, (row, owner, *told) in enumerate(zip(kept, owners, far, held, strict=True)):
            objects = (np.nan, np.nan)
            if owner is not None:
                objects = share_of_objects(row, owner), row[owner.ravel() > 0].mean()
            rows.append((budget, name, picture, row.sum(), *told, *objects))
    names = ["tokens", "kept", "picture", "sent", "farthest patch", "attention kept"]
    return pd.DataFrame(rows, columns=[*names, "objects touched", "object patches kept"])
