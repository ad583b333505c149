import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import jaxprune as jp
from jaxprune.data.splits import shuffled

# ------------------------------------------------------------------------------------------------------ splits


def test_shuffled_never_changes_between_versions():
    assert shuffled(12, "jaxprune").tolist() == [7, 9, 4, 10, 0, 8, 1, 3, 2, 11, 5, 6]


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_exhaustive_and_stratified(seed):
    labels = jp.data.digits().labels
    parts = jp.data.split(labels, "digits", seed)
    assert list(parts) == list(jp.data.FRACTIONS)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1797))
    for name, part in parts.items():
        counts = np.bincount(labels[part], minlength=10)
        # Each of the two cuts is rounded.
        assert np.all(np.abs(counts - jp.data.FRACTIONS[name] * np.bincount(labels)) <= 1.0), name
        assert np.all(np.diff(part) > 0)


def test_split_of_digits_has_the_stated_sizes():
    sizes = {name: len(part) for name, part in jp.data.split(jp.data.digits().labels, "digits", 0).items()}
    assert sizes == {
        "test": 451,
        "pretraining": 807,
        "scoring": 215,
        "head": 145,
        "finetuning": 109,
        "selection": 70,
    }


def test_split_is_a_function_of_seed_and_name():
    labels = np.repeat(np.arange(4), 50)

    def of_test(name: str, seed: int) -> list[int]:
        return jp.data.split(labels, name, seed)["test"].tolist()

    assert of_test("a", 0) == of_test("a", 0)
    assert len({tuple(of_test(*case)) for case in (("a", 0), ("a", 1), ("b", 0))}) == 3


