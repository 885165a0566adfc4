"""Small configs for the tests of the cost model."""

from transformers import (
    CONFIG_MAPPING,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3MoeConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
)

from prumerge.roofline.operations import Operation


def products_of(listed: list[Operation]) -> float:
    """Operations of matrix products alone, which is what torch counts."""
    inside = ("query_key", "weighted_values")
    counted = [each for each in listed if each.weight_bytes or each.name in inside]
    return sum(each.operations * each.repeats for each in counted)


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
}  # fmt: skip


def small_llama(**changed) -> LlamaConfig:
    return LlamaConfig(**(SIZES | changed))


def small_clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        image_size=32, patch_size=8,
    )  # fmt: skip


DINOV2_SIZES = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 3,
    "image_size": 56, "patch_size": 14,
}  # fmt: skip
DINOV2 = {
    "MLP": Dinov2Config(**DINOV2_SIZES, use_mask_token=False),
    "SwiGLU": Dinov2Config(**DINOV2_SIZES, use_mask_token=False, use_swiglu_ffn=True),
    "registers": Dinov2WithRegistersConfig(**DINOV2_SIZES, num_register_tokens=5),
}
"""Small configs of DINOv2 by what they have; the last one's mask token is never used."""

EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_TEXT = SIZES | {"rope_parameters": _ROPE}
_VISION = {"depth": 3, "num_heads": 2, "patch_size": 4}
_WIDTHS = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
_WINDOWS = {"window_size": 16, "fullatt_block_indexes": [1]}
_DEEPSTACK = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]}
QWEN = {
    "Qwen2-VL": Qwen2VLConfig(
        vision_config=_VISION | {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2},
        text_config=_TEXT,
    ),
    "Qwen2.5-VL": Qwen2_5_VLConfig(vision_config=_VISION | _WIDTHS | _WINDOWS, text_config=_TEXT),
    "Qwen3-VL": Qwen3VLConfig(
        vision_config=_VISION | _WIDTHS | _DEEPSTACK, text_config=_TEXT | {"head_dim": 8}
    ),
    "Qwen3-VL-MoE": Qwen3VLMoeConfig(
        vision_config=_VISION | _WIDTHS | _DEEPSTACK, text_config=_TEXT | EXPERTS
    ),
}
"""Small configs of models whose pictures have any size; windows are 4 patches wide."""

MIXTURES = {
    **{
        kind: CONFIG_MAPPING[kind](**SIZES, **{name: 5}, num_experts_per_tok=2)
        for kind, name in (
            ("mixtral", "num_local_experts"), ("granitemoe", "num_local_experts"),
            ("olmoe", "num_experts"), ("phimoe", "num_local_experts"),
        )
    },
    "Qwen3-MoE": Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8),
    "some dense": Qwen3MoeConfig(
        **SIZES | {"num_hidden_layers": 4}, **EXPERTS, head_dim=8, mlp_only_layers=[1],
        decoder_sparse_step=2,
    ),
}  # fmt: skip
"""Small configs of mixtures of experts; of the last one's layers only number 3 has experts."""
