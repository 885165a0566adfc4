"""Questions reach any LLaVA in the words of its own template, attached or not."""

import contextlib

import pytest
import torch

import prumerge
from prumerge import attach, encode, resolve
from prumerge.mini.batches import PROMPT_START
from prumerge.mini.families import Question
from prumerge.mini.model import Pretraining, Size, build_processor
from prumerge.mini.pictures import load_pictures, to_pixels
from prumerge.mini.questions import Item, answers
from prumerge.models.asking import answer, ask, prompt_of

SMALL = Size(
    grid=12, vision_width=32, vision_blocks=2, language_width=32, language_blocks=1, heads=2
)
QUESTIONS = ["what colour is the circle ?", "is there a red 7 ?", "where is the blue star ?"]


@pytest.fixture(scope="module")
def small():
    """An untrained mini-LLaVA, its processor, three pictures."""
    torch.manual_seed(0)
    model = Pretraining(SMALL).llava.eval()
    model.generation_config.update(bos_token_id=1, eos_token_id=3, pad_token_id=0)
    return model, build_processor(SMALL.grid), load_pictures(None, 3, grid=SMALL.grid)


def test_prompt_is_the_one_of_training(small):
    _, processor, _ = small
    ids = processor.tokenizer(prompt_of(processor, QUESTIONS[0]))["input_ids"]
    trained = [*PROMPT_START, "<image>", *f"{QUESTIONS[0]} assistant :".split()]
    assert processor.tokenizer.convert_ids_to_tokens(ids) == trained


def test_answers_are_those_of_the_benchmark_whatever_the_batch(small):
    model, processor, pictures = small
    items = [
        Item(picture.scene, Question("any", text, ""))
        for picture, text in zip(pictures, QUESTIONS, strict=True)
    ]
    wanted = [text for item in items for text in answers(model, processor, [item])]
    images = [picture.image for picture in pictures]
    for batch_size in (1, 2, 16):
        assert answer(model, processor, images, QUESTIONS, batch_size=batch_size) == wanted


def test_an_attached_reducer_works_as_in_any_other_call(small):
    model, processor, pictures = small
    images = [picture.image for picture in pictures]
    with prumerge.attach(model, "uniform", budget=9) as reducer:
        assert len(answer(model, processor, images, QUESTIONS)) == 3
        assert reducer.kept == [9, 9, 9]


def test_unequal_numbers_are_refused(small):
    model, processor, pictures = small
    with pytest.raises(ValueError, match="1 pictures and 3 questions"):
        answer(model, processor, [pictures[0].image], QUESTIONS)


def test_a_processor_without_template_is_refused(small, monkeypatch):
    _, processor, _ = small
    monkeypatch.setattr(processor, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        prompt_of(processor, "what is it ?")


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (None, {}),
        ("release", {}),
        ("release", {"budget": 9, "positions": "original", "order": "raster"}),
    ],
)
def test_pictures_read_once_give_the_answers_of_whole_prompts(small, method, settings, beams):
    model, processor, pictures = small
    places = [2, 0, 0, 1, 2, 0]  # questions about one picture need not stand together
    prompts = [prompt_of(processor, QUESTIONS[number % 3]) for number in range(len(places))]
    pixels = to_pixels(processor, pictures)
    inputs = processor(
        images=[pictures[place].image for place in places],
        text=prompts,
        padding=True,
        return_tensors="pt",
    )
    how = {"max_new_tokens": 4, "num_beams": beams}
    attached = attach(model, method, **settings) if method else contextlib.nullcontext()
    with attached as reducer:
        output = model.generate(**inputs, do_sample=False, **how)
        kept = reducer.kept if reducer else [SMALL.grid**2] * len(places)
    new = output[:, inputs["input_ids"].shape[1] :]
    wanted = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    reduce = method and resolve(method, **settings)
    seen = encode(model.model.vision_tower, pixels, reduce.settings) if reduce else pixels
    given = ask(model, processor, seen, prompts, places, reduce, **how)
    assert [one.text for one in given] == wanted
    assert [one.visual_tokens for one in given] == kept


def test_what_cannot_share_a_picture_is_refused(small):
    model, processor, pictures = small
    pixels, prompt = to_pixels(processor, pictures[:1]), prompt_of(processor, QUESTIONS[0])
    with attach(model, "release"), pytest.raises(ValueError, match="detach it"):
        ask(model, processor, pixels, [prompt], [0])
    with pytest.raises(ValueError, match="must begin alike"):
        ask(model, processor, pixels, [prompt, f"what {prompt}"], [0, 0])
    with pytest.raises(ValueError, match="one mark of a picture"):
        ask(model, processor, pixels, ["what colour is it ?"], [0])
