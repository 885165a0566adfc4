"""Instruction data in LLaVA's format: both forms, and every bad record by file and number."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFile
from small_tower import PLAINER

from prumerge.experiments.finetuning.data import (
    InstructionFile,
    RecordError,
    SceneInstructions,
    read_spans,
    to_record,
    write_scenes,
)

ASKED = "What are the colours of the bus — précisément ?"
SAID = 'White, and "red" \\ {braces} [too].'


def record(number=0, image="a.png", first=None, **changes):
    value = f"<image>\n{ASKED} {number}" if image else ASKED
    turns = [
        {"from": "human", "value": first or value},
        {"from": "gpt", "value": SAID},
        {"from": "human", "value": "And now?"},
        {"from": "gpt", "value": "Still."},
    ]
    return {"id": str(number), "image": image, "conversations": turns} | changes


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path


def write(folder, records, form):
    if form == "lines":
        text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n"
    else:
        text = json.dumps(records, ensure_ascii=False, indent=1 if form == "indented" else None)
    path = folder / f"data-{form}.json"
    text = ("\ufeff" if form == "indented" else "") + text.replace("\ud83d", "\\ud83d")
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["array", "indented", "lines"])
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_both_forms_are_read_record_by_record(folder, form, piece, monkeypatch):
    monkeypatch.setattr("prumerge.experiments.finetuning.data._PIECE_CHARACTERS", piece)
    written = [record(0), record(1, image=None), record(2)]
    del written[1]["image"]
    found = InstructionFile(write(folder, written, form), folder)
    assert len(found) == 3 and not found.problems
    for index in (2, 0, 1):
        read, picture = found[index]
        assert read.turns == (
            (ASKED if index == 1 else f"{ASKED} {index}", SAID), ("And now?", "Still."),
        )  # fmt: skip
        assert (picture is None) == (read.image is None) == (index == 1)


def test_an_array_is_never_held_whole(folder, monkeypatch):
    monkeypatch.setattr("prumerge.experiments.finetuning.data._PIECE_CHARACTERS", 500)
    path = write(folder, [record(n) for n in range(200)], "array")
    spans = read_spans(path)
    with path.open("r+") as file:  # the end is broken only after reading has begun
        next(spans)
        file.truncate(path.stat().st_size // 2)
    seen = list(spans)
    assert 80 < len(seen) < 120 and isinstance(seen[-1].value, json.JSONDecodeError)


BAD = {
    "no placeholder": (record(first="What?"), "0 <image> for 1 picture"),
    "two placeholders": (record(first="<image><image> What?"), "2 <image> for 1 picture"),
    "a placeholder without picture": (
        record(image=None, first="<image> What?"), "1 <image> for 0 pictures",
    ),
    "no such picture": (record(image="b/gone.png"), "no picture"),
    "not in turn": (
        record(conversations=[{"from": "gpt", "value": "Yes."}]), "turn 1 must be from 'human'",
    ),
    "no answer": (
        record(conversations=[{"from": "human", "value": "<image> What?"}]), "has no answer",
    ),
    "no text": (record(conversations=[{"from": "human", "value": 3}]), "no text"),
    "half a character": (record(first="<image> What \ud83d?"), "turn 1 has half a character"),
    "no turns": ({"id": "7"}, "no 'conversations'"),
    "no record": ([1], "no 'conversations'"),
    "several pictures": (record(image=["a.png", "a.png"]), "must be one path"),
    "several videos": (record(image=None, video=["a", "b"]), "'video' must be one path"),
    "a video without placeholder": (record(image=None, video="a"), "0 <video> for 1 video:"),
    "no such video": (
        record(image=None, video="gone", first="<video> What?"), "no video",
    ),
    "picture and video": (record(video="a.png"), "both 'image' and 'video'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_bad_record_stops_or_is_left_out_and_counted(folder, name, form):
    bad, words = BAD[name]
    path = write(folder, [record(0), bad, record(2)], form)
    with pytest.raises(RecordError) as raised:
        InstructionFile(path, folder)
    assert f"{path}, record 2" in str(raised.value) and words in str(raised.value)
    found = InstructionFile(path, folder, "skip")
    assert len(found) == 2 and [str(raised.value)] == found.problems
    assert [found[i][0].where for i in (0, 1)] == [f"{path}, record {n}" for n in (1, 3)]


@pytest.mark.parametrize("form, left", [("lines", 2), ("array", 1)])
def test_a_truncated_record_is_named(folder, form, left):
    path = write(folder, [record(0), record(1), record(2)], form)
    text = path.read_text(encoding="utf-8")
    cut = text.index("And now?", text.index('"id": "1"'))
    rest = text[text.index("\n", cut) :] if form == "lines" else ""
    path.write_text(text[:cut] + rest, encoding="utf-8")
    with pytest.raises(RecordError, match="record 2: broken or truncated JSON"):
        InstructionFile(path, folder)
    found = InstructionFile(path, folder, "skip")
    assert len(found) == left and len(found.problems) == 1


@pytest.mark.parametrize("form, ends", [("lines", "\n"), ("array", "\n"), ("indented", "\r\n")])
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_a_byte_that_is_no_utf8_costs_its_record_alone(folder, form, ends, piece, monkeypatch):
    monkeypatch.setattr("prumerge.experiments.finetuning.data._PIECE_CHARACTERS", piece)
    path = write(folder, [record(n) for n in range(3)], form)
    first, *rest = path.read_bytes().replace(b"\n", ends.encode()).split("précisément".encode())
    path.write_bytes(first + "précisément".encode() + "précisément".encode("latin1").join(rest))
    with pytest.raises(RecordError) as raised:
        InstructionFile(path, folder)
    assert f"{path}, record 2: b'\\xe9' at byte " in str(raised.value)
    assert "save the file in UTF-8" in str(raised.value)
    found = InstructionFile(path, folder, "skip")
    assert [p.split(":")[0] for p in found.problems] == [f"{path}, record {n}" for n in (2, 3)]
    assert found[0][0].turns[0] == (f"{ASKED} 0", SAID)


def test_windows_line_ends_do_not_shift_the_records(folder):
    path = write(folder, [record(n) for n in range(3)], "indented")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = InstructionFile(path, folder)
    assert [found[n][0].turns[0][0] for n in range(3)] == [f"{ASKED} {n}" for n in range(3)]


def test_an_unreadable_picture_gives_way_to_the_next_record(folder, monkeypatch):
    # lmms-eval, once imported anywhere in a run, has Pillow fill half pictures with grey.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    path = write(folder, [record(0), record(1, image="b.png"), record(2)], "array")
    with pytest.raises(RecordError, match=r"record 2: .*b.png is no readable picture"):
        InstructionFile(path, folder)[1]
    found = InstructionFile(path, folder, "skip")
    assert found[1][0].where == f"{path}, record 3" and len(found.problems) == 1
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no picture or clip of .* can be read"):
        found[0]


def test_a_check_refuses_records_too(folder):
    def check(read):
        if "2" in read.turns[0][0]:
            raise RecordError(f"{read.where}: too long")

    path = write(folder, [record(n) for n in range(3)], "lines")
    found = InstructionFile(path, folder, "skip", check)
    assert found.problems == [f"{path}, record 3: too long"]


@pytest.mark.parametrize(
    "text, words",
    [("", "neither a JSON array"), ("id,image\n", "neither"), ("[]", "no record to train on")],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        InstructionFile(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no instruction file"):
        InstructionFile(tmp_path / "none.json")
    with pytest.raises(ValueError, match="on_problem must be 'stop' or 'skip'"):
        InstructionFile(tmp_path / "x.json", on_problem="ignore")


@pytest.mark.parametrize("lines", [False, True])
def test_scenes_are_written_as_they_are_drawn(tmp_path, lines):
    scenes = SceneInstructions(3, turns=2, grid=8, seed=4)
    found = InstructionFile(write_scenes(tmp_path, scenes, lines), tmp_path / "images")
    assert len(found) == len(scenes) == 3
    for index in range(3):
        (read, picture), (drawn, expected) = found[index], scenes[index]
        assert read.turns == drawn.turns and 1 <= len(read.turns) <= 2
        assert np.array_equal(np.asarray(picture), np.asarray(expected))
    assert scenes[0][0].turns != SceneInstructions(3, 2, 8, seed=5)[0][0].turns
    assert SceneInstructions(1, 2, 12, style=PLAINER)[0][1].size == (12 * 14, 12 * 14)


def test_null_is_no_picture():
    assert to_record(record(image=None), "x").image is None
