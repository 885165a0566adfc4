"""What the cost model reads and what it refuses: configs, names, counts."""

import pytest
from roofline_samples import small_clip, small_llama
from transformers import (
    ApertusConfig,
    ArceeConfig,
    BertConfig,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from prumerge.roofline import (
    Hardware,
    LanguageShape,
    Precision,
    estimate_costs,
    estimate_memory,
    list_operations,
    read_shape,
)


def test_configs_of_a_folder_a_language_model_and_a_llava_are_read(tmp_path):
    config = LlavaConfig(text_config=small_llama(), vision_config=small_clip(), image_token_index=5)
    config.save_pretrained(tmp_path)
    shape = read_shape(str(tmp_path))
    assert shape.name == str(tmp_path)
    assert shape.language == LanguageShape(32, 3, 4, 2, 8, 48, 64)
    assert (shape.vision.patches, shape.vision.tokens, shape.vision.width) == (16, 17, 24)
    assert shape.vision.patch_values == 3 * 8 * 8 and shape.vision.selected == 1
    assert read_shape(small_llama()).vision is None
    assert read_shape(Qwen2Config(num_key_value_heads=8)).language.key_width == 8 * 128
    assert read_shape(small_llama(head_dim=16)).language.query_width == 64
    config = LlavaConfig(
        text_config=small_llama(), vision_config=SiglipVisionConfig(), vision_feature_layer=[-2, -5]
    )
    assert read_shape(config).vision.class_tokens == 0
    assert read_shape(config).vision.selected == 2
    tower = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=336)
    vision = read_shape(LlavaConfig(text_config=small_llama(), vision_config=tower)).vision
    assert (vision.inner_width, vision.tokens, vision.layers) == (4 * 384, 577, 12)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (GPT2Config(), "'gpt2' is not Llama-shaped: it has no intermediate_size, rms_norm_eps;"),
        (BertConfig(), "'bert' is not Llama-shaped: it has no rms_norm_eps; pass the config"),
        (ArceeConfig(), "'arcee' is not Llama-shaped: it has no gated feed-forward layers;"),
        (ApertusConfig(), "'apertus' is not Llama-shaped: it has no gated feed-forward layers;"),
        (Qwen2Config(layer_types=["linear_attention"] * 32), "it has linear_attention;"),
        (42, "'int' is not Llama-shaped"),
        (
            LlavaConfig(text_config=small_llama(), vision_config=PixtralVisionConfig()),
            "vision tower 'pixtral' is none of clip_vision_model, siglip_vision_model, dinov2, "
            "dinov2_with_registers, internvl_vision, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe; "
            "pass text_config alone",
        ),
        ("8b", "no config for model '8b': give one of 7b, 13b, 'mini', a folder"),
    ],
)
def test_what_is_not_llama_shaped_is_refused(config, sentence):
    with pytest.raises(ValueError) as raised:
        estimate_costs(config, 80)
    assert sentence in str(raised.value)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give one of 7b, 13b, 'mini', a folder with a config"):
        estimate_costs(str(tmp_path), 80)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    {
        "hardware": ({"hardware": "B300"}, "unknown hardware 'B300': there are V100, A100-40GB"),
        "precision": ({"precision": "fp8"}, "unknown precision 'fp8': there are fp16, int8, int4"),
        "convention": ({"convention": "mine"}, "unknown convention 'mine': there are"),
        "flash": (
            {"flash_attention": True, "convention": "llm-viewer"},
            "'llm-viewer' has no FlashAttention: pass flash_attention=False or convention=",
        ),
        "batch": ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        "prompt": ({"prompt_tokens": [80, 0]}, "prompt_tokens must be a whole number"),
        "fraction": ({"prompt_tokens": 80.5}, "prompt_tokens must be a whole number"),
        "new": ({"new_tokens": 0}, "new_tokens must be a whole number of at least 1, got 0"),
        "pictures": ({"pictures": 0}, "pictures must be a whole number"),
        "text": ({"text_tokens": 81}, "text_tokens=81 in a prompt of 80 tokens; it must be 0 to"),
        "negative": ({"text_tokens": -1}, "text_tokens=-1 in a prompt of 80 tokens"),
        "blind": (
            {"model": LlamaConfig(), "text_tokens": 40},
            "LlamaConfig has no vision tower; leave text_tokens out",
        ),
        "layers": (
            {"text_tokens": 40, "vision_layers": 25},
            "vision_layers must be 1 to 24, got 25",
        ),
    }.values(),
)
def test_bad_input_is_refused_with_a_remedy(changed, sentence):
    with pytest.raises((ValueError, TypeError)) as raised:
        estimate_costs(**({"model": "7b", "prompt_tokens": 80} | changed))
    text = str(raised.value)
    assert sentence in text or type(raised.value).__name__ == "TypeCheckError"


def test_other_bad_input_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="unknown stage 'encode': there are prefill and decode"):
        list_operations("7b", 80, stage="encode")
    with pytest.raises(ValueError, match="bandwidth_bytes_per_s must be above 0, got 0"):
        Hardware("broken", 0, 1e12, 1e12, 1e9)
    with pytest.raises(ValueError, match="has 3 bits; use 4, 8, 16 or 32"):
        Precision("odd", 3, 16, 16)
    with pytest.raises(ValueError, match="unknown precision"):
        estimate_memory("7b", 80, "fp7")
