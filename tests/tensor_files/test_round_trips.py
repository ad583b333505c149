"""What is written is read, bit for bit; and other libraries agree."""

import hashlib
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jaxprune.tensor_files import read, write

COMMON = ["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"]
UNSIGNED = ["uint16", "uint32", "uint64"]
KINDS = {".pth": COMMON, ".pt": COMMON, ".safetensors": COMMON + UNSIGNED, ".npz": COMMON + UNSIGNED}


def tensors(kinds):
    """Dictionaries of arrays of any shape, empty ones and those without axes among them, with NaNs of any bits."""
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array = st.sampled_from(kinds).flatmap(lambda kind: arrays.arrays(kind, shapes))
    names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    return st.dictionaries(names, array, max_size=4)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("suffix", KINDS)
def test_write_is_read_back_bit_for_bit(suffix, tmp_path):
    @given(tensors(KINDS[suffix]))
    @settings(max_examples=60)
    def comes_back(expected):
        write(tmp_path / f"net{suffix}", expected)
        file = read(tmp_path / f"net{suffix}")
        assert_same(file.tensors, expected)
        assert not file.other

    comes_back()


@pytest.mark.parametrize("suffix", KINDS)
def test_write_does_not_depend_on_order_and_layout(suffix, tmp_path):
    expected = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "reversed": np.arange(4)[::-1],
        "other": np.ones(1, ">f4"),
    }
    path = tmp_path / "a" / "new" / f"folder{suffix}"
    write(path, expected)
    assert_same(read(path).tensors, {name: array.astype(array.dtype.name) for name, array in expected.items()})
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    first = path.read_bytes()
    write(path, expected)
    assert path.read_bytes() == first
    assert read(path).fingerprint == hashlib.sha256(first).hexdigest()[:16]


def test_write_takes_numbers_of_jax(tmp_path):
    write(tmp_path / "net.npz", {"a": jnp.float32([1, 2])})
    assert read(tmp_path / "net.npz").tensors["a"].tolist() == [1, 2]


EXPECTED = {"a/b.c": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.uint8([7]), "e": np.zeros((0, 2), np.int64)}


def test_write_and_read_agree_with_the_library_of_safetensors(tmp_path):
    write(tmp_path / "net.safetensors", EXPECTED)
    found = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert_same({name: found[name] for name in EXPECTED}, EXPECTED)
    safetensors.numpy.save_file(EXPECTED, tmp_path / "net.safetensors", {"format": "pt"})
    file = read(tmp_path / "net.safetensors")
    assert_same({name: file.tensors[name] for name in EXPECTED}, EXPECTED)
    assert dict(file.other) == {"format": "pt"}
    assert file.format == "safetensors"


def test_write_agrees_with_numpy(tmp_path):
    write(tmp_path / "net.npz", EXPECTED)
    with np.load(tmp_path / "net.npz") as found:
        assert_same(found, EXPECTED)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_read_takes_what_numpy_saved(save, tmp_path):
    expected = {**EXPECTED, "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), "scalar": np.float16(1.5)}
    # In memory: the name of the file would be changed.
    save(stream := io.BytesIO(), **expected)
    (tmp_path / "net").write_bytes(stream.getvalue())
    file = read(tmp_path / "net")
    assert file.format == "npz"
    assert_same(file.tensors, {name: np.asarray(array) for name, array in expected.items()})
    assert not any(array.flags.writeable for array in file.tensors.values())


def test_read_makes_bfloat16_float32_exactly(tmp_path):
    halves = np.arange(0, 2**16, 7, dtype=np.uint16)
    expected = (halves.astype(np.uint32) << 16).view(np.float32)
    # As big_vision's archives have it: two bytes of nothing.
    np.savez(tmp_path / "a.npz", w=halves.view(jnp.bfloat16), v=halves.view("V2"))
    safetensors.numpy.save_file({"w": halves.view(jnp.bfloat16)}, tmp_path / "a.safetensors")
    for name, key in (("a.npz", "w"), ("a.npz", "v"), ("a.safetensors", "w")):
        array = read(tmp_path / name).tensors[key]
        assert array.dtype == np.float32
        assert array.tobytes() == expected.tobytes()
        assert not array.flags.writeable


def test_read_refuses_what_is_no_array_of_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(2), o=np.array([{}, None]), t=np.array("text"), b=np.ones(2, ">f4"))
    file = read(tmp_path / "a.npz")
    assert file.tensors["w"].tolist() == [1, 1]
    assert set(file.other) == {"o", "t", "b"}
    for key in file.other:
        with pytest.raises(ValueError, match=f"a.npz: expected a tensor '{key}', but it is no array of little-endian"):
            file.tensors[key]


def test_read_names_types_of_safetensors_that_numpy_has_not(tmp_path):
    header = json.dumps({"f": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    with pytest.raises(ValueError, match="F8_E4M3"):
        read(tmp_path / "a").tensors["f"]


@pytest.mark.parametrize(
    ("name", "tensors", "match"),
    [
        ("a.txt", {}, "path: suffix: unknown value '.txt'"),
        ("a.npz", {"a": np.array(["text"])}, "'a' is <U4"),
        ("a.npz", {"a": jnp.ones(2, jnp.bfloat16)}, "'a' is bfloat16. Cast it to float32"),
        ("a.pth", {"a": np.ones(2, np.uint16)}, "'a' is uint16"),
        ("a.npz", {"a\0b": np.ones(2)}, "Rename it"),
        ("a.npz", {"\ud800": np.ones(2)}, "Rename it"),
        ("a.safetensors", {"__metadata__": np.ones(2)}, "reserves"),
    ],
)
def test_write_names_what_cannot_be_written_and_leaves_nothing(name, tensors, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        write(tmp_path / name, tensors)
    assert not list(tmp_path.iterdir())
