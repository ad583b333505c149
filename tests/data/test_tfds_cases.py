"""Prepared sets whose labels, levels and splits are not those of a plain classification set: right, or words."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import jaxprune as jp
from jaxprune.types import Preprocess

FEATURES = tensorflow_datasets.features
LABEL = FEATURES.ClassLabel(names=["dark", "bright"])
COUNT = 12


def encoded(values: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    stream.seek(0)
    return stream


def prepared(folder: Path, name: str, label=LABEL, give=lambda number: number % 2, kind=np.uint8, **more) -> str:
    """Prepares a set of ``COUNT`` grey images, 20 times their number (of 16 bits: 5000 times), in two splits."""
    scale = 5000 if kind == np.uint16 else 20

    def info(self):
        image = FEATURES.Image(shape=(None, None, 1), dtype=kind)
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=FEATURES.FeaturesDict({"image": image, "label": label, **more})
        )

    def examples(self):
        for number in range(COUNT):
            picture = np.full((4, 5), scale * number, kind)
            mask = np.full((4, 5), 300 * (number % 2), np.uint16)
            mask[1:3, 1:3] = 7
            extra = {"segmentation_mask": encoded(mask)} if more else {}
            yield number, {"image": encoded(picture), "label": give(number), **extra}

    made = type(
        name,
        (tensorflow_datasets.core.GeneratorBasedBuilder,),
        {
            "VERSION": tensorflow_datasets.core.Version("1.0.0"),
            "_info": info,
            "_generate_examples": examples,
            "_split_generators": lambda self, manager: {
                split: self._generate_examples() for split in ("train", "test")
            },
            "__module__": __name__,
        },
    )
    made(data_dir=folder, file_format="array_record").download_and_prepare()
    return made.name


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("plain")
    return folder, prepared(folder, "JaxprunePlainCase")


@pytest.mark.parametrize(
    ("split", "repeated"),
    [
        ("train+train", 12),
        ("train[:5]+train[3:8]", 2),
        ("train[3:8]+train[:5]", 2),
        ("train[2:4]+train", 2),
        ("train+train[:50%]+train[:25%]", 9),
        ("train[:10]+train[2:4]+train[5:7]", 4),
    ],
)
def test_tfds_refuses_a_split_that_reads_an_example_twice(plain, split, repeated):
    with pytest.raises(ValueError, match=rf"split: .* but '.*' reads {repeated} of tfds:jaxprune_plain_case more than"):
        jp.data.tfds(plain[1], split, image=4, folder=plain[0])


@pytest.mark.parametrize(("split", "count"), [("train+test", 24), ("train[:5]+train[5:8]", 8), ("all", 24)])
def test_tfds_reads_each_example_of_joined_splits_once(plain, split, count):
    source = jp.data.tfds(plain[1], split, image=4, folder=plain[0])
    assert (len(source), source.images(np.arange(count)).shape) == (count, (count, 4, 4, 1))


@pytest.mark.parametrize(
    ("split", "why"),
    [
        ("validation", "Unknown split 'validation'"),
        ("TRAIN", "Unknown split"),
        ("train[:50_000]", "incompatible with 12 examples"),
        ("train[:110%]", "Error parsing split"),
        (" train ", "Error parsing split"),
    ],
)
def test_tfds_names_the_splits_that_are_there_and_does_not_blame_the_preparation(plain, split, why):
    with pytest.raises(ValueError, match=r"split: cannot take .* of tfds:jaxprune_plain_case") as found:
        jp.data.tfds(plain[1], split, image=4, folder=plain[0])
    assert why in str(found.value)
    assert "There are: train (12 examples), test (12 examples)" in str(found.value)
    assert "repare" not in str(found.value)


def test_tfds_takes_integer_labels_with_names_for_them(tmp_path):
    name = prepared(tmp_path, "JaxpruneIntegerCase", FEATURES.Scalar(np.int64))
    with pytest.raises(
        ValueError, match=r"data: the labels of tfds:.* are integers \(int64\), .* classes=\('cat', 'dog"
    ):
        jp.data.tfds(name, image=4, folder=tmp_path)
    source = jp.data.tfds(name, image=4, folder=tmp_path, classes=("cat", "dog"))
    greys = source.images(np.arange(COUNT))[:, 0, 0, 0] // 20
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, greys % 2)
    with pytest.raises(ValueError, match=r"labels of tfds:.*: expected labels in \[0, 1\), but found 1"):
        jp.data.tfds(name, image=4, folder=tmp_path, classes=("cat",))


def test_tfds_refuses_classes_that_differ_from_the_sets_own(plain):
    folder, name = plain
    assert jp.data.tfds(name, image=4, folder=folder, classes=("dark", "bright")).classes == ("dark", "bright")
    with pytest.raises(ValueError, match=r"classes: expected those of .*, 2 from 'dark' to 'bright', but got 2 that"):
        jp.data.tfds(name, image=4, folder=folder, classes=("bright", "dark"))


@pytest.mark.parametrize(
    ("name", "label", "give"),
    [
        ("JaxpruneSeveralCase", FEATURES.Sequence(LABEL), lambda number: [0, 1] if number % 2 else [0]),
        ("JaxpruneRealCase", FEATURES.Scalar(np.float32), lambda number: 0.5 * number),
    ],
)
def test_tfds_refuses_labels_that_are_not_one_class(tmp_path, name, label, give):
    name = prepared(tmp_path, name, label, give)
    with pytest.raises(ValueError, match=r"data: expected one class for each example as 'label', but that of tfds:"):
        jp.data.tfds(name, image=4, folder=tmp_path, classes=("a", "b"))


def test_tfds_says_where_labels_are_kept_back(tmp_path):
    name = prepared(tmp_path, "JaxpruneHiddenCase", give=lambda number: -1 if number % 3 else 0)
    with pytest.raises(ValueError, match=r"labels of .* 8 of 12 in split 'train' are -1, .* Choose another split"):
        jp.data.tfds(name, image=4, folder=tmp_path)


def test_tfds_scales_levels_of_16_bits_and_reads_masks_of_16_bits_as_numbers(tmp_path):
    mask = FEATURES.Image(shape=(None, None, 1), dtype=np.uint16)
    name = prepared(tmp_path, "JaxpruneDeepCase", kind=np.uint16, segmentation_mask=mask)
    want = np.round(5000 * np.arange(COUNT) / 257)
    for rule, channels in (({"image": 4}, 1), ({"preprocess": Preprocess(resize=(4, 4))}, 3)):
        images = jp.data.tfds(name, folder=tmp_path, **rule).images(np.arange(COUNT))
        assert images.shape == (COUNT, 4, 4, channels)
        assert sorted(images[:, 0, 0, 0].tolist()) == want.tolist()
        assert np.all(images == images[:, :1, :1])
    found = jp.data.annotated_tfds(name, folder=str(tmp_path), image=4, objects=(7,))
    assert found.boxes[0].tolist() == [[1, 0, 3, 3]]  # columns 1 and 2 of 5 are 0.8 to 2.4 of 4
    np.testing.assert_allclose(np.sort(found.images[:, 0, 0, 0]) * 255, want, atol=1e-4)


def test_tfds_does_not_take_levels_of_16_bits_modulo_256(tmp_path):
    """The set says that its images have 8 bits, and a file has 16: TFDS would take what is left over 256."""
    name = prepared(tmp_path, "JaxpruneOverCase")
    source = jp.data.tfds(name, image=4, folder=tmp_path)
    deep = encoded(np.full((4, 5), 0x8001, np.uint16)).getvalue()
    source._split = source._split._replace(records=None, mocked=[{"image": deep}])
    assert np.all(source.images(np.array([0])) == 128)


def test_tfds_refuses_pictures_of_floats():
    """TFDS keeps each float as the four bytes of a PNG, which would be read as colours."""
    image = FEATURES.Image(shape=(None, None, 1), dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected images of uint8 or uint16 .* but tfds:x has Image of float32"):
        importlib.import_module("jaxprune.data.tfds")._check_image(image, "tfds:x")
