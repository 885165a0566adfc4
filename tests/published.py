"""Configs with towers and packing of published models; their language models are cut."""

import transformers

LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 4}
CLIP = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def language() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**LLAMA, num_attention_heads=32, vocab_size=32064)


def clip() -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(**CLIP)


def siglip() -> transformers.SiglipVisionConfig:
    sizes = CLIP | {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26}
    return transformers.SiglipVisionConfig(**sizes | {"image_size": 384}, vision_use_head=False)


REAL = {
    "llava": lambda: transformers.LlavaConfig(vision_config=clip(), text_config=language()),
    "vipllava": lambda: transformers.VipLlavaConfig(
        vision_config=clip(), text_config=language(), vision_feature_layer=[-2, -5, -8, -11, 6]
    ),
    "llava_next": lambda: transformers.LlavaNextConfig(
        vision_config=clip(), text_config=language(), image_grid_pinpoints=PINPOINTS
    ),
    "llava_next_video": lambda: transformers.LlavaNextVideoConfig(
        vision_config=clip(), text_config=language(), image_grid_pinpoints=PINPOINTS
    ),
    "video_llava": lambda: transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP | {"image_size": 224}),
        text_config=language(),
    ),
    "llava_onevision": lambda: transformers.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=transformers.Qwen2Config(**LLAMA, num_attention_heads=32),
        vision_aspect_ratio="anyres_max_9",
    ),
    "internvl": lambda: transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(),
        text_config=transformers.Qwen2Config(**LLAMA, num_attention_heads=32),
    ),
}