def test_split_may_leave_examples_out():
    parts = jp.data.split(np.repeat([0, 1], 10), "toy", 0, {"a": 0.3, "b": 0.2})
    assert {name: len(part) for name, part in parts.items()} == {"a": 6, "b": 4}
    assert not set(parts["a"]) & set(parts["b"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "fractions",
    [
        *({"a": 0.0, "b": 0.5}, {"a": -0.1}, {"a": 0.6, "b": 0.5}, {}),
        *({"a": np.nan, "b": 0.5}, {"b": 0.5, "a": np.nan}, {"a": "0.5"}, {"a": True}),
    ],
)
def test_split_refuses_bad_fractions(fractions):
    with pytest.raises(ValueError, match="fractions: expected positive shares that sum to at most 1, but got"):
        jp.data.split(np.repeat([0, 1], 10), "toy", 0, fractions)


@pytest.mark.parametrize("labels", [np.zeros(0, int), np.zeros((4, 2), int), np.array([0.0, np.nan]), np.array(["a"])])
def test_split_refuses_labels_that_are_none(labels):
    with pytest.raises(ValueError, match=r"labels: expected one integer class for each example, int \[n\], but got"):
        jp.data.split(labels, "toy", 0, {"a": 0.5})


def test_split_without_some_class_is_an_error():
    labels = np.array([0] * 100 + [1] * 3)
    with pytest.raises(
        ValueError, match=r"the split 'selection' of toy gets no example of class 1, which has 3\. Use more"
    ):
        jp.data.split(labels, "toy", 0, {"test": 0.9, "selection": 0.1})


# ----------------------------------------------------------------------------------------------------- batches


def examples(count: int) -> dict[str, np.ndarray]:
    labels = np.arange(count, dtype=np.int32)
    return {
        "image": labels.astype(np.float32)[:, None, None, None] + np.zeros((1, 2, 2, 1), np.float32),
        "label": labels,
    }


@pytest.mark.parametrize("size", [1, 4, 11, 16])
def test_batches_hold_every_example_once_in_order(size):
    batches = jp.data.Batches(examples(11), size)
    whole = list(batches)
    assert len(whole) == len(batches) == -(-11 // size)
    assert {key: value.shape for key, value in whole[-1].items()} == {
        "image": (size, 2, 2, 1),
        "label": (size,),
        "weight": (size,),
    }
    weight = np.concatenate([batch["weight"] for batch in whole])
    label = np.concatenate([batch["label"] for batch in whole])
    assert weight.tolist() == [1.0] * 11 + [0.0] * (len(weight) - 11)
    assert label[weight > 0].tolist() == list(range(11))
    assert all(np.array_equal(batch["image"][:, 0, 0, 0], batch["label"]) for batch in whole)


def test_batches_are_a_sequence_that_can_be_read_again():
    batches = jp.data.Batches(examples(11), 4)
    assert [batch["label"].tolist() for batch in batches] == [batch["label"].tolist() for batch in batches]
    assert batches[-1]["label"].tolist() == batches[2]["label"].tolist()
    assert [batch["label"][0] for batch in batches[1:]] == [4, 8]
    with pytest.raises(IndexError, match=r"index: expected a batch in \[0, 3\), but got 3"):
        batches[3]


def test_batches_keep_the_weights_they_are_given():
    weight = np.linspace(0, 1, 5, dtype=np.float32)
    last = jp.data.Batches({**examples(5), "weight": weight}, 4)[1]
    assert last["weight"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert last["weight"].dtype == np.float32


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_of_all_hosts_together_are_the_global_batch_in_order(hosts):
    data = examples(11)
    for step, batch in enumerate(jp.data.Batches(data, 8)):
        parts = [jp.data.Batches(data, 8, host=(index, hosts))[step] for index in range(hosts)]
        assert {len(part["label"]) for part in parts} == {8 // hosts}
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)
    for step in range(4):
        parts = [jp.data.training_batch(data, 8, 0, step, host=(index, hosts)) for index in range(hosts)]
        for key, value in jp.data.training_batch(data, 8, 0, step).items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), value)


@pytest.mark.parametrize(("count", "size"), [(12, 4), (11, 4), (3, 8), (5, 5)])
def test_training_batch_is_of_a_stream_of_permutations_without_padding(count, size):
    batches = [jp.data.training_batch(examples(count), size, 5, step) for step in range(-(-3 * count // size))]
    assert all(batch["weight"].tolist() == [1.0] * size for batch in batches)
    assert all(np.array_equal(batch["image"][:, 0, 0, 0], batch["label"]) for batch in batches)
    stream = np.concatenate([batch["label"] for batch in batches])[: 3 * count].reshape(3, count)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(count), (3, 1)))
    assert len({tuple(epoch) for epoch in stream.tolist()}) > 1


def test_training_batch_is_a_function_of_seed_and_step():
    def batch(seed: int, step: int) -> list[int]:
        return jp.data.training_batch(examples(100), 10, seed, step)["label"].tolist()

    assert batch(0, 7) == batch(0, 7)
    assert len({tuple(batch(*case)) for case in ((0, 7), (1, 7), (0, 8), (0, 17))}) == 4


@pytest.mark.parametrize(("size", "host"), [(0, (0, 1)), (4, (0, 3)), (4, (2, 2)), (4, (-1, 2)), (4, (0, 0))])
def test_batches_refuse_bad_sizes_and_hosts(size, host):
    for make in (
        lambda: jp.data.Batches(examples(8), size, host),
        lambda: jp.data.training_batch(examples(8), size, 0, 0, host),
    ):
        with pytest.raises(ValueError, match="size, host: expected a batch size of 1 or more that the number of hosts"):
            make()


def test_batches_refuse_bad_data():
    data = examples(4)
    with pytest.raises(ValueError, match="data: expected at least one example, but it is empty"):
        jp.data.Batches(examples(0), 4)
    with pytest.raises(ValueError, match=r"data: expected the keys 'image' .* but got \['label'\]"):
        jp.data.Batches({"label": data["label"]}, 4)
    with pytest.raises(ValueError, match="data: expected as many labels and weights as images, but the lengths are"):
        jp.data.Batches({**data, "label": data["label"][:3]}, 4)


# ------------------------------------------------------------------------------------------- sources and tasks


def toy(count: int = 12, classes: int = 4) -> jp.data.Arrays:
    data = examples(count)
    names = tuple("abcdefgh"[:classes])
    return jp.data.Arrays("toy", data["image"] / 16, (data["label"] % classes).astype(np.int32), names)


def test_digits_are_what_scikit_learn_carries():
    source = jp.data.digits()
    assert (source.pixels.shape, source.pixels.dtype) == ((1797, 8, 8, 1), np.float32)
    assert (float(source.pixels.min()), float(source.pixels.max())) == (0.0, 1.0)
    assert np.bincount(source.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert source.classes == tuple("0123456789")


def test_select_fetches_the_classes_of_a_task_and_counts_them_from_zero():
    got = jp.data.select(toy(), np.arange(1, 12), (3, 1))
    assert (16 * got["image"][:, 0, 0, 0]).tolist() == [1, 3, 5, 7, 9, 11]
    assert got["label"].tolist() == [1, 0, 1, 0, 1, 0]
    assert (got["image"].dtype, got["label"].dtype) == (np.float32, np.int32)
    everything = jp.data.select(toy(), np.arange(12))
    np.testing.assert_array_equal(everything["label"], toy().labels)


def test_select_refuses_what_no_source_can_give():
    source = toy()
    with pytest.raises(ValueError, match=r"classes: expected numbers in \[0, 4\) for toy, but got 4"):
        jp.data.select(source, np.arange(12), (0, 4))
    with pytest.raises(ValueError, match=r"labels of toy: class 1 has no example \(1 of 2 classes are empty\)"):
        jp.data.select(source, np.array([0, 4, 8]), (0, 1))
    source.pixels[5, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"images of toy: expected finite numbers, .* holds 1 .* Find and drop"):
        jp.data.select(source, np.arange(12))
    assert len(jp.data.select(source, np.arange(12), (0, 2))["label"]) == 6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"pixels": np.zeros((12, 2, 2))},
            ValueError,
            r"pixels: expected images \[n, h, w, c\] with n = 12 .* Grey images",
        ),
        ({"pixels": np.zeros((11, 2, 2, 1))}, ValueError, r"pixels: .* n = 12 labels, but got \(11, 2, 2, 1\)"),
        ({"pixels": np.full((12, 2, 2, 1), np.inf)}, ValueError, "pixels: expected finite numbers, .* holds 48"),
        (
            {"pixels": np.zeros((12, 3, 8, 8))},
            ValueError,
            r"pixels: expected images \[n, h, w, c\] with the channels last, but the shape \(12, 3, 8, 8\).*moveaxis",
        ),
        (
            {"pixels": np.full((12, 2, 2, 1), 255.0)},
            ValueError,
            r"pixels: expected numbers in \[0, 1\], but they lie in \[255, 255\]\. Divide",
        ),
        (
            {"pixels": np.full((12, 2, 2, 1), 1.0000001, np.float32)},
            ValueError,
            r"pixels: .* in \[1\.0000001, 1\.0000001\]\. That is no more than rounding: np\.clip\(values, 0, 1\)",
        ),
        (
            {"pixels": np.zeros((12, 2, 2, 1), int)},
            TypeError,
            r"pixels: expected uint8, or floats .* int64",
        ),
        ({"labels": np.arange(12)}, ValueError, r"labels: expected labels in \[0, 4\), but found 4"),
        ({"labels": np.zeros(12, np.int32)}, ValueError, r"labels: class 1 has no example \(3 of 4"),
        ({"labels": np.zeros(12)}, TypeError, "labels: expected integer class labels, but got float64"),
    ],
)
def test_arrays_refuse_bad_images_and_labels(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(toy(), **change)


def test_imagenet_tasks_are_ten_disjoint_ones_of_ten_classes():
    tasks = jp.data.imagenet_tasks()
    numbers = np.concatenate([task.classes for task in tasks])
    assert [len(task.classes) for task in tasks] == [10] * 10
    assert len(set(numbers.tolist())) == 100
    assert numbers.min() >= 0
    assert numbers.max() < 1000
    assert len({task.name for task in tasks}) == 10
    assert tasks[0].chance == 0.1


def test_find_task_goes_by_name_and_its_error_offers_the_nearest():
    tasks = jp.data.imagenet_tasks()
    assert jp.data.find_task(tasks, "birds") in tasks
    with pytest.raises(ValueError, match=r"task: unknown value 'brids'. Did you mean 'birds'"):
        jp.data.find_task(tasks, "brids")


def test_shapes_hold_every_pair_of_shape_and_texture_equally_often():
    source = jp.data.shapes(3, per_class=2)
    assert (source.pixels.shape, source.pixels.dtype) == ((200, 32, 32, 3), np.float32)
    assert 0.0 <= source.pixels.min() < source.pixels.max() <= 1.0
    assert np.bincount(source.labels).tolist() == [2] * 100
    shape, texture = jp.data.SHAPES[4], jp.data.TEXTURES[7]
    assert source.classes[47] == f"{texture} {shape}"
    np.testing.assert_array_equal(jp.data.shapes(3, per_class=2).pixels, source.pixels)
    assert jp.data.shapes(4, per_class=2).name != source.name


def test_shapes_have_labels_of_what_was_painted():
    source = jp.data.shapes(3, per_class=1)
    shape, texture = np.divmod(source.labels, 10)
    made = jp.data.scenes(jax.random.key(3), 100, image=32, difficulty=0.25, shape=shape, texture=texture)
    np.testing.assert_array_equal(made.image.astype(np.float32) / 255, source.pixels)
    np.testing.assert_array_equal(made.texture[:, 0], texture)


def test_shape_tasks_cover_the_classes_with_every_shape_and_texture_once_each():
    tasks = jp.data.shape_tasks()
    assert sorted(np.concatenate([task.classes for task in tasks]).tolist()) == list(range(100))
    for task in tasks:
        shape, texture = np.divmod(task.classes, 10)
        assert sorted(shape.tolist()) == sorted(texture.tolist()) == list(range(10))


# ------------------------------------------------------------------------------------------------------ shifts


@pytest.mark.parametrize("name", sorted(jp.data.SHIFTS))
def test_shift_is_deterministic_and_stays_in_range(name):
    images = np.random.default_rng(0).random((3, 8, 8, 2)).astype(np.float32)
    kept = images.copy()
    moved = jp.data.shift(images, name, 1)
    assert (moved.shape, moved.dtype) == (images.shape, images.dtype)
    assert 0.0 <= moved.min() <= moved.max() <= 1.0
    assert np.abs(moved - images).mean() > 0.02
    np.testing.assert_array_equal(jp.data.shift(images, name, 1), moved)
    np.testing.assert_array_equal(images, kept)
    assert np.array_equal(jp.data.shift(images, name, 2), moved) == (name != "noise")


def test_shift_by_noise_has_the_stated_deviation():
    images = np.full((1, 200, 200, 1), 0.5, np.float64)
    got = jp.data.shift(images, "noise", 0) - images
    # Clipping at 2.5 standard deviations takes about 1 % of it.
    np.testing.assert_allclose([got.mean(), got.std()], [0.0, 0.2], atol=0.005)


def test_shift_names_an_unknown_shift_and_what_are_no_images():
    for wrong, error, message in (
        (np.zeros((1, 8, 8, 1), np.uint8), TypeError, "images: expected floating-point values .* got uint8"),
        (np.full((1, 8, 8, 1), 2.0), ValueError, r"images: expected numbers in \[0, 1\], .*\[2, 2\]"),
        (np.zeros((1, 3, 8, 8)), ValueError, r"images: .* channels last"),
    ):
        with pytest.raises(error, match=message):
            jp.data.shift(wrong, "blur", 0)
    with pytest.raises(ValueError, match=r"shift: unknown value 'nose'. Did you mean 'noise'"):
        jp.data.shift(np.zeros((1, 8, 8, 1), np.float32), "nose", 0)


# -------------------------------------------------------------------------------------------------------- tfds


class JaxpruneToy(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Twenty images, each in one grey; given as encoded bytes, so that TensorFlow is not needed."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
            "label": tensorflow_datasets.features.ClassLabel(names=["dark", "bright"]),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(20):
            picture = io.BytesIO()
            Image.fromarray(np.full((6, 9, 3), 12 * number, np.uint8)).save(picture, "PNG")
            picture.seek(0)
            yield number, {"image": picture, "label": int(number >= 8)}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    JaxpruneToy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path


def edit(folder: Path, name: str, change) -> None:
    (path,) = folder.rglob(name)
    path.write_bytes(change(path.read_bytes()))


def test_tfds_reads_a_prepared_data_set_without_tensorflow(prepared):
    source = jp.data.tfds("jaxprune_toy", image=4, folder=str(prepared))
    assert (source.name, source.classes) == ("tfds:jaxprune_toy:train", ("dark", "bright"))
    images = source.images(np.arange(20))
    assert (images.shape, images.dtype) == ((20, 4, 4, 3), np.uint8)
    assert source.image_shape == (4, 4, 3)
    greys = images[:, 0, 0, 0] // 12
    assert sorted(greys.tolist()) == list(range(20))
    np.testing.assert_array_equal(source.labels, greys >= 8)
    np.testing.assert_array_equal(source.images(np.array([7, 2])), images[[7, 2]])
    half = jp.data.tfds("jaxprune_toy:1.0.0", "train[:50%]", image=4, folder=str(prepared))
    np.testing.assert_array_equal(half.labels, source.labels[:10])
    assert sorted(jp.data.select(source, np.arange(20), (1,))["label"].tolist()) == [0] * 12


@pytest.mark.parametrize("claimed", [15, 25])
def test_tfds_refuses_a_count_that_differs_from_the_metadata(prepared, claimed):
    def change(raw: bytes) -> bytes:
        info = json.loads(raw)
        info["splits"][0]["shardLengths"] = [str(claimed)]
        return json.dumps(info).encode()

    edit(prepared, "dataset_info.json", change)
    with pytest.raises(ValueError, match=rf"data: split 'train' of tfds:jaxprune_toy should have {claimed} .* but 20"):
        jp.data.tfds("jaxprune_toy", image=4, folder=str(prepared))


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-1]])
def test_tfds_refuses_a_truncated_data_set(prepared, damage):
    edit(prepared, "*.array_record-00000-of-00001", damage)
    with pytest.raises(ValueError, match=r"data: .*tfds:jaxprune_toy.*[Pp]repare it"):
        jp.data.tfds("jaxprune_toy", image=4, folder=str(prepared))


