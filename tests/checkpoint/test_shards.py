"""Files of the parts of arrays: read back whole, and refused where a bit has changed."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxprune.checkpoint import contents, shards

LEAVES = [np.arange(12.0).reshape(3, 4), np.float32(2.5), np.ones(3, ml_dtypes.bfloat16), np.array([True, False])]
ROWS = [
    {"name": f"leaf{at}", "shape": list(np.shape(leaf)), "dtype": str(leaf.dtype)} for at, leaf in enumerate(LEAVES)
]


def test_write_and_read_give_arrays_back_bit_for_bit(tmp_path):
    lists = [shards.write(tmp_path, index, [jnp.asarray(LEAVES[0]), *LEAVES[1:]]) for index in (0, 1)]
    assert (tmp_path / "part-1.bin").stat().st_size == 0  # nothing of it lies there
    for got, leaf in zip(shards.read(tmp_path, ROWS, lists), LEAVES, strict=True):
        assert (got.dtype, got.shape, got.tobytes()) == (leaf.dtype, np.shape(leaf), leaf.tobytes())


def test_read_finds_every_flipped_byte(tmp_path):
    lists = [shards.write(tmp_path, 0, LEAVES)]
    for path in (tmp_path / "part-0.bin", tmp_path / "part-0.json"):
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="changed"):
                shards.read(tmp_path, ROWS, lists)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="changed"):
            shards.read(tmp_path, ROWS, lists)
        path.write_bytes(whole)


def test_read_finds_what_nobody_wrote(tmp_path):
    (tmp_path / "other").mkdir()
    lists = [shards.write(tmp_path, 0, LEAVES[:1]), shards.write(tmp_path / "other", 0, LEAVES[:1])]
    with pytest.raises(ValueError, match="leaf1 is not there whole"):
        shards.read(tmp_path, ROWS, lists[:1])
    for kind in ("bin", "json"):
        (tmp_path / "other" / f"part-0.{kind}").rename(tmp_path / f"part-1.{kind}")
    with pytest.raises(ValueError, match="leaf0 is not there whole"):  # but twice
        shards.read(tmp_path, ROWS[:1], lists)


def test_load_of_a_checkpoint_of_processes_names_what_is_wrong(tmp_path):
    state = {"w": np.arange(6.0), "b": np.ones(2, np.float32)}
    lists = [shards.write(tmp_path, 0, jax.tree.leaves(state))]
    contents.write_manifest(tmp_path, 3, state, lists)
    for got, leaf in zip(contents.load(tmp_path, state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, leaf)
    with pytest.raises(ValueError, match="is of another network or optimizer"):
        contents.load(tmp_path, {**state, "w": np.arange(5.0)})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "parts": ["0" * 64]}))
    with pytest.raises(contents.DamagedError, match="its hash does not fit"):
        contents.load(tmp_path, state)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "part-0.bin").unlink()
    with pytest.raises(contents.DamagedError, match="its arrays cannot be read: FileNotFoundError"):
        contents.load(tmp_path, state)
