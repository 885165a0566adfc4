"""A LLaVA whose vision tower was frozen: its checkpoint holds what was trained, and names the rest.

fitted        a tower for pictures of another size
middle_of     a tower for the middle part of its pictures
beside_tower  what transformers needs to load the whole LLaVA
"""

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, VideoLlavaConfig

from prumerge.models.loading import Config, load
from prumerge.models.towers import load_tower


@torch.no_grad()
def fitted(tower: PreTrainedModel, image_px: int) -> PreTrainedModel:
    """Return a DINOv2 whose table of positions is made for pictures of ``image_px`` on an edge.

    The table is interpolated as the tower would at each picture, and what it says stays the same.
    """
    other = copy.deepcopy(tower)
    patches = (image_px // tower.config.patch_size) ** 2
    tokens = torch.empty(1, 1 + patches, tower.config.hidden_size)
    table = tower.embeddings.interpolate_pos_encoding(tokens, image_px, image_px)
    other.embeddings.position_embeddings = nn.Parameter(table.detach().clone())
    other.config.image_size = image_px
    return other


def beside_tower(
    config: Config | VideoLlavaConfig, folder: Path, told: AbstractContextManager
) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs instead of a folder: config and all weights.

    The tower is the one that ``config.tower`` names, from the package, wherever a hub can be
    reached: what was trained behind one tower does not understand another. ``mini`` is the
    mini-LLaVA's. ``told`` is where the folder is read, to name it in an error.
    """
    edge = config.vision_config.image_size
    if config.tower == "mini":
        tower = middle_of(load("mini")[0].model.vision_tower, edge)
    else:
        tower = fitted(load_tower(config.tower, origin="package").tower, edge)
    with told:
        tensors = load_file(folder / "model.safetensors")
    moving = isinstance(config, VideoLlavaConfig)
    for place in ("image_tower", "video_tower") if moving else ("vision_tower",):
        tensors |= {f"{place}.{name}": value for name, value in tower.state_dict().items()}
    return {"config": config, "state_dict": tensors}


@torch.no_grad()
def middle_of(tower: PreTrainedModel, image_px: int) -> PreTrainedModel:
    """Return a CLIP tower for pictures of ``image_px``, as it sees the middle of its own.

    Each patch keeps the position embedding that it has in the larger picture, so that what the
    tower says about places stays the same, and nothing is interpolated.
    """
    other, patch = copy.deepcopy(tower), tower.config.patch_size
    grid, edge = tower.config.image_size // patch, image_px // patch
    embeddings, first = other.embeddings, (grid - edge) // 2
    weight = embeddings.position_embedding.weight
    places = torch.arange(grid**2).view(grid, grid)[first : first + edge, first : first + edge]
    rows = torch.cat([torch.zeros(1, dtype=torch.long), 1 + places.reshape(-1)])
    embeddings.position_embedding = nn.Embedding.from_pretrained(weight[rows].clone(), freeze=False)
    embeddings.position_ids = torch.arange(len(rows))[None]
    embeddings.image_size, embeddings.num_patches = image_px, edge**2
    embeddings.num_positions = len(rows)
    other.config.image_size = image_px
    return other
