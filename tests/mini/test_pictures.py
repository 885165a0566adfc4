"""Pictures are a user's or drawn, and can be looked at as the encoder sees them."""

import importlib.util
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from small_tower import PLAINER, draw_few_digits
from test_finetuning import tiny_mini
from toy import PATCHES, pictures, tiny_llava

from prumerge import Settings, attach, encode, names, resolve
from prumerge.draw.explorer import Explorer
from prumerge.draw.looking import draw_picture
from prumerge.experiments.finetuning.data import Record
from prumerge.experiments.finetuning.samples import to_sample
from prumerge.mini.model import build_processor
from prumerge.mini.pictures import (
    PHOTOGRAPHS,
    Photograph,
    as_seen,
    encode_pictures,
    grid_of,
    load_pictures,
    read_picture,
    to_pixels,
)
from prumerge.mini.styles import PLAIN
from prumerge.models.asking import answer
from prumerge.models.preprocessing import open_picture, to_rgb

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


@pytest.mark.parametrize("content", [b"", b"no picture at all", "png", "jpeg", "gif", "webp"])
@pytest.mark.parametrize("lenient", [False, True])
def test_an_unreadable_picture_is_named(tmp_path, content, lenient, monkeypatch):
    # lmms-eval, once imported anywhere in a run, has Pillow fill half pictures with grey.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    if isinstance(content, str):
        whole = io.BytesIO()
        Image.linear_gradient("L").convert("RGB").save(whole, content)
        content = whole.getvalue()[: len(whole.getvalue()) * 2 // 3]
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png is no readable picture.*remove or replace"):
        load_pictures(tmp_path, count=5)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", RAMP),
        ("tif", RAMP),
        ("tif", RAMP.astype(">u2")),
        ("tif", RAMP.astype(np.int32)),  # 16 bits in 32
        ("tif", (RAMP // 257).astype(np.int32)),  # 8 bits in 32
        ("tif", RAMP.astype(np.int32) * 30_000 - 7),
        ("tif", (RAMP / 65_535).astype(np.float32)),
        ("tif", (RAMP / 100 - 300).astype(np.float32)),
    ],
)
def test_greys_of_many_bits_are_scaled_by_their_range(tmp_path, suffix, values):
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    found = np.asarray(read_picture(tmp_path / f"deep.{suffix}").image)
    assert (found == (RAMP // 257)[..., None]).all()


def tiff(values, bits, of_type, photometric=1):
    """A grey TIFF as Pillow does not write it; ``of_type`` 1 is unsigned, 2 signed."""
    raw, (rows, columns) = values.tobytes(), values.shape
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, rows), (279, len(raw)), (339, of_type)]
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw
    return io.BytesIO(head + struct.pack("<H", len(tags)) + listed + struct.pack("<I", 0))


def test_unsigned_signed_and_inverted_tiffs_are_told_apart():
    wide = RAMP.astype("<u4") * 65_537
    assert wide.max() == 2**32 - 1
    grey = (RAMP // 257)[..., None]
    assert (np.asarray(open_picture(tiff(wide, 32, 1))) == grey).all()
    signed = (RAMP.astype(int) - 32_768).astype("<i2")
    assert (np.asarray(open_picture(tiff(signed, 16, 2))) == grey).all()
    assert (np.asarray(open_picture(tiff(RAMP, 16, 1, photometric=0))) == 255 - grey).all()


def test_what_has_no_brightness_is_told(tmp_path):
    values = np.full((4, 4), np.nan, np.float32)
    Image.fromarray(values).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match=r"1\.tif .*no finite numbers"):
        load_pictures(tmp_path, 1)
    assert np.asarray(to_rgb(Image.new("F", (3, 3), 7.0))).max() == 0
    with pytest.raises(ValueError, match="LAB: save it in RGB"):
        to_rgb(Image.new("LAB", (3, 3)))


def test_transparency_is_laid_on_white_in_every_mode(tmp_path):
    """Left half opaque and dark, right half transparent."""
    colour = Image.new("RGB", (2, 1), (9, 9, 9))
    mask = Image.new("L", (2, 1), 255)
    mask.putpixel((1, 0), 0)
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 1, 2, 3])
    palette.putpixel((1, 0), 1)
    shown = {"LA": colour.convert("LA"), "RGBA": colour.convert("RGBA")}
    for picture in shown.values():
        picture.putalpha(mask)
        picture.save(tmp_path / f"{picture.mode}.png")
    palette.save(tmp_path / "P.png", transparency=1)
    deep = Image.fromarray(np.array([[9 * 257, 65]], np.uint16))
    deep.save(tmp_path / "deep.png", transparency=65)
    colour.putpixel((1, 0), (1, 2, 3))
    colour.save(tmp_path / "tRNS.png", transparency=(1, 2, 3))
    for picture in load_pictures(tmp_path, 9):
        assert np.asarray(picture.image).tolist() == [[[9] * 3, [255] * 3]], picture.name
    for mode in ("CMYK", "1"):
        assert to_rgb(Image.new(mode, (2, 1))).getpixel((0, 0)) == (255 * (mode == "CMYK"),) * 3


