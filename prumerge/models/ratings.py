"""By whose attention visual tokens are rated inside the language model, and that attention.

Source: FastV (arXiv 2403.06764) and PyramidDrop (2410.17247) ask the last token of the prompt,
SparseVLM (2410.04417) its raters.
"""

import copy

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


def last_of(words: Bool[Tensor, "prompts length"]) -> Bool[Tensor, "prompts length"]:
    """Mark the last word of each prompt, whichever side is padded."""
    place = torch.arange(words.shape[1], device=words.device)
    return place == torch.where(words, place, -1).max(dim=1, keepdim=True).values


def raters(
    hidden: Float[Tensor, "prompts length width"],
    columns: Int64[Tensor, "prompts patches"],
    words: Bool[Tensor, "prompts length"],
) -> Bool[Tensor, "prompts length"]:
    """Mark the words behind a picture that are relevant to it, as SparseVLM finds its raters.

    Each visual token's products with the words, in the embedding, are turned into shares by a
    softmax over the words; a word rates if its mean share is above that of all words, and all do
    if none is.
    """
    patches = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))
    alike = (patches @ hidden.transpose(1, 2)).masked_fill(~words[:, None], -torch.inf)
    shares = alike.softmax(dim=2).mean(dim=1)
    found = words & (shares > shares.sum(dim=1, keepdim=True) / words.sum(dim=1, keepdim=True))
    return torch.where(found.any(dim=1, keepdim=True), found, words)


def attention_of(
    layer: nn.Module,
    hidden: Float[Tensor, "prompts length width"],
    mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
) -> Float[Tensor, "prompts length length"]:
    """Return a decoder layer's attention to a whole prompt, mean of its heads.

    A copy of the module, which shares the weights, runs by the eager backend; the layer itself
    stays as it is. That holds all heads' scores at once: 4 bytes x heads x length ** 2 a prompt.
    """
    eager = copy.copy(layer.self_attn)
    eager.config, eager.training = copy.copy(eager.config), False
    eager.config._attn_implementation = "eager"
    length = hidden.shape[1]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=hidden.device).tril()
    if mask.dtype == torch.bool:
        mask = additive(mask, hidden.dtype)
    weights = eager(
        hidden_states=layer.input_layernorm(hidden),
        position_embeddings=position_embeddings,
        attention_mask=mask[..., :length],  # a static cache has room for more
    )[1]
    if weights is None:
        raise ValueError(
            f"{type(layer).__name__} hides its attention, as an offloaded layer does: load the "
            "model whole onto one device"
        )
    return weights.mean(dim=1)


def additive(mask: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Turn what may be seen into what is added to scores: 0, or the type's lowest value."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
