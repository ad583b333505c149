import numpy as np
import pytest

import jaxprune as jp

BYTES = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
LABELS = np.array([1, 0, 1])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "three.npz"


def test_npz_keeps_bytes_and_makes_floats_float32(path):
    np.savez(path, image=BYTES, label=LABELS, classes=["no", "yes"])
    source = jp.data.npz(path)
    assert (source.name, source.classes, source.image_shape) == ("npz:three", ("no", "yes"), (4, 5, 3))
    np.testing.assert_array_equal(source.images(np.array([2, 0])), BYTES[[2, 0]])
    assert (source.pixels.dtype, source.labels.dtype) == (np.uint8, np.int32)
    floats = BYTES.astype(np.float64) / 255
    np.savez_compressed(path, image=floats, label=LABELS.astype(np.uint8), other=np.zeros(3))
    again = jp.data.npz(path)
    assert (again.classes, again.pixels.dtype) == (("0", "1"), np.float32)
    for each in (source, again):
        np.testing.assert_array_equal(jp.data.select(each, np.arange(3))["image"], BYTES.astype(np.float32) / 255)
    assert jp.data.npz(path, classes=("a", "b")).classes == ("a", "b")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": None}, ValueError, r"npz: expected 'image' and 'label' in '.*', but it has image\. Write it"),
        ({"image": BYTES.astype(np.int32)}, TypeError, "npz: expected images as uint8 or floats .* but got int32"),
        (
            {"image": BYTES.astype(np.float32)},
            ValueError,
            r"npz: image: expected numbers .* they lie in \[0, 179\]",
        ),
        ({"image": np.full((3, 2, 2, 1), np.nan)}, ValueError, "npz: image: expected finite numbers"),
        ({"image": BYTES[0]}, ValueError, r"pixels: expected images \[n, h, w, c\] with n = 3 labels"),
        ({"label": LABELS[:2]}, ValueError, r"pixels: expected images \[n, h, w, c\] with n = 2 labels"),
        ({"label": LABELS.astype(float)}, TypeError, r"npz: expected integer labels \[n\], .* but got float64 \(3,\)"),
        ({"label": LABELS[:, None]}, TypeError, r"but got int64 \(3, 1\)"),
        ({"label": LABELS - 1}, ValueError, r"labels: expected labels in \[0, 1\), but found -1"),
        ({"label": LABELS + 1}, ValueError, r"labels: class 0 has no example"),
        ({"image": BYTES[:0], "label": LABELS[:0]}, TypeError, r"npz: expected integer labels \[n\], one or more"),
        ({"classes": np.arange(2)}, TypeError, r"npz: expected classes as text \[k\], but got int64 \(2,\)"),
        ({"classes": ["one"]}, ValueError, r"labels: expected labels in \[0, 1\), but found 1"),
    ],
)
def test_npz_refuses_arrays_that_do_not_fit(path, change, error, message):
    arrays = {"image": BYTES, "label": LABELS, **change}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(error, match=message):
        jp.data.npz(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_npz_never_reads_pickles(path):
    np.savez(path, image=BYTES, label=LABELS, other=np.array([Bomb()], object))
    jp.data.npz(path)  # what is not asked for is not opened
    np.savez(path, image=BYTES, label=np.array([Bomb()] * 3, object))
    with pytest.raises(ValueError, match=r"npz: cannot read .* \(Object arrays cannot be loaded"):
        jp.data.npz(path)


def test_npz_refuses_files_that_are_no_archives(path, tmp_path):
    with pytest.raises(ValueError, match=r"npz: cannot read '.*three.npz' \(.*No such file"):
        jp.data.npz(path)
    for content in (b"", b"text", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"npz: cannot read '.*three.npz'"):
            jp.data.npz(path)
    np.save(tmp_path / "one.npy", BYTES)
    with pytest.raises(ValueError, match=r"it is one array, and no archive of several"):
        jp.data.npz(tmp_path / "one.npy")


def test_npz_every_cut_and_flip_is_an_error_or_changes_nothing(path):
    np.savez(path, image=BYTES, label=LABELS)
    whole, source = path.read_bytes(), jp.data.npz(path)
    errors = 0
    for at in range(0, len(whole), 3):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                got = jp.data.npz(path)
            except ValueError as error:
                errors += str(error).startswith("npz: ")
            else:
                assert got.fingerprint() == source.fingerprint()
    assert errors > len(whole) / 3


def test_npz_reads_the_images_that_are_kept_for_testing(path):
    np.savez(path, image=BYTES, label=LABELS, test_image=BYTES[::-1], test_label=np.array([1, 0, 0]))
    train, tests = jp.data.npz(path), jp.data.npz(path, "test")
    assert jp.data.npz_parts(path) == ("train", "test")
    assert (train.name, tests.name, train.classes, tests.classes) == ("npz:three", "npz:three:test", *[("0", "1")] * 2)
    np.testing.assert_array_equal(tests.pixels, BYTES[::-1])
    np.testing.assert_array_equal(tests.labels, [1, 0, 0])
    np.testing.assert_array_equal(train.labels, LABELS)
    np.savez(path, image=BYTES, label=LABELS, test_image=BYTES, test_label=LABELS, classes=["no", "yes"])
    assert jp.data.npz(path, "test").classes == ("no", "yes")


def test_npz_parts_are_complete_or_refused(path):
    np.savez(path, image=BYTES, label=LABELS)
    assert jp.data.npz_parts(path) == ("train",)
    with pytest.raises(ValueError, match=r"npz: expected 'test_image' and 'test_label' in .*, but it has image, label"):
        jp.data.npz(path, "test")
    np.savez(path, image=BYTES, label=LABELS, test_label=LABELS)
    assert jp.data.npz_parts(path) == ("train", "test")
    with pytest.raises(ValueError, match=r"npz: expected 'test_image' and 'test_label'"):
        jp.data.npz(path, "test")
    # Classes are those of the part that trains, also where the tests have fewer.
    np.savez(path, image=BYTES, label=LABELS, test_image=BYTES, test_label=LABELS * 0)
    with pytest.raises(ValueError, match=r"labels: class 1 has no example"):
        jp.data.npz(path, "test")
    np.savez(path, image=BYTES, label=LABELS, test_image=BYTES.astype(float), test_label=LABELS)
    with pytest.raises(ValueError, match=r"npz: test_image: expected numbers"):
        jp.data.npz(path, "test")
    with pytest.raises(ValueError, match=r"npz: cannot read"):
        jp.data.npz_parts(path.with_name("nowhere.npz"))