def test_hidden_files_are_passed_over(tmp_path):
    put(tmp_path / "photo.jpg")
    (tmp_path / "._photo.jpg").write_bytes(b"what macOS leaves beside each file")
    (tmp_path / "folder.png").mkdir()
    assert [picture.name for picture in load_pictures(tmp_path, 5)] == ["photo.jpg"]


@pytest.mark.parametrize("typed", ["'{}'", '"{}"', " {}\n"])
def test_a_path_may_be_pasted_with_quotes_and_spaces(tmp_path, typed):
    put(tmp_path / "own.png")
    assert read_picture(typed.format(tmp_path / "own.png")).name == "own.png"
    assert len(load_pictures(typed.format(tmp_path), 5)) == 1
    put(tmp_path / "'own'.png", colour=(1, 2, 3))  # a name may have quotes of its own
    quoted = read_picture(f"{tmp_path}/'own'.png")
    assert quoted.image.getpixel((0, 0)) == (1, 2, 3)


def test_an_upload_is_called_by_its_name_never_by_an_object_in_memory():
    for name, shown in (("up.png", "up.png"), ("", "picture")):
        with pytest.raises(ValueError, match=f"^{shown} is no readable picture") as raised:
            read_picture(io.BytesIO(b"text"), name)
        assert "<" not in str(raised.value)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (20, 2001), (10_001, 200)])
def test_extreme_shapes_are_refused_before_they_are_enlarged(tmp_path, size):
    put(tmp_path / "strip.png", size=size)
    with pytest.raises(ValueError, match=rf"strip\.png .*{size[0]} x {size[1]} pixels: .*at most"):
        read_picture(tmp_path / "strip.png")
    strip = Image.new("RGB", size)
    for do_pad in (True, False):
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels"):
            to_pixels(build_processor(12), [strip], do_pad)


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


def test_scenes_are_in_the_style_of_the_model_that_sees_them():
    draw_few_digits()
    plain = load_pictures(None, 1, grid=12)[0]
    for own in (load_pictures(None, 1, grid=12, style=PLAINER)[0], draw_picture(0, 1, 12, PLAINER)):
        assert own.scene.style is PLAINER and own.image.size == (12 * 14, 12 * 14)
    assert plain.scene.style is PLAIN and plain.image.size == (12 * 8, 12 * 8)


