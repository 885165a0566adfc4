"""Qwen3-VL: as Qwen2.5-VL, with what three earlier blocks say about each slot, and no windows.

Besides its embedding a visual token has rows that the first layers of the language model add to it
(deepstack). Each comes from a merger of its own. Reduction stands before the MLPs of all of them:
a row of features is the four inputs side by side, so that all are dropped and merged alike, and
methods that compare features compare all four. A video is a run of slots for each frame, with its
time in words before it.

Source: ``Qwen3VLForConditionalGeneration`` of transformers, and its ``Moe``; DeepStack, arXiv
2406.04334.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prumerge.models.families import qwen2_5_vl
from prumerge.models.families.features import through
from prumerge.models.slots import Packed
from prumerge.settings import Settings


def pack(model: nn.Module, arguments: dict[str, Any], settings: Settings) -> dict[str, Packed]:
    visual = model.model.visual
    merger, early = visual.merger, visual.deepstack_merger_list
    width = merger.hidden_size

    def rows(last: Tensor, before: Sequence[Tensor]) -> Tensor:
        pairs = zip([merger, *early], [last, *before], strict=True)
        return torch.cat([_normed(own, hidden) for own, hidden in pairs], dim=-1)

    def project(features: Tensor) -> Tensor:
        return _behind(merger, features[..., :width])

    def beside(features: Tensor) -> Tensor:
        pieces = features[..., width:].split(width, dim=-1)
        pairs = zip(early, pieces, strict=True)
        return torch.cat([_behind(own, piece) for own, piece in pairs], dim=-1)

    return qwen2_5_vl.packed_of(
        model, arguments, settings, rows, project, beside=beside, apart=True
    )


def _normed(merger: nn.Module, hidden: Tensor) -> Tensor:
    """The first half of a merger."""
    if merger.use_postshuffle_norm:
        return through(merger.norm, hidden.view(-1, merger.hidden_size))
    return through(merger.norm, hidden).view(-1, merger.hidden_size)


def _behind(merger: nn.Module, rows: Tensor) -> Tensor:
    """The second half."""
    return merger.linear_fc2(merger.act_fn(merger.linear_fc1(rows)))


def outputs(model: nn.Module, tokens: Tensor) -> Any:
    """Visual tokens as ``forward`` takes them from an encoder."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as stock

    width = model.config.get_text_config().hidden_size
    own, *more = tokens.split(width, dim=-1)
    return stock.BaseModelOutputWithDeepstackFeatures(
        pooler_output=[own], deepstack_features=[[rows] for rows in more]
    )


FAMILY = dataclasses.replace(
    qwen2_5_vl.FAMILY,
    pack=pack,
    projector=("visual.merger", "visual.deepstack_merger_list"),
    outputs=outputs,
)
