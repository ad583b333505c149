import tracemalloc

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.types import Preprocess

RULE = Preprocess(resize=20, crop=16, interpolation="bicubic")


def arrays(*shape, count=7):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return jp.data.Arrays("noise", pixels, np.arange(count) % 2, ("even", "odd"))


@pytest.mark.parametrize("rule", [RULE, Preprocess(resize=(9, 5)), Preprocess(crop=6)])
@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 14, 3), (6, 6, 4)])
def test_preprocessed_images_are_those_resized_all_at_once_bit_for_bit(shape, rule):
    source = arrays(*shape)
    once = np.stack([jp.data.preprocess(picture, rule) for picture in source.pixels])
    lazy = jp.data.Preprocessed(source, rule)
    assert lazy.image_shape == once.shape[1:]
    for chosen in (np.arange(7), np.array([5, 0, 5]), np.array([], int)):
        np.testing.assert_array_equal(lazy.images(chosen), once[chosen])
    np.testing.assert_array_equal(jp.data.stream(lazy, np.arange(7))["image"][2:5], once[2:5])
    np.testing.assert_array_equal(jp.data.select(lazy, np.arange(7))["image"], once.astype(np.float32) / 255)
    np.testing.assert_array_equal(lazy.labels, source.labels)
    assert (lazy.name, lazy.classes, len(lazy)) == (source.name, source.classes, 7)


def test_preprocessed_fingerprint_is_of_the_images_and_of_how_they_are_resized():
    source = arrays(8, 8, 1)
    other = jp.data.Arrays("noise", source.pixels[::-1], source.labels, source.classes)
    found = [
        jp.data.Preprocessed(images, rule).fingerprint()
        for images, rule in (
            (source, RULE),
            (other, RULE),
            (source, Preprocess(resize=20, crop=16)),
            (source, Preprocess(resize=24, crop=16, interpolation="bicubic")),
        )
    ]
    assert len(set(found)) == 4
    assert found[0] == jp.data.Preprocessed(arrays(8, 8, 1), RULE).fingerprint()
    # How pixels are normalised is the network's.
    moved = Preprocess(resize=20, crop=16, interpolation="bicubic", mean=(0.5,) * 3)
    assert jp.data.Preprocessed(source, moved).fingerprint() == found[0]


def test_preprocessed_keeps_nothing_but_its_source():
    source = arrays(8, 8, 1, count=400)
    tracemalloc.start()
    try:
        images = jp.data.stream(jp.data.Preprocessed(source, Preprocess(resize=(64, 64))), np.arange(400), workers=1)
        for start in range(0, 400, 20):
            assert images["image"][start : start + 20].shape == (20, 64, 64, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400 * 64 * 64 * 3 / 4  # all at once take four times as much


def test_preprocessed_refuses_what_is_no_picture_of_bytes():
    floats = jp.data.Arrays("floats", np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match=r"source: expected images as bytes, .* of floats are float32\[8, 8, 1\]"):
        jp.data.Preprocessed(floats, RULE)
    with pytest.raises(ValueError, match=r"those of noise are uint8\[8, 8, 2\]"):
        jp.data.Preprocessed(arrays(8, 8, 2), RULE)
    with pytest.raises(ValueError, match=r"preprocess: expected one size for all images"):
        jp.data.Preprocessed(arrays(8, 8, 1), Preprocess(resize=20))