def test_photographs_are_squares_with_name_and_licence():
    found = load_pictures("photos", count=99)
    here = {photograph.name: photograph for photograph in PHOTOGRAPHS if photograph.find()}
    assert [picture.name for picture in found] == list(here)
    assert {"temple", "flower", "portrait"} <= here.keys()
    for picture in found:
        width, height = picture.image.size
        assert width == height >= 300 and picture.image.mode == "RGB"
        assert picture.licence == here[picture.name].licence and picture.scene is None
    temple = next(picture for picture in found if picture.name == "temple")
    whole = read_picture(here["temple"].find()).image
    middle = np.asarray(whole)[:, (640 - 427) // 2 :][:, :427]
    assert np.array_equal(np.asarray(temple.image), middle)
    assert len(load_pictures("photos", count=2)) == 2


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is missing")
def test_all_photographs_are_in_the_wheels_of_their_packages():
    assert [photograph.name for photograph in PHOTOGRAPHS if photograph.find() is None] == []


def test_photographs_of_a_missing_package_are_told_and_the_others_read(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skimage" else found(name)
    )
    with pytest.warns(UserWarning, match=r"lack astronaut, cat without skimage: pip install"):
        assert [picture.name for picture in load_pictures("photos", 2)] == ["temple", "flower"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"no photographs without skimage: pip install"):
        load_pictures("photos", 2)


def test_a_folder_called_photos_is_still_a_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    put(tmp_path / "photos/own.png")
    monkeypatch.chdir(tmp_path)
    assert [picture.name for picture in load_pictures("./photos", 9)] == ["own.png"]


def test_a_photograph_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr(Photograph, "find", lambda self: tmp_path / "half.png")
    with pytest.raises(ValueError, match=r"half\.png is no readable picture"):
        load_pictures("photos", 1)


def test_what_the_encoder_sees_is_the_drawn_picture():
    processor, found = build_processor(24), load_pictures(None, count=3)
    pixel_values = to_pixels(processor, found)
    assert pixel_values.shape == (3, 3, 192, 192)
    assert np.array_equal(as_seen(processor, pixel_values)[2], found[2].scene.pixels)
    assert torch.equal(to_pixels(processor, [found[1].image]), pixel_values[1:2])


def test_a_wide_picture_is_padded_to_a_square_or_cropped_to_its_middle(tmp_path):
    wide = np.zeros((50, 150, 3), dtype=np.uint8)
    wide[:, 50:100] = RED
    Image.fromarray(wide).save(tmp_path / "wide.png")
    processor, found = build_processor(12), load_pictures(tmp_path, 1)
    seen = as_seen(processor, to_pixels(processor, found))[0].astype(int)
    assert seen.shape == (96, 96, 3)
    assert (seen[:30] == 127).all() and (seen[66:] == 127).all()  # the mean colour
    assert (seen[36:60, :28] == 0).all() and abs(seen[36:60, 36:60] - RED).max() <= 1
    cropped = as_seen(processor, to_pixels(processor, found, do_pad=False).bfloat16())[0]
    assert abs(cropped[:, 4:-4].astype(int) - RED).max() <= 1  # bfloat16 has 3 digits


def test_all_parts_prepare_a_picture_alike(tmp_path, monkeypatch):
    """A wide one, held sideways, half transparent: the same pixels wherever it is looked at."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (150, 60, 4)).astype(np.uint8)
    raw = Image.fromarray(pixels, "RGBA")
    raw.save(tmp_path / "sideways.png", exif=exif)
    model, processor = tiny_mini()
    edge = grid_of(model) * processor.patch_size
    wanted = to_pixels(processor, [read_picture(tmp_path / "sideways.png")])
    assert wanted.shape == (1, 3, edge, edge)
    seen = []
    embeddings = model.model.vision_tower.embeddings
    embeddings.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]),
        with_kwargs=True,
    )
    again = Image.open(tmp_path / "sideways.png")
    answer(model, processor, [again], ["is there a red 7 ?"], max_new_tokens=1)
    Explorer(model, processor, file=str(tmp_path / "sideways.png"))
    record = Record("a", "sideways.png", (("is there a red 7 ?", "yes"),))
    seen.append(to_sample(processor, record, again, grid_of(model) ** 2)["pixel_values"])
    assert len(seen) == 3 and all(torch.equal(pixels, wanted) for pixels in seen)
    for do_pad in (True, False):
        cropped = to_sample(processor, record, again, grid_of(model) ** 2, do_pad=do_pad)
        assert torch.equal(cropped["pixel_values"], wanted) is do_pad


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
@pytest.mark.parametrize("name", [n for n in names() if not resolve(n).reads_question])
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
    if reducer.method.sends == "on average":
        return  # the others of a batch decide what it sends
    for image, source in enumerate([3, 1, 3]):
        torch.testing.assert_close(some.tokens[image], found.tokens[source])


def test_the_grid_of_a_model():
    assert grid_of(tiny_llava()) ** 2 == PATCHES
