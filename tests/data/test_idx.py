import gzip
import struct

import numpy as np
import pytest

import jaxprune as jp

IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)
LABELS = np.array([2, 0, 1, 1, 0], np.uint8)


def packed(array, kind=8):
    """The bytes of an IDX file, by its definition."""
    head = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write(folder, images=IMAGES, labels=LABELS, *, prefix="", part="train", dot="-", compressed=False):
    folder.mkdir(exist_ok=True)
    for what, array in (("images", images), ("labels", labels)):
        path = folder / f"{prefix}{part}-{what}{dot}idx{array.ndim}-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(packed(array)) if compressed else packed(array))
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_reads_both_parts_as_they_are_published(tmp_path, compressed, dot):
    place = write(tmp_path / "garments", dot=dot, compressed=compressed)
    write(place, IMAGES[::-1], LABELS[::-1], part="t10k", dot=dot, compressed=compressed)
    (place / "README").write_text("no data")
    for part, order in (("train", slice(None)), ("test", slice(None, None, -1))):
        source = jp.data.idx(place, part)
        assert (source.name, source.classes, source.image_shape) == (f"idx:garments:{part}", ("0", "1", "2"), (3, 2, 1))
        np.testing.assert_array_equal(source.pixels[..., 0], IMAGES[order])
        np.testing.assert_array_equal(source.labels, LABELS[order])
        assert (source.pixels.dtype, source.labels.dtype) == (np.uint8, np.int32)
    assert jp.data.idx(place, classes=("shirt", "shoe", "bag")).classes == ("shirt", "shoe", "bag")
    assert jp.data.idx(place).fingerprint() != jp.data.idx(place, "test").fingerprint()


def test_idx_turns_the_pictures_of_emnist_and_no_others(tmp_path):
    place = write(tmp_path, prefix="emnist-digits-", compressed=True)
    write(place, prefix="emnist-digits-", part="test")
    upright = IMAGES.transpose(0, 2, 1)
    for part in ("train", "test"):
        np.testing.assert_array_equal(jp.data.idx(place, part).pixels[..., 0], upright)
    np.testing.assert_array_equal(jp.data.idx(place, transposed=False).pixels[..., 0], IMAGES)
    other = write(tmp_path / "other")
    np.testing.assert_array_equal(jp.data.idx(other).pixels[..., 0], IMAGES)
    np.testing.assert_array_equal(jp.data.idx(other, transposed=True).pixels[..., 0], upright)


def test_idx_counts_labels_from_nought_and_names_letters_by_their_mapping(tmp_path):
    write(tmp_path, labels=LABELS + 1, prefix="emnist-letters-")
    source = jp.data.idx(tmp_path)
    assert source.classes == ("1", "2", "3")
    np.testing.assert_array_equal(source.labels, LABELS)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    assert jp.data.idx(tmp_path).classes == ("A a", "B b", "C c")
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n")
    with pytest.raises(ValueError, match=r"idx: expected the labels 1 to 3 in '.*mapping.txt', each once, but got \[1"):
        jp.data.idx(tmp_path)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 A\n")
    with pytest.raises(ValueError, match=r"idx: expected lines such as '10 65' in '.*mapping.txt'"):
        jp.data.idx(tmp_path)


def test_idx_asks_which_of_several_sets(tmp_path):
    write(tmp_path, prefix="emnist-letters-")
    write(tmp_path, IMAGES[:3], LABELS[:3], prefix="emnist-digits-")
    assert len(jp.data.idx(tmp_path, name="emnist-digits")) == 3
    assert jp.data.idx(tmp_path, name="emnist-letters-").name == f"idx:{tmp_path.name}/emnist-letters:train"
    with pytest.raises(ValueError, match=r"the files of one set in .* sets: 'emnist-digits', 'emnist-letters'. Name"):
        jp.data.idx(tmp_path)
    with pytest.raises(ValueError, match=r"the set 'emnist-mnist' in .* these sets: 'emnist-digits', 'emnist-letters'"):
        jp.data.idx(tmp_path, name="emnist-mnist")


