"""Streams: images fetched in threads.  Nothing here waits for a clock; what should run at once meets at a barrier."""

import threading
import time
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.data.streaming import usable_cpus


class Painted(jp.data.Source):
    """A source like a folder of files: image i is of the one colour (i, 2 i, 255 - i), and fetches are noted down."""

    name, classes = "painted", ("a", "b", "c")

    def __init__(self, count: int = 24, *, broken: tuple[int, ...] = (), before: Any = None) -> None:
        self.labels = (np.arange(count) % 3).astype(np.int32)
        self.broken, self.before, self.fetched = broken, before, []

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 2, 3, 3

    def images(self, indices: np.ndarray) -> np.ndarray:
        self.fetched.extend(indices.tolist())
        if self.before is not None:
            self.before(indices)
        for index in indices.tolist():
            if index in self.broken:
                raise ValueError(f"/data/a/{index}.jpg: cannot be read as an image (truncated).")
        return painted(indices)

    def fingerprint(self) -> str:
        return "painted:00"


def painted(indices: np.ndarray) -> np.ndarray:
    colours = np.stack([indices, 2 * indices, 255 - indices], axis=-1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(indices), 2, 3, 3)).copy()


def floats(count: int = 24) -> jp.data.Arrays:
    pixels = np.random.default_rng(0).uniform(size=(count, 2, 3, 1)).astype(np.float32)
    return jp.data.Arrays("floats", pixels, (np.arange(count) % 3).astype(np.int32), ("a", "b", "c"))


# ---------------------------------------------------------------------------------------------------- as an array

