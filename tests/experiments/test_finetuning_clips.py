"""Training on clips, and on pictures by a model of clips: batches, loss, resume; what is refused.

The models are tiny and of random weights: the stock model is what they are held against.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from evaluated import FRAMES as FORM
from evaluated import OPEN, answers_in, conversation, save_tiny_of, text_of
from families import TRIED
from PIL import Image
from test_finetuning_tiles import LORA, TURNS, arguments

from prumerge import attach
from prumerge.experiments.finetuning.__main__ import main
from prumerge.experiments.finetuning.data import InstructionFile, Record, RecordError
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.experiments.finetuning.tuning import most_slots, tune
from prumerge.methods import resolve
from prumerge.mini.model import build_processor
from prumerge.models.preprocessing import of_pictures, prepare
from prumerge.models.videos import evenly_spaced, load_clips, open_frames, open_model

pytestmark = TRIED
FRAMES, DRAWN = 3, 5
SHOWN = ({"video": "clip"}, {"image": "a.png"}, {}, {"video": "clip.gif"})


@pytest.fixture(scope="module", params=["llava_next_video", "llava_onevision", "video_llava"])
def tiny(request, tmp_path_factory):
    """A family, its checkpoint, the model in it, and what prepares pictures, and clips."""
    folder = tmp_path_factory.mktemp(request.param)
    name = save_tiny_of(request.param, folder)
    if request.param in FORM:  # frames are prepared otherwise than pictures
        (folder / "video_preprocessor_config.json").write_text(json.dumps(FORM[request.param]))
    model, processor = open_model(name)
    return request.param, name, model, processor, load_clips(name, model.config)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records about a folder of frames, a picture, nothing, and a moving picture."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (DRAWN, 40, 60, 3), dtype=np.uint8)
    first, *others = frames = [Image.fromarray(own) for own in pixels]
    (folder / "clip").mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / "clip" / f"{number}.png")
    first.save(folder / "clip.gif", save_all=True, append_images=others)
    first.save(folder / "a.png")
    records = []
    for number, shown in enumerate(SHOWN):
        said = [text for turn in TURNS[: 1 + number % 2] for text in turn]
        said[0] = "".join(f"<{kind}>\n" for kind in shown) + said[0]
        turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
        records.append({**shown, "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def samples_of(tiny, data):
    *_, processor, clips = tiny
    examples = InstructionFile(data / "data.json", data, frames=FRAMES)
    return [to_sample(processor, *examples[n], 0, clips=clips) for n in range(len(examples))]


def test_samples_are_what_processor_and_template_say(tiny, data):
    family, _, model, processor, clips = tiny
    films = [evenly_spaced(open_frames(data / name), FRAMES) for name in ("clip", "clip.gif")]
    picture = prepare(of_pictures(processor), [Image.open(data / "a.png")])
    said = [conversation(TURNS[: 1 + number % 2], *shown) for number, shown in enumerate(SHOWN)]
    film, still, words, moving = ([text_of(family, processor, own)] for own in said)
    stock = [
        clips(film, films[:1]),
        processor(text=still, images=picture, return_tensors="pt"),
        processor(text=words, return_tensors="pt"),
        clips(moving, films[1:]),
    ]
    samples = samples_of(tiny, data)
    for sample, wanted in zip(samples, stock, strict=True):
        assert sample["input_ids"] == wanted["input_ids"][0].tolist()
        for key in {*wanted} - {"input_ids", "attention_mask"}:
            assert torch.equal(sample[key], wanted[key]), key
    learnt = [[i for i in sample["labels"] if i != -100] for sample in samples]
    told = ["red </s>", "red </s> no </s>"]
    assert [processor.tokenizer.decode(own) for own in learnt] == told * 2
    if family not in OPEN:
        assert learnt == [answers_in(processor, own) for own in said]
    most = most_slots(model, processor, FRAMES)
    assert samples[0]["input_ids"].count(model.config.video_token_id) == most


def test_the_loss_is_the_stock_models_and_its_gradients_reach_the_projector(tiny, data):
    _, _, model, processor, _ = tiny
    samples = samples_of(tiny, data)
    batch = collate(samples, processor.tokenizer.pad_token_id)
    assert batch["pixel_values_videos"].shape[:2] == (2, FRAMES)
    assert len({*batch["attention_mask"].sum(1).tolist()}) == len(samples)  # unequal lengths
    with torch.no_grad():
        stock = model(**batch).loss
        with attach(model, "all", order="raster"):
            torch.testing.assert_close(model(**batch).loss, stock)
    clip = collate(samples[:1], processor.tokenizer.pad_token_id)
    with attach(model, "prumerge+", budget=6) as reducer:
        few = model(**batch).loss.item()
        assert reducer.kept == [6, 6, 6] and few != stock
        model(**clip).loss.backward()
    for name, weight in model.model.multi_modal_projector.named_parameters():
        assert weight.grad.abs().max() > 0, name
    model.zero_grad()


def test_a_training_goes_on_from_a_checkpoint_to_the_same_weights(tiny, data, tmp_path):
    family, name, _, processor, clips = tiny
    examples = InstructionFile(data / "data.json", data, frames=FRAMES)
    saving = arguments(tmp_path, save_strategy="steps", save_steps=1)
    own = None if family == "video_llava" else clips  # its processor prepares clips by itself

    def trained():
        given = (open_model(name)[0], processor, examples, saving, LORA)
        return dict(tune(*given, resolve("prumerge+", budget=6), clips=own)[0].named_parameters())

    once = trained()
    learnt = {key for key, value in once.items() if "lora_B" in key and value.abs().max() > 0}
    assert len(learnt) == 2 * 7 and all(".language_model." in key for key in learnt)
    before = dict(tiny[2].named_parameters())
    for key, value in once.items():
        if "modules_to_save" in key:
            assert ".multi_modal_projector." in key
            stock = key.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
            assert not torch.equal(value, before[stock]), key
    shutil.rmtree(tmp_path / "checkpoint-2")
    for key, value in trained().items():
        torch.testing.assert_close(value, once[key], msg=key)


@pytest.mark.parametrize("tiny", ["video_llava"], indirect=True)
def test_the_command_tunes_on_clips_and_the_adapter_is_evaluated(tiny, data, tmp_path, capsys):
    _, name, model, *_ = tiny
    words = f"train --data {data / 'data.json'} --images {data} --model {name} --frames {FRAMES}"
    words += f" --output_dir {tmp_path} --max_steps 2 --rank 4 --learning_rate 1e-2 --do_pad false"
    words += " --use_cpu True --disable_tqdm True --reduce method=prumerge+ budget=6"
    assert main(words.split()) == 0
    assert "4 records, 0 left out" in capsys.readouterr().out
    videos = pytest.importorskip("prumerge.experiments.evaluation.videos", exc_type=ImportError)
    asked = videos.PruMergeVideo(pretrained=name, adapter=str(tmp_path))
    key = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(asked.model.state_dict()[key], model.state_dict()[key])
    assert main([*words.split(), "--max_length", "20"]) == 1
    assert "record 1: " in (told := capsys.readouterr().err) and "max_length=20" in told


def test_a_clip_of_few_frames_is_told_or_gives_way(data):
    with pytest.raises(RecordError, match="record 1: cannot choose 6 of 5 frames"):
        InstructionFile(data / "data.json", data, frames=6)[0]
    found = InstructionFile(data / "data.json", data, "skip", frames=6)
    assert found[0][0].image == "a.png" and len(found.problems) == 1


def test_what_cannot_be_shown_is_told_in_a_sentence(tiny, data):
    *_, processor, clips = tiny
    clip = Record("r", None, TURNS, video="clip")
    with pytest.raises(RecordError, match=r"r: a Video-LLaVA, .* leave the record out"):
        to_sample(build_processor(4), clip, None, 1)
    marked = Record("r", None, (("where is the <video> ?", "no"),))
    with pytest.raises(RecordError, match="r: the model reads 1 <video> for 0 videos"):
        to_sample(processor, marked, None, 0, clips=clips)
    assert to_sample(build_processor(4), marked, None, 0)["labels"]  # words like any other
    frames = open_frames(data / "clip")
    unequal = [to_sample(processor, clip, frames[:n], 0, clips=clips) for n in (2, 3)]
    with pytest.raises(ValueError, match="videos of 2 and 3 frames in one batch"):
        collate(unequal, 0)
