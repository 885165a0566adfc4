"""Small configs for the tests of the cost model."""

from transformers import CLIPVisionConfig, Dinov2Config, Dinov2WithRegistersConfig, LlamaConfig


def small_llama(**changed) -> LlamaConfig:
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
    }  # fmt: skip
    return LlamaConfig(**(sizes | changed))


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