INDICES = [
    0,
    -1,
    np.int64(3),
    slice(None),
    slice(2, 9, 3),
    slice(5, 5),
    np.array([4, 4, 0, -2]),
    np.array([[1, 2], [3, 4]]),
    np.arange(10) % 2 == 0,
    [7, 1],
    ...,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("workers", [None, 1, 5])
def test_stream_is_indexed_like_the_array_it_stands_for(index, workers):
    chosen = np.array([20, 3, 3, 17, 0, 8, 9, 23, 1, 2])
    for source in (Painted(), floats()):
        whole, stream = source.images(chosen), jp.data.Stream(source, chosen, workers)
        got = stream[index]
        assert (got.dtype, got.shape) == (whole.dtype, whole[index].shape)
        np.testing.assert_array_equal(got, whole[index])


def test_stream_says_what_it_is_and_becomes_an_array_when_asked():
    stream = jp.data.Stream(Painted(), np.arange(5, 12))
    assert (stream.shape, stream.dtype, stream.ndim, len(stream)) == ((7, 2, 3, 3), np.uint8, 4, 7)
    assert np.shape(stream) == (7, 2, 3, 3)
    np.testing.assert_array_equal(np.asarray(stream), painted(np.arange(5, 12)))
    assert np.asarray(stream, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy: expected None or True, but got False"):
        np.array(stream, copy=False)
    with pytest.raises(IndexError):
        stream[7]


@pytest.mark.parametrize("classes", [None, (2, 0), (1,)])
def test_stream_has_the_labels_of_select(classes):
    source, indices = floats(), np.arange(3, 20)
    stream, arrays = jp.data.stream(source, indices, classes), jp.data.select(source, indices, classes)
    assert (stream["label"].dtype, isinstance(stream["image"], jp.data.Stream)) == (np.int32, True)
    for key, value in arrays.items():
        np.testing.assert_array_equal(np.asarray(stream[key]), value)
    with pytest.raises(ValueError, match=r"classes: expected numbers in \[0, 3\) for floats, but got 3"):
        jp.data.stream(source, indices, (0, 3))
    with pytest.raises(ValueError, match="labels of floats: class 1 has no example"):
        jp.data.stream(source, np.array([0, 3]), (0, 1))


def test_stream_fetches_only_what_is_asked_for():
    source = Painted()
    data = jp.data.stream(source, np.arange(4, 20))
    assert source.fetched == [4]  # one, which says what the others are
    data["image"][np.array([3, 0])]
    assert sorted(source.fetched[1:]) == [4, 7]


# -------------------------------------------------------------------------------------------------------- threads


def test_stream_fetches_in_as_many_threads_as_there_are_workers():
    meeting = threading.Barrier(3)
    names = set()

    def meet(indices: np.ndarray) -> None:
        names.add(threading.current_thread().name)
        meeting.wait(timeout=900)  # breaks, unless three are here at once

    source = Painted()
    stream = jp.data.Stream(source, np.arange(12), workers=3)
    source.before = meet
    for _ in range(4):  # one pool serves all
        np.testing.assert_array_equal(stream[:], painted(np.arange(12)))
    assert len(names) == 3
    assert jp.data.Stream(Painted(), np.arange(3))._workers == usable_cpus() >= 1


def test_stream_keeps_images_in_their_places_whoever_comes_first():
    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 2e-3, size=200)
    stream = jp.data.Stream(
        Painted(200, before=lambda indices: time.sleep(delays[indices[0]])), rng.permutation(200), workers=7
    )
    places = rng.integers(200, size=150)
    np.testing.assert_array_equal(stream[places], painted(stream._indices[places]))


def test_stream_lets_many_readers_share_the_workers():
    stream = jp.data.Stream(Painted(200), np.arange(200), workers=2)
    found: list[Any] = [None] * 8

    def read(turn: int) -> None:
        found[turn] = stream[turn::8]

    readers = [threading.Thread(target=read, args=(turn,)) for turn in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=900)
    for turn, images in enumerate(found):
        np.testing.assert_array_equal(images, painted(np.arange(turn, 200, 8)))


@pytest.mark.parametrize("workers", [1, 3])
def test_stream_error_names_the_file_stops_the_others_and_leaves_nothing_behind(workers):
    source = Painted(400, broken=(5,))
    stream = jp.data.Stream(source, np.arange(400), workers)
    with pytest.raises(ValueError, match=r"^/data/a/5.jpg: cannot be read") as caught:
        stream[:]
    assert caught.value.__notes__ == ["while fetching example 5 of painted"]
    if workers == 1:
        assert source.fetched == [0, *range(6)]
    # The pool goes on.
    np.testing.assert_array_equal(stream[8:], painted(np.arange(8, 400)))


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images[:, :1], r"expected uint8\[2, 3, 3\], .* example 5 is uint8\[1, 3, 3\]. Bring all"),
        (lambda images: images[..., :1], r"example 5 is uint8\[2, 3, 1\]. Bring all images to one size and type"),
        (lambda images: images / np.float32(255), r"example 5 is float32\[2, 3, 3\]"),
    ],
)
def test_stream_refuses_images_of_another_shape_or_type_and_never_spreads_them(change, message, monkeypatch):
    source = Painted()
    stream = jp.data.Stream(source, np.arange(12))
    monkeypatch.setattr(
        source, "images", lambda indices: change(painted(indices)) if 5 in indices else painted(indices)
    )
    with pytest.raises(ValueError, match=f"images of painted: .*{message}"):
        stream[:]


def test_stream_refuses_images_that_are_not_finite_as_select_does():
    source = floats()
    stream = jp.data.Stream(source, np.arange(24))
    source.pixels[9, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"images of floats: expected finite .* example 9 holds .* Find and drop"):
        stream[:]


@pytest.mark.parametrize("indices", [np.array([], int), np.array(3), np.array([0.0]), np.zeros((2, 2), int)])
def test_stream_refuses_bad_indices(indices):
    with pytest.raises(ValueError, match=r"indices: expected the numbers of one or more examples, int \[n\], but got"):
        jp.data.Stream(Painted(), indices)


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_stream_refuses_bad_workers(workers, unchecked):
    with pytest.raises(ValueError, match="workers: expected a whole number of 1 or more, but got"):
        jp.data.stream(Painted(), np.arange(3), workers=workers)
