import contextlib
import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import jaxprune as jp
from jaxprune.data.tfrecord import Records, masked
from jaxprune.types import Preprocess
from tests.data import pictures

RULE = Preprocess(resize=14, crop=12)
SHARDS = (9, 4, 7)

# ------------------------------------------------------------------------------------------------- the checksum


def byte_by_byte(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_masked_is_the_checksum_rotated_plus_a_constant(data, value):
    assert byte_by_byte(data) == value
    assert masked(data) == ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


# --------------------------------------------------------------------------------------------------- the records


def record(data: bytes) -> bytes:
    """A record, written apart from the code under test."""

    def stored(value: int) -> bytes:
        return struct.pack("<I", ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + stored(byte_by_byte(length)) + data + stored(byte_by_byte(data))


TEXTS = [b"one", b"", b"three" * 50, b"4"]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(record(text) for text in TEXTS))
    return path


def test_records_are_read_by_index_across_files(file, tmp_path):
    empty, other = tmp_path / "b", tmp_path / "c"
    empty.touch()
    other.write_bytes(record(b"last"))
    records = Records([file, empty, other], workers=2)
    assert (len(records), records.counts, list(records)) == (5, [4, 0, 1], [*TEXTS, b"last"])
    assert (records[-1], records[np.int64(2)], records[1:3]) == (b"last", TEXTS[2], TEXTS[1:3])
    with pytest.raises(IndexError, match=r"index: expected a record in \[0, 5\), but got 5"):
        records[5]
    assert list(Records([])) == []


def test_records_find_every_cut_when_a_file_is_opened(file):
    whole = file.read_bytes()
    ends = set(np.cumsum([len(record(text)) for text in TEXTS]).tolist()) | {0}
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        if length in ends:
            assert len(Records([file])) < 4  # to be found by the count
            continue
        with pytest.raises(ValueError, match=r"a.tfrecord: ends inside of a record: .* Copy the file again"):
            Records([file])


def test_records_find_every_flipped_byte(file):
    whole = file.read_bytes()
    opening = 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"a.tfrecord: the (length before|record at) byte \d+ has another"):
            list(Records([file]))
        with contextlib.suppress(ValueError):
            opening += bool(Records([file]))
    assert opening == len(whole) - 4 * 12  # what is no length is checked when it is read


def test_records_name_a_file_that_becomes_shorter_or_goes(file):
    records = Records([file])
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a.tfrecord: ends inside of the record at byte"):
        records[2]
    file.unlink()
    for read in (lambda: records[0], lambda: Records([file])):
        with pytest.raises(ValueError, match=r"a.tfrecord: cannot be read \(No such file or directory\)"):
            read()


# ------------------------------------------------------------------------------------------- a prepared data set


