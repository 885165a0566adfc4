"""Pictures in tiles are evaluated as others are: a LLaVA-NeXT answers as it does by itself."""

import numpy as np
import pytest
import torch
import transformers
from evaluated import save_tiny_next
from PIL import Image
from published import REAL

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")

from prumerge import attach
from prumerge.experiments.evaluation import mini_tasks
from prumerge.experiments.evaluation.comparison import evaluate
from prumerge.experiments.evaluation.harness import PruMergeLlava
from prumerge.experiments.evaluation.options import read
from prumerge.experiments.evaluation.preflight import preflight
from prumerge.experiments.evaluation.tasks import drawn_for, task_manager, tasks_named
from prumerge.mini.styles import LARGE
from prumerge.models import load
from prumerge.models.asking import prompt_of
from prumerge.paths import MINI_NEXT

QUESTIONS = (
    "what colour is the circle ?",
    "is there a red 7 ?",
    "where is the blue 7 ?",
    "how many red objects are there ?",
    "what number is on the sign ?",
)
LENGTHS = {"max_new_tokens": 5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_next(tmp_path_factory.mktemp("tiny"))


def pictures(edge):
    """Of several shapes in tiles, the first asked about twice."""
    rng = np.random.default_rng(0)
    sizes = [(2, 2), (3, 1), (1, 2), (4 / 3, 2)]
    shapes = [(round(rows * edge), round(columns * edge), 3) for rows, columns in sizes]
    drawn = [Image.fromarray(rng.integers(0, 256, own).astype(np.uint8)) for own in shapes]
    return [*drawn, drawn[0].copy()]


def answered(model, processor, shown, **options):
    """What ``generate`` says of each prompt alone: texts, and lengths of the full prompts."""
    found = []
    for picture, question in zip(shown, QUESTIONS, strict=True):
        prompt = prompt_of(processor, question)
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, **LENGTHS, **options)
        new = output[0, inputs["input_ids"].shape[1] :]
        text = processor.decode(new, skip_special_tokens=True).strip()
        found.append((text, inputs["input_ids"].shape[1]))
    return zip(*found, strict=True)


@pytest.mark.parametrize("which", ["tiny", "mini-next"])
def test_all_tokens_are_answered_as_by_the_stock_model(which, tiny):
    if which == "mini-next" and not (MINI_NEXT / "model.safetensors").exists():
        pytest.skip("there is no data/mini-next")
    name, edge = (tiny, 48) if which == "tiny" else (which, 192)
    model, processor = load(name)
    shown = pictures(edge)
    texts, lengths = answered(model, processor, shown)
    answerer = PruMergeLlava(pretrained=name, device="cpu").answerer
    given = answerer.answer(shown, [answerer.prompt(q) for q in QUESTIONS], LENGTHS)
    assert tuple(a.text for a in given) == texts and len(set(texts)) > 1
    assert tuple(a.input_tokens for a in given) == lengths
    # Newlines, one behind each row of the stitched tiles, are no visual tokens.
    side = edge // 8
    newlines = [2 * side, 3 * side, side, round(4 / 3 * side), 2 * side]
    slots = [length - len(processor.tokenizer(prompt_of(processor, q))["input_ids"]) + 1
             for length, q in zip(lengths, QUESTIONS, strict=True)]  # fmt: skip
    pairs = zip(slots, newlines, strict=True)
    assert [a.visual_tokens for a in given] == [whole - own for whole, own in pairs]


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "all"},
        {"method": "prumerge+", "budget": 30},
        {"method": "divprune", "budget": 0.25, "share": "joint", "markers": "none"},
        {"method": "release", "positions": "original"},
    ],
    ids=str,
)
def test_reduced_tiles_are_answered_as_by_an_attached_model(arguments, tiny):
    shown, kept = pictures(48), []
    model, processor = load(tiny)
    with attach(model, **arguments) as reducer:
        alone = []
        for number in range(len(shown)):
            inputs = processor(
                images=shown[number], text=prompt_of(processor, QUESTIONS[number]),
                return_tensors="pt",
            )  # fmt: skip
            output = model.generate(**inputs, do_sample=False, **LENGTHS)
            new = output[0, inputs["input_ids"].shape[1] :]
            alone.append(processor.decode(new, skip_special_tokens=True).strip())
            kept += reducer.kept
    answerer = PruMergeLlava(pretrained=tiny, device="cpu", **arguments).answerer
    given = answerer.answer(shown, [answerer.prompt(q) for q in QUESTIONS], LENGTHS)
    assert [a.text for a in given] == alone and len(set(alone)) > 1
    assert [a.visual_tokens for a in given] == kept


