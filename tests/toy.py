"""A tiny random LLaVA and prompts for it: 16 patches, a class token, grouped-query attention."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from prumerge import Reduction

PATCHES = 16
SIZE = 28
VOCABULARY = 48
PAD, BOS, EOS, IMAGE = 0, 1, 2, 3


def tiny_llava(
    seed: int = 0,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    encoder: type[PreTrainedConfig] = CLIPVisionConfig,
    **options: Any,
) -> LlavaForConditionalGeneration:
    """A LLaVA of random weights, wide enough apart that greedy tokens are no near-ties.

    Args:
        seed: Of the weights.
        attention: Backend of encoder and language model.
        dtype: Of the weights.
        encoder: Kind of vision encoder.
        **options: Further fields of the model's config.
    """
    vision = encoder(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=SIZE // 4,
        initializer_range=0.3,
        initializer_factor=4.0,
    )
    text = LlamaConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=PATCHES,
        **options,
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # visual tokens must matter as much as words, and end tokens must be rare
        model.model.multi_modal_projector.linear_2.weight.mul_(2)
        model.lm_head.weight[[PAD, BOS, EOS, IMAGE]] *= 0.01
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model.to(dtype).eval()


def pictures(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random pictures, one bright patch more in each than in the one before."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    for index in range(count):
        for patch in range(index + 1):
            row, column = divmod((5 * patch + index) % PATCHES, 4)
            step = SIZE // 4
            drawn[index, :, row * step : (row + 1) * step, column * step : (column + 1) * step] *= 6
    return drawn.to(dtype)


def prompt(*parts: int, seed: int = 0) -> list[int]:
    """Token ids: for each part that many random words, with a picture between two parts.

    ``prompt(3, 5)`` is 3 words, a picture, 5 words; ``prompt(2, 0, 4)`` has two adjacent pictures.
    """
    generator = torch.Generator().manual_seed(seed + sum(parts))
    ids = [BOS]
    for index, words in enumerate(parts):
        ids += [IMAGE] * PATCHES if index else []
        ids += torch.randint(IMAGE + 1, VOCABULARY, (words,), generator=generator).tolist()
    return ids


def batch(*prompts: list[int], side: str = "left") -> dict[str, Tensor]:
    """Pad prompts to ``input_ids`` and ``attention_mask``."""
    longest = max(map(len, prompts))
    rows, masks = [], []
    for ids in prompts:
        gap = longest - len(ids)
        pad, ones = [PAD] * gap, [1] * len(ids)
        rows.append(pad + ids if side == "left" else ids + pad)
        masks.append([0] * gap + ones if side == "left" else ones + [0] * gap)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@torch.no_grad()
def by_hand(
    model: LlavaForConditionalGeneration,
    reduction: Reduction | None,
    ids: list[int],
    positions: str,
    new_tokens: int,
) -> tuple[list[int], Tensor]:
    """Answer one prompt through the bare language model: no padding, no cache, no generate().

    Args:
        model: Its projector, embeddings and language model are used.
        reduction: Of the prompt's pictures, in their order; None where it shows none.
        ids: The prompt.
        positions: ``compact``, ``original`` or ``stretched``.
        new_tokens: Length of the answer.

    Returns:
        The greedy answer, and the logits of each of its tokens.
    """
    embed = model.get_input_embeddings()
    parts, places, column, shown = [], [], 0, 0
    while column < len(ids):
        if ids[column] != IMAGE:
            parts.append(embed(torch.tensor([ids[column]], device=model.device)))
            places.append(column)
            column += 1
            continue
        tokens, patches = reduction.tokens[shown], reduction.positions[shown].tolist()
        if positions == "stretched":
            step = (PATCHES - 1) / (len(tokens) - 1)
            patches = [int(number * step + 0.5) for number in range(len(tokens))]
        parts.append(model.model.multi_modal_projector(tokens))
        places += [column + patch for patch in patches]
        column, shown = column + PATCHES, shown + 1
    if positions == "compact":
        places, column = list(range(len(places))), len(places)
    return _continue_greedily(model, torch.cat(parts), places, column, new_tokens)


def _continue_greedily(model, sequence, places, column, new_tokens):
    embed, answer, logits = model.get_input_embeddings(), [], []
    for place in range(column, column + new_tokens):
        hidden = model.model.language_model(
            inputs_embeds=sequence[None],
            attention_mask=torch.ones(1, len(sequence), dtype=torch.long, device=model.device),
            position_ids=torch.tensor([places], device=model.device),
            use_cache=False,
        ).last_hidden_state
        logits.append(model.lm_head(hidden[0, -1]))
        answer.append(int(logits[-1].argmax()))
        sequence = torch.cat([sequence, embed(torch.tensor(answer[-1:], device=model.device))])
        places = [*places, place]
    return answer, torch.stack(logits)
