"""What a merged token holds: how much of which patches, how far away, how alike.

merged_weights   of every kept token, a row over the patches
measure_merging  each token's row in a few numbers
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64

from prumerge.encoder import Encoded
from prumerge.experiments.attention import effective_patches
from prumerge.reduction import arrange, select
from prumerge.settings import Settings
from prumerge.supplement import key_similarity, merge


class MergedWeights(NamedTuple):
    """One row per kept patch, those of a picture in the order in which they are sent."""

    weights: Float[np.ndarray, "tokens patches"]  # of neighbours; the own feature left out
    similarity: Float[np.ndarray, "tokens patches"]  # of keys to the kept patch's, as merging sees
    pictures: Int64[np.ndarray, " tokens"]
    places: Int64[np.ndarray, " tokens"]  # the kept patch of each


def merged_weights(encoded: Encoded, settings: Settings) -> MergedWeights:
    """Find what each kept patch takes up of the others; the extra token is left out.

    Merging the identity instead of features shows the weights, whatever the formula.
    """
    selection = arrange(select(encoded.scores, settings, encoded.grid), encoded.scores, settings)
    order, patches = selection.order.clamp(min=0), encoded.scores.shape[1]
    identity = torch.eye(patches).expand(len(order), -1, -1)
    held = merge(identity, encoded.keys, encoded.scores, order, selection.kept, settings)
    weights = held.scatter(2, order[..., None], 0)
    similarity = key_similarity(encoded.keys, order, settings.similarity)
    pictures, columns = torch.nonzero(selection.order >= 0, as_tuple=True)
    rows = (weights[pictures, columns], similarity[pictures, columns])
    places = order[pictures, columns]
    return MergedWeights(*(part.numpy() for part in (*rows, pictures, places)))


def measure_merging(encoded: Encoded, settings: Settings) -> pd.DataFrame:
    """Measure what each kept patch takes up, one row per token and its ``picture``.

    ``weight``: the sum of its neighbours' weights, its own feature counting 1. ``spread over``:
    how many equal weights would be as even (:func:`effective_patches`). ``distance``: of a
    neighbour on average, in patches; ``alike`` and ``all alike``: the mean similarity of keys to
    neighbours and to all other patches. Tokens into which nothing is merged are left out.
    """
    held = merged_weights(encoded, settings)
    some = np.flatnonzero(held.weights.sum(axis=1) > 0)
    weights, places = held.weights[some], held.places[some]
    near = weights > 0
    rows, columns = np.divmod(np.arange(weights.shape[1]), encoded.grid[1])
    gaps = np.hypot(rows - rows[places][:, None], columns - columns[places][:, None])
    others, similarity = gaps > 0, held.similarity[some]
    table = {
        "picture": held.pictures[some],
        "weight": weights.sum(axis=1),
        "spread over": effective_patches(torch.from_numpy(weights)).numpy(),
        "distance": np.average(gaps, axis=1, weights=near),
        "alike": np.average(similarity, axis=1, weights=near),
        "all alike": np.average(similarity, axis=1, weights=others),
    }
    return pd.DataFrame(table)
