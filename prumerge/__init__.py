"""LLaVA-PruMerge on stock transformers models: fewer visual tokens, in a few lines.

    >>> import prumerge, torch
    >>> features = keys = torch.eye(16)[None]
    >>> scores = torch.full((1, 16), 0.01)
    >>> scores[0, 5] = 0.85
    >>> prumerge.reduce_tokens(features, keys, scores).kept    # one outlier, one extra token
    [2]

Where to find the paper's ideas:

    tower        a stock vision tower of any build, opened
    encoder      the stock encoder, run as far as needed, and what it says: ``Encoded``
    scores       class attention and keys from a vision encoder
    outliers     the interquartile fence: how many patches stand out
    spatial      the evenly spaced patches of PruMerge+
    supplement   nearest keys, weighted merge, extra token
    reduction    which patches stay and in which order, and all of it: ``reduce_tokens``
    settings     every choice paper and release leave open, and the readings that have a name
    methods      the same interface for every method

Rooms beside them, each importing only those before it: ``rivals`` (other methods), ``roofline``
(what a token costs on paper), ``models`` (``attach``: all of it inside a LLaVA of transformers),
``mini`` (the embedded model), ``draw``, ``experiments`` (evaluation, sweeps, timing, finetuning),
``workbook`` (notebooks run, recorded, reported), ``claims`` (the paper, claim by claim).
"""

import prumerge.rivals  # registers them
from prumerge.encoder import Encoded
from prumerge.methods import names, register, resolve
from prumerge.reduction import Reduction, Selection, reduce_tokens
from prumerge.scores import encode
from prumerge.settings import PRESETS, Settings

__all__ = [
    "PRESETS",
    "Encoded",
    "Reduction",
    "Selection",
    "Settings",
    "attach",
    "encode",
    "names",
    "reduce_tokens",
    "register",
    "resolve",
]


# `python -m prumerge.evaluation` and its like keep their names: these rooms are looked in too.
__path__ += [f"{folder}/{room}" for folder in __path__ for room in ("experiments", "workbook")]


def __getattr__(name: str):
    # attach needs transformers, which takes seconds to import; tensors alone do not need it.
    if name == "attach":
        from prumerge.models.attachment import attach

        return attach
    raise AttributeError(f"module 'prumerge' has no attribute {name!r}")
