"""Levels of 16 bits and of floats: scaled exactly, or refused by name; never white or black in silence."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import jaxprune as jp
from jaxprune.data._levels import in_bytes
from jaxprune.types import Preprocess

RULE = Preprocess(resize=(2, 128))
DEEP = np.arange(0, 65536, 256, dtype=np.uint16).reshape(2, 128) + np.arange(128, dtype=np.uint16)
BYTES = np.round(DEEP / 257).astype(np.uint8)
FLOATS = (BYTES / np.float32(255)).astype(np.float32)


def saved(path: Path, values: np.ndarray, kind: str = "", tags: dict[int, int] | None = None) -> Path:
    """An image in the mode of Pillow that the array has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, options = Image.fromarray(values), {}
    if tags:
        options["tiffinfo"] = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in tags.items():
            options["tiffinfo"][tag] = value
    picture.save(path, kind or None, **options)
    return path


def twelve_bits() -> bytes:
    """A TIFF of 2 x 1 pixels of 12 bits, white and black, which Pillow opens as 16 bits."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 3)]
    body = b"".join(np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in tags)
    head = b"II*\0" + np.array(8, "<u4").tobytes() + np.array(len(tags), "<u2").tobytes()
    return (head + body).ljust(122, b"\0") + b"\xff\xf0\x00"


def pgm() -> bytes:
    return b"P5 128 2 65535 " + DEEP.astype(">u2").tobytes()


def test_in_bytes_of_every_level_of_16_bits_is_the_nearest_byte():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = np.asarray(in_bytes(Image.fromarray(values), "all"))
    np.testing.assert_array_equal(got, np.round(values / 257))
    assert got.mean() == pytest.approx(127.5)  # 252 where all above 255 is white


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.pgm", "float.tif"])
def test_folder_reads_deep_pictures_at_their_levels(tmp_path, name):
    path = tmp_path / "data/cat" / name
    if name == "a.pgm":
        path.parent.mkdir(parents=True)
        path.write_bytes(pgm())
    else:
        saved(path, FLOATS if name == "float.tif" else DEEP)
    source = jp.data.folder(tmp_path / "data", preprocess=RULE)
    source.check()
    source.check(whole=True)
    np.testing.assert_array_equal(source.images(np.array([0]))[0], np.repeat(BYTES[..., None], 3, axis=-1))


REFUSED = {
    "of 32 bits": (lambda path: saved(path, DEEP.astype(np.int32)), r"8 or 16 bits, .* but it has 32 bits \(mode I\)"),
    "of 12 bits": (lambda path: path.write_bytes(twelve_bits()), r"but it has 12 bits \(mode I;16\)"),
    "above 1": (lambda path: saved(path, FLOATS * 255), r"values in \[0, 1\], but they lie in \[0\.0, 255\.0\]"),
    "below 0": (lambda path: saved(path, FLOATS - 0.5), r"values in \[0, 1\], but they lie in \[-0\.5, 0\.5\]"),
    "not finite": (lambda path: saved(path, FLOATS * np.float32(np.nan)), r"they lie in \[nan, nan\]"),
    "negative": (lambda path: saved(path, DEEP, tags={262: 0}), "0 is black, but in this TIFF it is white"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_folder_names_a_picture_whose_white_nobody_knows(tmp_path, kind):
    write, message = REFUSED[kind]
    saved(tmp_path / "data/cat/good.png", BYTES)
    write(tmp_path / "data/cat/bad.tif")
    source = jp.data.folder(tmp_path / "data", preprocess=RULE)
    with pytest.raises(ValueError, match=rf"cat/bad\.tif: .*{message}"):
        source.images(np.array([0]))
    with pytest.raises(ValueError, match=rf"1 of 2 images .*\n.*cat/bad\.tif: .*{message}"):
        source.check(whole=True)
    skipping = jp.data.folder(tmp_path / "data", preprocess=RULE, on_error="skip")
    assert (skipping.files, list(skipping.skipped)) == (("cat/good.png",), ["cat/bad.tif"])


def test_check_knows_the_depth_from_the_head(tmp_path):
    saved(tmp_path / "data/cat/bad.tif", DEEP.astype(np.int32))
    with pytest.raises(ValueError, match=r"cat/bad\.tif: .* it has 32 bits"):
        jp.data.folder(tmp_path / "data", preprocess=RULE).check()


def test_preprocess_scales_pictures_of_16_bits_before_it_resizes_them():
    stream = io.BytesIO()
    Image.fromarray(DEEP).save(stream, "PNG")
    for rule in (RULE, Preprocess(resize=(2, 40)), Preprocess(crop=2)):
        want = jp.data.preprocess(BYTES, rule)
        np.testing.assert_array_equal(jp.data.preprocess(Image.fromarray(DEEP), rule), want)
        np.testing.assert_array_equal(jp.data.preprocess(Image.open(stream), rule), want)
    with pytest.raises(ValueError, match=r"image: expected an image of 8 or 16 bits"):
        jp.data.preprocess(Image.fromarray(DEEP.astype(np.int32)), RULE)


def test_annotated_folder_reads_deep_pictures_and_masks_by_their_numbers(tmp_path):
    mask = np.zeros((2, 128), np.uint16)
    mask[:, 30:60] = 300  # a number of an object, not a level
    saved(tmp_path / "masks/cat/a.png", mask)
    saved(tmp_path / "images/cat/a.tif", DEEP)
    found = jp.data.annotated_folder(tmp_path, image=128)
    np.testing.assert_allclose(found.images[0, 0] * 255, np.repeat(BYTES[0][:, None], 3, axis=1), atol=1e-4)
    assert found.boxes[0].tolist() == [[0, 30, 128, 60]]
    saved(tmp_path / "images/cat/a.tif", DEEP.astype(np.int32))
    with pytest.raises(ValueError, match=r"a\.tif: .* it has 32 bits"):
        jp.data.annotated_folder(tmp_path, image=8)
