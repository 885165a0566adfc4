"""Small configs for the tests of the cost model."""

from transformers import CLIPVisionConfig, LlamaConfig


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
