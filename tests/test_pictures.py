"""Pictures are a user's or drawn, and can be looked at as the encoder sees them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from toy import PATCHES, pictures, tiny_llava

from prumerge import Settings, attach, encode, names
from prumerge.mini.model import build_processor
from prumerge.pictures import as_seen, encode_pictures, grid_of, load_pictures, to_pixels

RED = (250, 10, 20)


def put(path, size=(40, 30), colour=RED, mode="RGB", **options):
    Image.new(mode, size, colour).save(path, **options)


def test_pictures_of_a_folder_come_by_name_up_to_the_count(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp"):
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = load_pictures(tmp_path, count=2)
    assert [picture.name for picture in found] == ["a.png", "b.JPG"]
    assert [picture.image.mode for picture in found] == ["RGB", "RGB"]
    assert found[0].image.size == (40, 30)
    assert [(p.scene, p.objects, p.covered) for p in found] == [(None, None, None)] * 2
    assert len(load_pictures(str(tmp_path), count=9)) == 3


def test_transparent_grey_and_palette_pictures_become_red_green_blue(tmp_path):
    put(tmp_path / "1.png", mode="RGBA", colour=(*RED, 0))
    put(tmp_path / "2.png", mode="L", colour=7)
    put(tmp_path / "3.gif", mode="P", colour=0)
    colours = [picture.image.getpixel((0, 0)) for picture in load_pictures(tmp_path, count=3)]
    assert colours == [(255, 255, 255), (7, 7, 7), (0, 0, 0)]


def test_a_picture_is_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    put(tmp_path / "1.jpg", exif=exif)
    assert load_pictures(tmp_path, count=1)[0].image.size == (30, 40)


@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_an_unreadable_picture_is_named(tmp_path, content, monkeypatch):
    # lmms-eval, once imported anywhere in a run, has Pillow fill half pictures with grey.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    put(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"broken\.png is no readable picture.*remove or replace"):
        load_pictures(tmp_path, count=5)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no picture: put"):
        load_pictures(tmp_path, count=5)
    with pytest.raises(ValueError, match=r"no folder .*missing"):
        load_pictures(tmp_path / "missing", count=5)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(ValueError, match=r"folder .* cannot be read \(Permission denied\)"):
        load_pictures(tmp_path, count=5)


def test_a_picture_too_large_to_open_is_named(tmp_path, monkeypatch):
    put(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"huge\.png is no readable picture.*remove or replace"):
        load_pictures(tmp_path, count=5)


@pytest.mark.parametrize("count", [0, -1])
def test_no_pictures_are_refused(count):
    with pytest.raises(ValueError, match="count must be at least 1"):
        load_pictures(None, count)


@pytest.mark.parametrize("folder", [None, ""])
def test_drawn_scenes_bring_their_truth(folder):
    found = load_pictures(folder, count=14)
    things = [len(picture.scene.things) for picture in found]
    assert things == [*range(1, 13), 1, 2]
    for picture in found:
        assert picture.image.size == (192, 192)
        assert picture.objects in (len(picture.scene.things), len(picture.scene.things) + 1)
        assert (picture.covered.reshape(24, 24) == (picture.scene.owner > 0)).all()
        assert np.array_equal(np.asarray(picture.image), picture.scene.pixels)


def test_the_seed_decides_the_scenes_and_fewer_are_the_first_of_more():
    one, same, other = (
        load_pictures(None, 2),
        load_pictures(None, 5),
        load_pictures(None, 2, seed=1),
    )
    assert np.array_equal(one[1].scene.pixels, same[1].scene.pixels)
    assert not np.array_equal(one[1].scene.pixels, other[1].scene.pixels)


def test_small_grids_hold_fewer_objects():
    found = load_pictures(None, count=7, grid=12)
    assert max(len(picture.scene.things) for picture in found) == 6
    assert found[0].covered.shape == (144,)


def test_what_the_encoder_sees_is_the_drawn_picture():
    processor, found = build_processor(24), load_pictures(None, count=3)
    pixel_values = to_pixels(processor, found)
    assert pixel_values.shape == (3, 3, 192, 192)
    assert np.array_equal(as_seen(processor, pixel_values)[2], found[2].scene.pixels)
    assert torch.equal(to_pixels(processor, [found[1].image]), pixel_values[1:2])


def test_what_the_encoder_sees_of_a_wide_picture_is_its_middle(tmp_path):
    wide = np.zeros((50, 150, 3), dtype=np.uint8)
    wide[:, 50:100] = RED
    Image.fromarray(wide).save(tmp_path / "wide.png")
    processor = build_processor(12)
    seen = as_seen(processor, to_pixels(processor, load_pictures(tmp_path, 1)).bfloat16())
    assert seen.shape == (1, 96, 96, 3)
    assert abs(seen[0, 48, 48].astype(int) - RED).max() <= 1  # bfloat16 has 3 digits
    assert abs(seen[0, :, 4:-4].astype(int) - RED).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_encoding_in_batches_equals_encoding_at_once(batch_size):
    model, pixel_values = tiny_llava(), pictures(3)
    settings = Settings(score="head_mean", key_layer=1)
    found = encode_pictures(model, pixel_values, settings, batch_size)
    with torch.no_grad():
        wanted = encode(model.model.vision_tower, pixel_values, settings, feature_layer=-2)
    assert found.grid == (4, 4)
    for name in ("features", "keys", "scores"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
        assert not getattr(found, name).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", names())
def test_what_is_encoded_in_batches_is_reduced_as_inside_the_model(name, dtype):
    model, pixel_values = tiny_llava(dtype=dtype), pictures(4)
    with attach(model, name, budget=6) as reducer:
        inside = reducer.method(reducer.encode(pixel_values))
        encoded = encode_pictures(model, pixel_values, reducer.settings, batch_size=2)
        found = reducer.method(encoded)
        some = reducer.method(encoded.at(torch.tensor([3, 1, 3])))
    for image, places in enumerate(inside.positions):
        assert torch.equal(found.positions[image], places)
        close = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(found.tokens[image], inside.tokens[image].float(), **close)
        assert not found.tokens[image].requires_grad
    for image, source in enumerate([3, 1, 3]):
        torch.testing.assert_close(some.tokens[image], found.tokens[source])


def test_the_grid_of_a_model():
    assert grid_of(tiny_llava()) ** 2 == PATCHES
