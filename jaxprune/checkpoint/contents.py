"""What one checkpoint holds: arrays beside a manifest that says what every leaf is and what its bytes hash to.

One process writes by orbax.  That restores flipped bits, and casts another dtype, without a word, so every leaf's
SHA-256 is kept.  Several processes write by ``shards``, whose files hash every part.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune import files, processes, tree
from jaxprune.checkpoint import shards


class DamagedError(Exception):
    """The files of a checkpoint are not as they were written."""


def demand_savable(state: Any) -> None:
    """Checks that no leaf is empty or a PRNG key; what is NaN or infinite is saved as it is."""
    for name, leaf in tree.by_name(state).items():
        if np.size(leaf) == 0 or jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            raise ValueError(
                f"state: {name} is empty or a PRNG key, which cannot be saved. Save jax.random.key_data(key)."
            )


def write(path: Path, step: int, state: Any) -> None:
    """Writes a checkpoint into a folder that is there, of arrays that this process has whole."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    if processes.count() > 1:  # orbax would wait for the others
        write_manifest(path, step, state, [shards.write(path, 0, arrays)])
        return
    ocp.save(str((path / "arrays").absolute()), {str(index): leaf for index, leaf in enumerate(arrays)})
    rows = [{**row, "sha256": _digest(leaf)} for row, leaf in zip(_rows(state), arrays, strict=True)]
    files.write_json(path / "manifest.json", _signed({"step": step, "leaves": rows}))


def write_manifest(path: Path, step: int, state: Any, lists: Sequence[str]) -> None:
    """Writes the manifest of a checkpoint of several processes; ``lists``: what ``shards.write`` returned to each."""
    manifest = {"step": step, "leaves": _rows(state), "parts": list(lists)}
    files.write_json(path / "manifest.json", _signed(manifest))


def _rows(state: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(np.shape(leaf)), "dtype": _kind(leaf)}
        for name, leaf in zip(tree.names(state), jax.tree.leaves(state), strict=True)
    ]


def _kind(leaf: Any) -> str:
    return str(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)


def _signed(manifest: dict[str, Any]) -> dict[str, Any]:
    # The rows are hashed too: a changed name is damage, and not another network.
    return {**manifest, "sha256": _digest_rows(manifest)}


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()


def _digest_rows(manifest: dict[str, Any]) -> str:
    # Of a checkpoint of one process, what it has always been.
    rows = manifest["leaves"] if "parts" not in manifest else [manifest["leaves"], manifest["parts"]]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def load(path: Path, like: Any, step: int | None = None) -> list[Any]:
    """Loads the leaves of a checkpoint, where those of ``like`` lie; ``step``: of which it has to be.

    Raises:
      DamagedError: its files are not as they were written.
      ValueError: it is whole, but of something else.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        rows = manifest["leaves"]
        if manifest["sha256"] != _digest_rows(manifest):
            raise ValueError("its hash does not fit")
        if step is not None and manifest["step"] != step:
            raise ValueError(f"it is that of step {manifest['step']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"its manifest cannot be read: {error}") from error
    targets = jax.tree.leaves(like)
    _check_same(path, rows, tree.names(like), targets)
    values = _by_orbax(path, rows) if "parts" not in manifest else _by_shards(path, rows, manifest["parts"])
    return [_place(value, target) for value, target in zip(values, targets, strict=True)]


def _by_shards(path: Path, rows: list[dict[str, Any]], lists: list[str]) -> list[np.ndarray]:
    try:
        return shards.read(path, rows, lists)
    except OSError as error:
        raise DamagedError(f"its arrays cannot be read: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedError(str(error)) from error


def _by_orbax(path: Path, rows: list[dict[str, Any]]) -> list[np.ndarray]:
    try:
        arrays = ocp.load(str((path / "arrays").absolute()))
        values = [np.asarray(arrays[str(index)]) for index in range(len(rows))]
    # Orbax and TensorStore raise many kinds of errors for damaged files; each of them means the same here.
    except Exception as error:
        raise DamagedError(f"its arrays cannot be read: {type(error).__name__}") from error
    for row, value in zip(rows, values, strict=True):
        if _digest(value) != row["sha256"]:
            raise DamagedError(f"the bytes of {row['name']} have changed")
    return values


def _check_same(path: Path, rows: list[dict[str, Any]], names: list[str], targets: list[Any]) -> None:
    for row, name, target in zip(rows, names, targets, strict=False):
        saved = (row["name"], tuple(row["shape"]), row["dtype"])
        wanted = (name, np.shape(target), _kind(target))
        if saved != wanted:
            raise ValueError(
                f"checkpoint: {str(path)!r} is of another network or optimizer: it holds {saved} where {wanted} was "
                "expected. Choose another folder, or the configuration that wrote it."
            )
    if len(rows) != len(names):
        raise ValueError(
            f"checkpoint: {str(path)!r} is of another network or optimizer: it holds {len(rows)} arrays where "
            f"{len(names)} were expected. Choose another folder, or the configuration that wrote it."
        )


def _place(value: np.ndarray, target: Any) -> Any:
    sharding = getattr(target, "sharding", None)
    if sharding is None:
        return value
    if not getattr(target, "committed", True):  # bound to that device, it would have every program compiled anew
        (device,) = sharding.device_set
        with jax.default_device(device):
            return jax.device_put(value)
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