class JaxpruneRecords(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Twenty images with a mask each, given as encoded bytes, so that TensorFlow is not needed."""

    VERSION = tensorflow_datasets.core.Version("2.0.0")

    def _info(self):
        names = tensorflow_datasets.features.ClassLabel(names=["dark", "bright", "other"])
        features = {
            "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
            "label": names,
            "segmentation_mask": tensorflow_datasets.features.Image(shape=(None, None, 1)),
            "numbers": tensorflow_datasets.features.Sequence(np.int64),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(20), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for number in range(count):
            data = pictures.smooth(number, 16 + number, 30 - number)
            streams = [io.BytesIO(), io.BytesIO()]
            Image.fromarray(data).save(streams[0], "JPEG" if number % 2 else "PNG")
            Image.fromarray(data[..., 0] // 128).save(streams[1], "PNG")
            for stream in streams:
                stream.seek(0)
            image, mask = streams
            yield number, {"image": image, "label": number % 3, "segmentation_mask": mask, "numbers": [*range(number)]}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of one set in array_record, and of the same one in TFRecord, in several shards."""
    first, second = tmp_path_factory.mktemp("array_record"), tmp_path_factory.mktemp("tfrecord")
    builder = JaxpruneRecords(data_dir=first, file_format="array_record")
    builder.download_and_prepare()
    version = second / "jaxprune_records/2.0.0"
    version.mkdir(parents=True)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    for split, shards in (("train", SHARDS), ("test", (5,))):
        records = iter(builder.as_data_source(split=split, deserialize_method=raw))
        for number, count in enumerate(shards):
            name = f"jaxprune_records-{split}.tfrecord-{number:05}-of-{len(shards):05}"
            (version / name).write_bytes(b"".join(record(next(records)) for _ in range(count)))
    for path in [*Path(builder.data_path).glob("*.json"), *Path(builder.data_path).glob("*.txt")]:
        shutil.copy(path, version)
    rewrite(second, formatted("tfrecord"))
    rewrite(second, sharded("train", SHARDS))
    return first, second


def rewrite(folder: Path, change) -> None:
    (path,) = folder.rglob("dataset_info.json")
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def formatted(name: str):
    return lambda info: info.update(fileFormat=name)


def sharded(split: str, lengths: tuple[int, ...]):
    def change(info) -> None:
        (found,) = (each for each in info["splits"] if each["name"] == split)
        found["shardLengths"] = [str(length) for length in lengths]

    return change


@pytest.fixture
def folder(sets, tmp_path) -> Path:
    return shutil.copytree(sets[1], tmp_path / "sets")


def opened(folder: Path, split: str = "train", **options):
    return jp.data.tfds("jaxprune_records", split, folder=folder, **{"image": 6, **options})


@pytest.mark.parametrize("options", [{"image": 6}, {"image": None, "preprocess": RULE}])
def test_tfrecord_holds_what_array_record_holds(sets, options):
    want, got = (opened(folder, **options) for folder in sets)
    assert isinstance(got, jp.data.Source)
    assert (got.name, got.classes) == ("tfds:jaxprune_records:train", ("dark", "bright", "other"))
    assert np.bincount(got.labels).tolist() == [7, 7, 6]
    np.testing.assert_array_equal(got.labels, want.labels)
    images = got.images(np.arange(20))
    assert (images.dtype, images.shape[1:]) == (np.uint8, got.image_shape)
    np.testing.assert_array_equal(images, want.images(np.arange(20)))
    np.testing.assert_array_equal(got.images(np.array([13, 9])), images[[13, 9]])


def test_tfds_preprocesses_pictures_from_their_own_bytes(sets):
    source = opened(sets[1], image=None, preprocess=RULE)
    numbers = [len(source.decoded(number, "numbers")) for number in range(20)]
    assert sorted(numbers) == list(range(20))
    for number, image in zip(numbers, source.images(np.arange(20)), strict=True):
        if number % 2 == 0:  # not from JPEG, which is lossy
            np.testing.assert_array_equal(
                image, jp.data.preprocess(pictures.smooth(number, 16 + number, 30 - number), RULE)
            )


@pytest.mark.parametrize(
    ("split", "places"),
    [
        ("train[:50%]", range(10)),
        ("train[8:14]", range(8, 14)),
        ("train[-2:]", range(18, 20)),
        ("train[15:]+train[:3]", [*range(15, 20), *range(3)]),
    ],
)
def test_tfds_parts_of_a_split_are_parts_of_its_records(sets, split, places):
    whole = opened(sets[1])
    for folder in sets:
        part = opened(folder, split)
        np.testing.assert_array_equal(part.labels, whole.labels[places])
        np.testing.assert_array_equal(part.images(np.arange(len(part))), whole.images(np.array(places)))


def test_tfds_takes_the_folder_of_one_version(sets):
    source = opened(sets[1] / "jaxprune_records/2.0.0", "test")
    np.testing.assert_array_equal(source.labels, opened(sets[1], "test").labels)
    assert source.classes == ("dark", "bright", "other")
    assert source.fingerprint() == opened(sets[1], "test").fingerprint()
    with pytest.raises(ValueError, match=r"data: expected the data set 'mnist' in .* but it is 'jaxprune_records'"):
        jp.data.tfds("mnist", image=4, folder=sets[1] / "jaxprune_records/2.0.0")


def test_fingerprint_of_tfds_is_of_the_files_of_the_split(folder):
    first = opened(folder).fingerprint()
    assert first.startswith("sha256-whole:")
    assert opened(folder).fingerprint() == first
    assert opened(folder, image=7).fingerprint() != first
    assert len({first, opened(folder, "test").fingerprint(), opened(folder, "train[:9]").fingerprint()}) == 3
    shard = next(folder.rglob("*train.tfrecord-00001*"))
    data = shard.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    end = 16 + length
    shard.write_bytes(record(data[12 : 12 + length]) + data[end:])
    assert opened(folder).fingerprint() == first
    shard.write_bytes(data[end:] + data[:end])  # the same records in another order
    assert opened(folder).fingerprint() != first


def test_annotated_tfds_reads_masks_of_tfrecord_too(sets):
    want, got = (jp.data.annotated_tfds("jaxprune_records", image=8, folder=str(folder)) for folder in sets)
    np.testing.assert_array_equal(got.mask, want.mask)
    np.testing.assert_array_equal(got.source().images(np.arange(20)), want.images)


# ------------------------------------------------------------------------------------------ sets that are damaged


def test_tfds_refuses_a_missing_shard_of_tfrecord(folder):
    next(folder.rglob("*train.tfrecord-00001*")).unlink()
    with pytest.raises(ValueError, match=r"data: 1 of 3 files of tfds:jaxprune_records are missing, .*-00001-of-00003"):
        opened(folder)
    opened(folder, "test")


@pytest.mark.parametrize("at", [3, 100, -2])
def test_tfds_finds_a_flipped_byte_before_anything(folder, at):
    shard = next(folder.rglob("*train.tfrecord-00002*"))
    data = bytearray(shard.read_bytes())
    data[at] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"data: tfds:jaxprune_records.*-00002-of-00003: .* checksum .*repare"):
        opened(folder)


