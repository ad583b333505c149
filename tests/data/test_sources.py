"""One battery for every source: what a Source promises."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import jaxprune as jp
from jaxprune.types import Preprocess
from tests.data import pictures

RULE = Preprocess(resize=9, crop=8)


def of_folder(place: Path) -> jp.data.Source:
    for number in range(12):
        path = place / "set" / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.noise(number, 11, 13, 3)).save(path)
    return jp.data.folder(place / "set", preprocess=RULE)


def of_npz(place: Path) -> jp.data.Source:
    np.savez(place / "set.npz", image=pictures.noise(0, 12, 8, 7, 1), label=np.arange(12) % 3)
    return jp.data.npz(place / "set.npz")


def of_mocked_tfds(place: Path) -> jp.data.Source:
    del place
    with tensorflow_datasets.testing.mock_data(num_examples=12):
        return jp.data.tfds("cifar10", preprocess=RULE)


def of_annotations(place: Path) -> jp.data.Source:
    for number in range(12):
        data = pictures.noise(number, 10, 10, 3)
        for part, pixels in (("images", data), ("masks", data[..., 0] // 8)):
            path = place / part / f"{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return jp.data.annotated_folder(place, image=8).source()


SOURCES: dict[str, Callable[[Path], jp.data.Source]] = {
    "arrays": lambda place: jp.data.digits(),
    "annotations": of_annotations,
    "folder": of_folder,
    "npz": of_npz,
    "mocked_tfds": of_mocked_tfds,
}


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_what_its_protocol_says(name, tmp_path):
    source = SOURCES[name](tmp_path)
    assert isinstance(source, jp.data.Source)
    count = len(source)
    assert count == len(source.labels) >= 12
    assert np.issubdtype(source.labels.dtype, np.integer)
    assert 0 <= source.labels.min() <= source.labels.max() < len(source.classes)
    order = np.array([5, 0, 11, 5])
    images = source.images(order)
    assert images.shape == (4, *source.image_shape)
    assert images.dtype in (np.uint8, np.float32)
    for index, image in zip(order, images, strict=True):
        np.testing.assert_array_equal(source[int(index)]["image"], image)
        assert source[index]["label"] == source[index - count]["label"] == source.labels[index]
    for outside in (count, -count - 1):
        with pytest.raises(IndexError, match=rf"index: expected an example in \[0, {count}\), but got {outside}"):
            source[outside]
    kind, digits = source.fingerprint().split(":")
    assert kind.startswith("sha256")
    assert len(digits) == 64
    assert source.fingerprint() == f"{kind}:{digits}"
    np.testing.assert_array_equal(source.images(order), images)


@pytest.mark.parametrize("name", SOURCES)
def test_select_gives_floats_in_the_unit_range(name, tmp_path):
    source = SOURCES[name](tmp_path)
    order = np.arange(12)
    present = tuple(np.unique(source.labels[order]).tolist())
    got = jp.data.select(source, order, present)
    images = source.images(order)
    want = images / np.float32(255) if images.dtype == np.uint8 else images
    assert got["image"].dtype == np.float32
    np.testing.assert_array_equal(got["image"], want)
    assert got["image"].max() <= 1.0


def test_fingerprint_of_arrays_is_of_pixels_labels_and_classes():
    pixels, labels = pictures.noise(0, 4, 3, 3, 1), np.array([0, 1, 0, 1])
    other = pixels.copy()
    other[3, 2, 2, 0] ^= 1
    made = [
        jp.data.Arrays("a", pixels, labels, ("x", "y")),
        jp.data.Arrays("a", other, labels, ("x", "y")),
        jp.data.Arrays("a", pixels, labels[::-1], ("x", "y")),
        jp.data.Arrays("a", pixels, labels, ("y", "x")),
        jp.data.Arrays("a", pixels.reshape(4, 9, 1, 1), labels, ("x", "y")),
        jp.data.Arrays("a", pixels.astype(np.float32) / 255, labels, ("x", "y")),
    ]
    assert len({source.fingerprint() for source in made}) == len(made)
    # Neither the name nor how they lie in memory matters.
    again = jp.data.Arrays("b", np.asfortranarray(pixels), labels.astype(np.int32), ("x", "y"))
    assert again.fingerprint() == made[0].fingerprint()
    assert jp.data.Arrays("c", np.repeat(pixels, 2, 0)[::2], labels, ("x", "y")).fingerprint() == again.fingerprint()


def test_as_float_makes_bytes_floats_and_keeps_floats():
    floats = np.linspace(0, 1, 5, dtype=np.float32)
    assert jp.data.as_float(floats) is floats
    got = jp.data.as_float(np.arange(256, dtype=np.uint8))
    assert got.dtype == np.float32
    assert got.tolist() == [float(np.float32(value) / np.float32(255)) for value in range(256)]
    for kind in (np.uint16, np.int64, bool):
        with pytest.raises(TypeError, match="images: expected uint8, or floats"):
            jp.data.as_float(np.ones(3, kind))


def test_tfds_preprocesses_mocked_pictures_too():
    with tensorflow_datasets.testing.mock_data(num_examples=3):
        source = jp.data.tfds("mnist", preprocess=RULE)
        assert source.image_shape == (8, 8, 3)
        stream = io.BytesIO()
        Image.fromarray(source.pixels(1)[..., 0]).save(stream, "PNG")
        want = jp.data.preprocess(Image.open(stream), RULE)
        np.testing.assert_array_equal(source[1]["image"], want)