def test_tfds_refuses_a_missing_shard(prepared):
    (shard,) = prepared.rglob("*.array_record-00000-of-00001")
    shard.unlink()
    with pytest.raises(ValueError, match=r"data: .*tfds:jaxprune_toy.*[Pp]repare it"):
        jp.data.tfds("jaxprune_toy", image=4, folder=str(prepared))


@pytest.mark.parametrize(("name", "channels"), [("mnist", 1), ("cifar10", 3)])
def test_tfds_opens_well_known_data_sets_under_mocking(name, channels):
    with tensorflow_datasets.testing.mock_data(num_examples=7):
        source = jp.data.tfds(name, image=16)
        assert (source.labels.shape, len(source.classes)) == ((7,), 10)
        images = source.images(np.array([0, 6]))
    assert (images.shape, images.dtype) == ((2, 16, 16, channels), np.uint8)
    assert source.image_shape == (16, 16, channels)


def test_tfds_names_data_sets_that_cannot_be_opened(tmp_path, prepared):
    with pytest.raises(ValueError, match=r"data: tfds: unknown value 'jaxprune_toi'. Did you mean 'jaxprune_toy'"):
        jp.data.tfds("jaxprune_toi", image=4)
    with pytest.raises(ValueError, match=r"cannot open tfds:mnist, split 'train': .* Prepare it once"):
        jp.data.tfds("mnist", image=4, folder=str(tmp_path))
    with pytest.raises(ValueError, match="image: expected a whole number of 1 or more, but got 0"):
        jp.data.tfds("jaxprune_toy", image=0, folder=str(prepared))
    with pytest.raises(ValueError, match=r"data: .*'train\[:0\]'"):
        jp.data.tfds("jaxprune_toy", "train[:0]", image=4, folder=str(prepared))