def test_tfds_refuses_a_truncated_shard(folder):
    shard = next(folder.rglob("*train.tfrecord-00000*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data: tfds:jaxprune_records: .*-00000-of-00003: ends inside of a record"):
        opened(folder)
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=r"should have 20 examples by its metadata, but 11 are there; the first file"):
        opened(folder)


@pytest.mark.parametrize("lengths", [(9, 4, 8), (9, 4, 6), (8, 5, 7)])
def test_tfds_refuses_counts_that_differ_from_the_metadata(folder, lengths):
    rewrite(folder, sharded("train", lengths))
    with pytest.raises(ValueError, match=rf"should have {sum(lengths)} examples by its metadata, but 20 are there"):
        opened(folder)


@pytest.mark.parametrize(("kind", "why"), [("parquet", "The writer of TFDS loses rows"), ("riegeli", "")])
def test_tfds_refuses_other_formats_by_name(folder, kind, why):
    rewrite(folder, formatted(kind))
    with pytest.raises(ValueError, match=rf"tfds:jaxprune_records is prepared as {kind}, and only .*{why}.* again"):
        opened(folder)


def test_tfds_refuses_a_set_without_its_metadata(folder):
    (metadata,) = folder.rglob("dataset_info.json")
    metadata.unlink()
    with pytest.raises(ValueError, match=r"data: .* no dataset_info.json, .*tfds:jaxprune_records is incomplete"):
        opened(folder)


def test_tfds_refuses_a_set_that_was_begun(folder):
    version = folder / "jaxprune_records/2.0.0"
    version.rename(folder / "jaxprune_records/incomplete.ABC123_2.0.0")
    with pytest.raises(ValueError, match=r"tfds:jaxprune_records has been begun in '.*incomplete.ABC.*, and never fin"):
        opened(folder)
    shutil.copytree(folder / "jaxprune_records/incomplete.ABC123_2.0.0", version)
    opened(folder)  # what was begun anew does not spoil what is there


def test_tfds_names_a_damaged_picture(folder):
    """Damaged before it was written: the checksum is right."""
    shard = next(folder.rglob("*test.tfrecord*"))
    records = list(Records([shard]))
    records[3] = records[3].replace(b"IHDR", b"IHDX").replace(b"\xff\xd8", b"\xff\xd9")
    shard.write_bytes(b"".join(record(each) for each in records))
    for options in ({"image": 6}, {"image": None, "preprocess": RULE}):
        source = opened(folder, "test", **options)
        source.images(np.array([0, 1, 2, 4]))
        with pytest.raises(ValueError, match="example 3 of tfds:jaxprune_records:test: cannot be read as an image"):
            source.images(np.arange(5))


def test_tfds_asks_for_exactly_one_size(sets):
    for options in ({"image": None}, {"image": 6, "preprocess": RULE}):
        with pytest.raises(ValueError, match="image, preprocess: expected exactly one of them, but got"):
            opened(sets[1], **options)
    with pytest.raises(ValueError, match="preprocess: expected one size for all images"):
        opened(sets[1], image=None, preprocess=Preprocess(resize=5))
