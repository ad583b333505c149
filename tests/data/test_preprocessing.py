import dataclasses
import hashlib
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxprune as jp
from jaxprune.data.preprocessing import output_shape, resized_shape
from jaxprune.types import Preprocess
from tests.data import pictures

GOLDEN = dict(np.load(Path(__file__).parent / "golden/preprocess.npz"))
FILES = {name.removeprefix("file/"): GOLDEN[name].tobytes() for name in GOLDEN if name.startswith("file/")}
RULES = {name: Preprocess(*values) for name, values in pictures.TRANSFORMS.items()}


def golden(transform: str, name: str) -> list[str]:
    found = GOLDEN[f"{transform}/{name}"].tobytes()
    return [found[:32].hex(), found[32:].hex()]


def digests(picture: Image.Image | np.ndarray, rule: Preprocess) -> list[str]:
    """Of the bytes, and of what the network sees, by NumPy; JAX gives the same bits."""
    data = jp.data.preprocess(picture, rule)
    floats = jp.data.normalise(data, rule)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(jp.data.normalise(jnp.asarray(data), rule), floats)
    return [hashlib.sha256(np.ascontiguousarray(each)).hexdigest() for each in (data, floats)]


@pytest.mark.parametrize("transform", RULES)
def test_preprocess_gives_the_bits_of_torchvision_for_every_mode_of_bytes_and_size(transform):
    for name, picture in pictures.made().items():
        assert digests(picture, RULES[transform]) == golden(transform, name), name


@pytest.mark.parametrize("transform", RULES)
def test_preprocess_gives_the_bits_of_torchvision_for_files(transform):
    assert len(FILES) == 4
    for name, data in FILES.items():
        assert digests(Image.open(io.BytesIO(data)), RULES[transform]) == golden(transform, name), name


@pytest.mark.parametrize("transform", RULES)
def test_preprocess_is_one_grey_level_at_most_from_torchvisions_of_tensors(transform):
    for name, picture in pictures.smooth_ones().items():
        got = jp.data.preprocess(picture, RULES[transform])[::14, ::14].astype(int)
        assert np.abs(got - GOLDEN[f"tensor/{transform}/{name}"]).max() <= 1, name


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": "bicubic"},
        {"resize": 255},
        {"resize": (256, 341)},
        {"crop": 223},
        {"mean": (0.485, 0.456, 0.4061)},
    ],
)
def test_preprocess_by_another_transform_gives_other_bits(change):
    picture, rule = pictures.made()["375x500-RGB"], RULES["256-224-bilinear"]
    # A pair of exactly the computed sides is the same transform.
    same = change == {"resize": (256, 341)}
    assert (digests(picture, dataclasses.replace(rule, **change)) == golden("256-224-bilinear", "375x500-RGB")) == same


def test_preprocess_does_not_turn_a_turned_picture_back():
    turned = Image.open(io.BytesIO(FILES["rotated.jpg"]))
    assert turned.getexif()[0x0112] == 6
    assert jp.data.preprocess(turned, Preprocess()).shape == (48, 70, 3)


def test_preprocess_takes_arrays_as_pictures():
    rule = Preprocess(resize=20, crop=18)
    data = pictures.noise(0, 30, 25, 4)
    for array, mode in ((data, "RGBA"), (data[..., :3], "RGB"), (data[..., 0], "L"), (data[..., :1], "L")):
        picture = Image.frombytes(mode, (25, 30), np.ascontiguousarray(array).tobytes())
        np.testing.assert_array_equal(jp.data.preprocess(array, rule), jp.data.preprocess(picture, rule))
    for wrong in (data.astype(np.float32), data[..., :2], data[0, 0], data[:0]):
        with pytest.raises(ValueError, match=r"image: expected bytes, uint8 \[h, w\], .* but got .*Scale to 0"):
            jp.data.preprocess(wrong, rule)


def test_normalise_is_the_same_under_jit_and_for_floats():
    rule = RULES["256-224-bilinear"]
    data = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    want = jp.data.normalise(data, rule)
    np.testing.assert_array_equal(jax.jit(lambda x: jp.data.normalise(x, rule))(jnp.asarray(data)), want)
    floats = data.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(jp.data.normalise(floats, rule), want)
    np.testing.assert_allclose(jp.data.normalise(jnp.asarray(floats), rule), want, atol=1e-6)
    # Written out for one pixel.
    red = (np.float32(3) / np.float32(255) - np.float32(0.485)) / np.float32(0.229)
    assert want[0, 1, 0] == red
    for wrong in (data[..., :1], data.astype(np.int32)):
        with pytest.raises(ValueError, match=r"images: expected bytes \(uint8\) or floats in \[0, 1\] of shape"):
            jp.data.normalise(wrong, rule)


def test_output_shape_is_known_or_refused():
    assert output_shape(Preprocess(resize=256, crop=224)) == (224, 224, 3)
    assert output_shape(Preprocess(resize=(3, 5))) == (3, 5, 3)
    assert [resized_shape(shape, Preprocess(resize=100)) for shape in ((3, 7), (7, 3), (4, 4))] == [
        (100, 233),
        (233, 100),
        (100, 100),
    ]
    for rule in (Preprocess(), Preprocess(resize=256)):
        with pytest.raises(ValueError, match=r"preprocess: expected one size for all images, .* Give a crop"):
            output_shape(rule)


def test_preprocess_record_survives_json():
    for rule in RULES.values():
        assert Preprocess(**json.loads(json.dumps(dataclasses.asdict(rule)))) == rule


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 0}, "expected resize as the shorter side .* but got resize=0 and crop=224"),
        ({"resize": (256,)}, r"whole pixels of 1 or more, but got resize=\(256,\)"),
        ({"resize": (256, None)}, r"but got resize=\(256, None\)"),
        ({"crop": 224.0}, r"but got resize=256 and crop=224\.0"),
        ({"crop": True}, "but got resize=256 and crop=True"),
        ({"interpolation": "nearest"}, "expected interpolation 'bilinear' or 'bicubic', but got 'nearest'"),
        (
            {"mean": (0.5, 0.5)},
            r"mean as three finite numbers, .* but got \(0.5, 0.5\). Divide those for bytes",
        ),
        ({"mean": (0.5, 0.5, float("nan"))}, "expected mean as three finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "expected std as three finite numbers, above 0"),
        ({"std": "abc"}, "expected std as three finite numbers, above 0"),
    ],
)
def test_preprocess_record_that_means_nothing_is_an_error(change, message):
    with pytest.raises(ValueError, match=f"^preprocess: .*{message}"):
        Preprocess(**{"resize": 256, "crop": 224, **change})