def test_the_mini_benchmarks_are_drawn_in_tiles(tiny, tmp_path, monkeypatch):
    assert drawn_for(["mini", "mini_pope"], tiny) == ["mini-next", "mini_pope"]
    monkeypatch.setattr(mini_tasks, "MINI_TASKS", tmp_path)
    command = r"mini-next_pope are not drawn yet: python -m \S+mini_tasks lite mini-next$"
    with pytest.raises(ValueError, match=command):
        tasks_named(["mini-next_pope"], task_manager())
    monkeypatch.setitem(mini_tasks.LITE, "vqav2", 3)
    shapes = [scene.pixels.shape[:2] for scene, _ in mini_tasks.draw("vqav2", "lite", LARGE)]
    assert shapes == [tuple(8 * edge for edge in frame) for frame in LARGE.frames[:3]]


def save_own_pope(folder, image, questions):
    """Write a task in mini POPE's form that asks about one picture so many times."""
    picture = mini_tasks.encode_picture(np.asarray(image))
    columns = {"question": QUESTIONS[1], "answer": "yes", "category": "random", "image_id": 0}
    rows = [(picture, columns | {"question_id": number}) for number in range(questions)]
    mini_tasks.write(folder / "pope.parquet", rows)
    text = f"include: {task_manager().task_index['mini_pope']['yaml_path']}\ntask: own_pope\n"
    text += f"dataset_kwargs: {{data_files: {{test: {folder / 'pope.parquet'}}}}}\n"
    (folder / "own_pope.yaml").write_text(text)


def test_a_task_is_scored_by_the_harness(tiny, tmp_path, monkeypatch):
    """Its questions are drawn small, as tiles of 6 x 6 patches."""
    save_own_pope(tmp_path, pictures(48)[0], 3)
    options = {"pretrained": tiny, "device": "cpu", "folders": [tmp_path]}
    rows, _ = evaluate(["own_pope"], **options, method="prumerge+", budget=30)
    assert rows["tokens_mean"].unique().tolist() == [30] and set(rows["items"]) == {3}


def test_none_is_a_value_where_a_setting_has_it():
    options = read({"method": "prumerge+", "markers": "none", "budget": "none", "spatial": "none"})
    assert options.settings == {"markers": "none", "budget": None, "spatial": "none"}


def found(pretrained, **options):
    """Findings of a preflight by need."""
    methods = {"full": read({"pretrained": str(pretrained)} | options)}
    methods["few"] = read(
        {"pretrained": str(pretrained), "method": "top_k", "budget": 64} | options
    )
    return {own.need: own for own in preflight(methods, ["mini_pope"])}


def test_preflight_asks_a_small_model_of_the_same_class(tiny):
    told = found(tiny, device="cpu")
    assert told["one question of each task"].ready, told["one question of each task"].note
    assert told["processor"].ready and told["memory"].ready
    assert "180 visual tokens of 5 tiles" in told["memory"].note


@pytest.mark.parametrize(
    ("family", "memory", "time"),
    [
        ("llava_next", "2,880 visual tokens of 5 tiles", "about 2304 visual tokens each"),
        ("llava_onevision", "8,019 visual tokens of 11 tiles", "visual tokens each"),
        ("video_llava", "batch size 16, 256 visual tokens", "about 256 visual tokens each"),
        ("internvl", "its processor decides, not its config", "its processor decides"),
        ("vipllava", "GiB in 16 bits at batch size 16", "about 576 visual tokens each"),
    ],
)
def test_preflight_reads_sizes_from_the_config_of_every_family(family, memory, time, tmp_path):
    REAL[family]().save_pretrained(tmp_path)
    told = found(tmp_path, device="cuda")
    assert memory in told["memory"].note
    assert told["weights"].ready is False and told["processor"].ready is None
    lengths = [own.note for need, own in told.items() if need.startswith("time")]
    assert time in lengths[0]
    if family != "internvl":
        assert "about 64 visual tokens each" in lengths[1] and "on one H100" in lengths[2]


def test_a_qwen_without_its_processor_is_costed_at_the_usual_size_alone(tmp_path):
    transformers.Qwen2_5_VLConfig().save_pretrained(tmp_path)
    told = found(tmp_path, device="cuda")
    assert told["memory"].note == "how large a picture may be its processor says, which is not here"
    lengths = [own.note for need, own in told.items() if need.startswith("time")]
    assert "about 391 visual tokens each" in lengths[0] and "on one H100" in lengths[0]


def test_sizes_that_no_name_tells_are_not_guessed():
    """Neither is the name of another family's checkpoint taken for LLaVA-1.5's."""
    told = found("llava-hf/llava-v1.6-mistral-7b-hf", device="cuda")
    assert told["memory"].note == "the sizes of this model are not known here"
    assert told["time"].ready is None and "not known before" in told["time"].note


def test_what_is_no_family_is_told(tmp_path):
    transformers.MllamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'mllama'\): only models of the types 'llava',"):
        PruMergeLlava(pretrained=str(tmp_path), device="cpu")