BROKEN = {
    "another type": (packed(IMAGES, 9), r"idx: expected images as unsigned bytes with 3 axes .* begins 00 00 09 03"),
    "labels": (packed(LABELS), r"idx: expected images as unsigned bytes with 3 axes .* begins 00 00 08 01"),
    "colours": (packed(IMAGES[..., None]), r"begins 00 00 08 04\. Is it a file of images"),
    "no IDX": (b"PK\x03\x04" + bytes(40), r"begins 50 4b 03 04"),
    "empty": (b"", r"idx: '.*' ends within its header, after 0 bytes"),
    "half a header": (packed(IMAGES)[:9], r"ends within its header, after 9 bytes"),
    "nothing": (packed(IMAGES[:0]), r"says that it holds \[0, 3, 2\]: nothing"),
    "cut": (packed(IMAGES)[:-1], r"says that it holds \[5, 3, 2\]"),
    "longer": (packed(IMAGES) + b"\0", r"says that it holds \[5, 3, 2\]"),
    "huge": (
        struct.pack(">HBB3I", 0, 8, 3, 5, 2**31, 2**31) + bytes(100),
        r"which takes 23,058,430,092,136,939,536 by",
    ),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_idx_refuses_what_is_no_whole_file_of_images(tmp_path, name, compressed):
    content, message = BROKEN[name]
    write(tmp_path, compressed=compressed)
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=message):
        jp.data.idx(tmp_path)


def test_idx_refuses_a_bomb_before_it_is_unpacked(tmp_path):
    write(tmp_path, labels=LABELS, compressed=True)
    # As many zeros as the header announces would take 12 GB; the file has 100 of them, in as few bytes.
    content = struct.pack(">HBB3I", 0, 8, 3, 5, 50_000, 50_000) + bytes(100)
    next(tmp_path.glob("train-images*")).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"takes 12,500,000,016 bytes, but it has \d\d, compressed"):
        jp.data.idx(tmp_path)


def test_idx_refuses_more_images_than_fit_into_memory(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(jp.memory, "available", lambda memory: 40)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte' holds \[5, 3, 2\], .* GB may be taken"):
        jp.data.idx(tmp_path)


def test_idx_every_cut_and_flip_of_a_compressed_file_is_an_error_or_changes_nothing(tmp_path):
    write(tmp_path, compressed=True)
    path = next(tmp_path.glob("train-images*"))
    whole, fingerprint = path.read_bytes(), jp.data.idx(tmp_path).fingerprint()
    errors = 0
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                got = jp.data.idx(tmp_path)
            except ValueError as error:
                errors += str(error).startswith("idx: ")
            else:
                assert got.fingerprint() == fingerprint
    assert errors > 1.8 * len(whole)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:4], r"as many labels as images, but '.*' has 5 images and '.*' 4 labels"),
        (LABELS + 2, r"labels that count up from 0 or 1, .* has none of the label 0"),
        (LABELS * 2, r"labels that count up from 0 or 1, .* has none of the label 1\."),
    ],
)
def test_idx_refuses_labels_that_do_not_fit(tmp_path, labels, message):
    write(tmp_path, labels=labels)
    with pytest.raises(ValueError, match=message):
        jp.data.idx(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_idx_says_which_file_is_missing_or_there_twice(tmp_path):
    with pytest.raises(ValueError, match=r"it holds these sets: none\. Is it the right folder"):
        jp.data.idx(tmp_path)
    write(tmp_path)
    with pytest.raises(
        ValueError, match=r"one file with the images of the part 'test' in .*, but there is none\. Copy"
    ):
        jp.data.idx(tmp_path, "test")
    write(tmp_path, compressed=True)
    with pytest.raises(ValueError, match=r"there is train-images-idx3-ubyte and train-images-idx3-ubyte\.gz\. Remove"):
        jp.data.idx(tmp_path)
    with pytest.raises(ValueError, match=r"idx: '.*nowhere' is not a folder"):
        jp.data.idx(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"part: unknown value 'tests'\. Did you mean 'test'"):
        jp.data.idx(tmp_path, "tests")
    with pytest.raises(ValueError, match=r"classes: expected the names of the 3 classes of .*, but got \('a', 'b'\)"):
        jp.data.idx(write(tmp_path / "one"), classes=("a", "b"))
