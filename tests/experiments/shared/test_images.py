"""What ``--data`` opens: IDX files and npz with their official parts, and images that get their size late."""

from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune as jp
from experiments.shared import images
from experiments.shared.pretrained import Weights
from experiments.shared.splits import _LITTLE, Inputs
from jaxprune.types import Preprocess
from tests.data.test_idx import write

RULE = Preprocess(resize=18, crop=16, interpolation="bicubic")
PIXELS = np.random.default_rng(0).integers(0, 256, (80, 7, 7), dtype=np.uint8)
LABELS = np.arange(80, dtype=np.uint8) % 4


@pytest.fixture
def place(tmp_path):
    for prefix, part in (("", "t10k"), ("emnist-letters-", "test")):
        folder = tmp_path / (prefix.strip("-") or "garments")
        write(folder, PIXELS, LABELS, prefix=prefix, compressed=True)
        write(folder, PIXELS[:20, ::-1], LABELS[:20], prefix=prefix, part=part)
    return tmp_path


def test_load_opens_idx_files_as_they_are_or_brought_to_the_size_of_a_network(place):
    plain = images.load(f"idx:{place / 'garments'}", None, 32)
    assert (plain.images.image_shape, len(plain.images), len(plain.tests)) == ((7, 7, 1), 80, 20)
    assert [task.classes for task in plain.tasks] == [(0, 1), (2, 3)]
    sized = images.load(f"idx:{place / 'garments'}", None, 32, RULE)
    for source, raw in ((sized.images, PIXELS), (sized.tests, PIXELS[:20, ::-1])):
        assert isinstance(source, jp.data.Preprocessed)
        expected = np.stack([jp.data.preprocess(picture, RULE) for picture in raw])
        np.testing.assert_array_equal(source.images(np.arange(len(raw))), expected)
    assert (sized.images.name, sized.tests.name) == ("idx:garments:train", "idx:garments:test")
    assert plain.images.fingerprint() != sized.images.fingerprint()


def test_load_opens_one_of_several_sets_of_idx_files(place):
    write(place / "emnist-letters", PIXELS[:8], LABELS[:8], prefix="emnist-digits-")
    write(place / "emnist-letters", PIXELS[:4], LABELS[:4], prefix="emnist-digits-", part="test")
    found = images.load(f"idx:{place / 'emnist-letters/emnist-digits'}", None, 32)
    assert (len(found.images), len(found.tests)) == (8, 4)
    np.testing.assert_array_equal(found.images.images(np.array([1]))[0, ..., 0], PIXELS[1].T)
    with pytest.raises(ValueError, match=r"these sets: 'emnist-digits', 'emnist-letters'\. Name one of them"):
        images.load(f"idx:{place / 'emnist-letters'}", None, 32)
    with pytest.raises(ValueError, match=r"one file with the images of the part 'test'"):
        images.load(f"idx:{write(place / 'half', PIXELS, LABELS)}", None, 32)
    with pytest.raises(ValueError, match=r"idx: '.*nowhere/set' is not a folder"):
        images.load(f"idx:{place / 'nowhere/set'}", None, 32)
    with pytest.raises(ValueError, match=r"data: unknown value 'idx:'"):
        images.load("idx:", None, 32)


def test_load_opens_the_images_that_an_npz_keeps_for_testing(tmp_path):
    path, grey = tmp_path / "data.npz", PIXELS[..., None]
    np.savez(path, image=grey, label=LABELS)
    assert images.load(f"npz:{path}", None, 32).tests is None
    np.savez(path, image=grey, label=LABELS, test_image=grey[:20], test_label=LABELS[:20])
    plain, sized = (images.load(f"npz:{path}", None, 32, rule) for rule in (None, RULE))
    np.testing.assert_array_equal(plain.tests.images(np.arange(20)), grey[:20])
    expected = jp.data.preprocess(PIXELS[3], RULE)
    np.testing.assert_array_equal(sized.tests.images(np.array([3]))[0], expected)
    # Images of the size itself are not resized and cut once more, but get three channels.
    as_it_is = images.load(f"npz:{path}", None, 32, Preprocess(resize=9, crop=7))
    np.testing.assert_array_equal(as_it_is.images.images(np.arange(80)), np.repeat(grey, 3, axis=-1))


def inputs(source):
    weights = Weights("none", None, RULE, {}, "")
    tasks = (jp.data.Task("low", (0, 1)), jp.data.Task("high", (2, 3)))
    return Inputs(SimpleNamespace(), source, None, tasks, tasks[0], weights)


def test_part_resizes_images_when_a_batch_asks_for_them(place):
    source = images.load(f"idx:{place / 'garments'}", None, 32, RULE).images
    found = inputs(source)
    data = found.part(0, "head", (0, 1))
    assert isinstance(data["image"], jp.data.Stream)
    _, chosen = found.indices(0, "head", (0, 1))
    expected = np.stack([jp.data.preprocess(picture, RULE) for picture in PIXELS[chosen]])
    np.testing.assert_array_equal(data["image"][:], expected)
    # What is decoded from files is kept where there is room.
    kept = inputs(jp.data.Arrays("arrays", source.images(np.arange(80)), source.labels, source.classes))
    assert isinstance(kept.part(0, "head", (0, 1))["image"], np.ndarray)


def test_shifted_images_are_kept_where_they_are_few(place, monkeypatch):
    found = inputs(images.load(f"idx:{place / 'garments'}", None, 32, RULE).images)
    kept = found.shifted(0, (0, 1), "contrast")["image"]
    assert isinstance(kept, np.ndarray)
    assert _LITTLE < 2**28
    monkeypatch.setattr("experiments.shared.splits._LITTLE", kept.nbytes - 1)
    fetched = found.shifted(0, (0, 1), "contrast")["image"]
    assert isinstance(fetched, jp.data.Stream)
    np.testing.assert_array_equal(fetched[:], kept)
