"""PruMerge with a loop over pictures and tokens: what vectorised code is compared with.

    plain     numbers and lists of Python: tests/reference.py, selection included
    released  torch, as the release loops: for each token all others are put together anew
    lean      torch, nothing computed twice and nothing copied

The torch loops get the selection for nothing, and so are a little faster than they would be.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prumerge import Settings
from prumerge.encoder import Encoded
from prumerge.reduction import Selection


def plain(encoded: Encoded, function: Callable) -> list:
    """Send one picture after another through a function of ``tests/reference.py``."""
    return [
        function(features.tolist(), keys.tolist(), scores.tolist())
        for features, keys, scores, _ in _pictures(encoded)
    ]


def lean(encoded: Encoded, selection: Selection, settings: Settings) -> list[Tensor]:
    """Merge one token after another."""
    sent = []
    for picture, directions, score, kept in _pictures(encoded, selection, settings):
        closed = kept if settings.candidates == "pruned" else kept[:0]
        tokens = []
        for patch in kept.tolist():
            similarity = directions @ directions[patch]
            similarity[patch] = -torch.inf
            similarity[closed] = -torch.inf
            near = similarity.topk(settings.neighbours).indices
            tokens.append(
                _token(picture[near], score[near], picture[patch], score[patch], settings)
            )
        sent.append(_with_extra(tokens, picture, score, kept, settings))
    return sent


def released(encoded: Encoded, selection: Selection, settings: Settings) -> list[Tensor]:
    """The same with copies of all other patches made for each token."""
    sent = []
    for picture, directions, score, kept in _pictures(encoded, selection, settings):
        tokens = []
        for patch in kept:
            others = torch.ones_like(score, dtype=torch.bool)
            others[kept if settings.candidates == "pruned" else patch] = False
            keys, features, scores = directions[others], picture[others], score[others]
            near = (keys @ directions[patch]).topk(settings.neighbours).indices
            tokens.append(
                _token(features[near], scores[near], picture[patch], score[patch], settings)
            )
        sent.append(_with_extra(tokens, picture, score, kept, settings))
    return sent


def _pictures(
    encoded: Encoded, selection: Selection | None = None, settings: Settings | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """One picture after another: features, keys to compare, scores, kept patches."""
    for index in range(len(encoded.scores)):
        keys = encoded.keys[index]
        if settings is not None and settings.similarity == "cosine":
            keys = normalize(keys, dim=-1)
        kept = selection.order[index, : selection.counts[index]] if selection else None
        yield encoded.features[index], keys, encoded.scores[index], kept


def _token(near: Tensor, weights: Tensor, own: Tensor, score: Tensor, settings: Settings) -> Tensor:
    total = weights.sum() + score * (settings.own_term == "attention")
    share = 1 / total if settings.normalise_weights else 1
    factor = {"one": 1, "attention": score * share, "none": 0}[settings.own_term]
    return weights @ near * share + factor * own


def _with_extra(
    tokens: list, picture: Tensor, score: Tensor, kept: Tensor, settings: Settings
) -> Tensor:
    if settings.extra_token:
        tokens.append(score.index_fill(0, kept, 0) @ picture)
    return torch.stack(tokens)
