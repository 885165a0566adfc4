"""The text tower is CLIP's own, and its relevance reaches a method inside a model."""

import dataclasses

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

import prumerge
from prumerge.draw.looking import draw_picture
from prumerge.mini.model import END, IDS, START, build_tokenizer
from prumerge.mini.pictures import to_pixels
from prumerge.mini.relevance import read_text
from prumerge.models import load
from prumerge.paths import MINI


def tiny_clip(folder, longest=12):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {
        "vocab_size": len(IDS),
        "max_position_embeddings": longest,
        "bos_token_id": IDS[START],
        "eos_token_id": IDS[END],
    }
    vision = {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config=shape | text | {"num_hidden_layers": 2},
            vision_config=shape | vision | {"num_hidden_layers": 2},
            projection_dim=8,
        )
    )
    clip.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return clip.eval()


@torch.no_grad()
def test_relevance_is_clips_own_cosine(tmp_path):
    clip = tiny_clip(tmp_path)
    reader = read_text(tmp_path)
    hidden = clip.vision_model(torch.randn(2, 3, 8, 8)).last_hidden_state
    questions = ["is there a circle ?", "how many digit are there"]
    found = reader.relevance(hidden[:, 1:], questions)
    for row, question in enumerate(questions):
        ids = torch.tensor([[IDS[START], *(IDS[word] for word in question.split()), IDS[END]]])
        text = clip.get_text_features(input_ids=ids)
        text = getattr(text, "pooler_output", text)
        patches = clip.visual_projection(clip.vision_model.post_layernorm(hidden[row, 1:]))
        expected = torch.cosine_similarity(patches, text, dim=-1)
        torch.testing.assert_close(found[row], expected)


@torch.no_grad()
def test_long_questions_are_read_in_pieces(tmp_path):
    tiny_clip(tmp_path, longest=6)
    reader = read_text(tmp_path)
    features = torch.randn(1, 4, 16)
    first, second = "is there a circle", "which digit is there"
    whole = reader.relevance(features, [f"{first} {second}"])
    parts = [reader.relevance(features, [text]) for text in (first, second)]
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)
    assert reader.relevance(features, [""]).isfinite().all()


def test_what_does_not_fit_is_told(tmp_path):
    tiny_clip(tmp_path)
    reader = read_text(tmp_path)
    with pytest.raises(ValueError, match=r"features have width 12, this CLIP's encoder 16"):
        reader.relevance(torch.randn(1, 4, 12), ["a"])
    with pytest.raises(ValueError, match=r"cannot load '.*nothing'|no model"):
        read_text(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"type 'llava'\) holds no text tower of a CLIP: name"):
        read_text(MINI)


@torch.no_grad()
def test_the_minis_text_tower_tells_questions_apart_inside_the_model():
    model, processor = load()
    pixels = to_pixels(processor, [draw_picture(2, 6)])
    prompt = "user : <image> what colour is the circle ? assistant :"
    inputs = processor.tokenizer([prompt.replace("<image>", "<image> " * 576)] * 2)
    ids = torch.tensor(inputs["input_ids"])
    reader = read_text()
    with prumerge.attach(model, "cdpruner", budget=32) as reducer:
        pictures = reducer.encode(pixels).at(torch.tensor([0, 0]))
        asked = reader.ask(pictures, ["a red circle", "the number 7"])
        model.generate(input_ids=ids, pixel_values=asked, max_new_tokens=2, do_sample=False)
        red, number = (set(places.tolist()) for places in reducer.reduction.positions)
        with pytest.raises(ValueError, match=r"2 pictures and 1 questions: one for each"):
            reader.ask(pictures, ["a red circle"])
        with pytest.raises(ValueError, match=r"holds no relevance: add it with"):
            model.generate(input_ids=ids[:1], pixel_values=pixels, max_new_tokens=2)
    assert red != number and len(red) == len(number) == 32
    same = dataclasses.replace(asked, relevance=asked.relevance[:1].expand(2, -1))
    with prumerge.attach(model, "cdpruner", budget=32) as reducer:
        model.generate(input_ids=ids, pixel_values=same, max_new_tokens=2, do_sample=False)
        assert torch.equal(*reducer.reduction.positions)
