"""Arrays that several processes write together: each the parts that lie on its devices, in a file of its own.

    part-3.bin     the bytes of these parts, one after another
    part-3.json    for each the leaf, its place in it, where its bytes begin, and their SHA-256

Of what lies on several devices the first copy is written, so every number is written by one process.  Any number of
processes may read it.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import files


def write(folder: Path, index: int, leaves: Sequence[Any]) -> str:
    """Writes what this process has to write, and returns the SHA-256 of the list of it.

    Args:
      folder: made before, the same for all processes.
      index: of this process.
      leaves: arrays; those that do not lie on devices of several processes are written by process 0.
    """
    rows, offset = [], 0
    with (folder / f"part-{index}.bin").open("wb") as handle:
        for number, leaf in enumerate(leaves):
            for start, values in _own(leaf, index):
                data = np.ascontiguousarray(values).tobytes()
                handle.write(data)
                row = {"leaf": number, "start": start, "shape": list(values.shape), "offset": offset}
                rows.append({**row, "sha256": hashlib.sha256(data).hexdigest()})
                offset += len(data)
        handle.flush()
        os.fsync(handle.fileno())
    text = json.dumps(rows)
    files.write(folder / f"part-{index}.json", text)
    return hashlib.sha256(text.encode()).hexdigest()


def _own(leaf: Any, index: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """The parts of a leaf that this process writes, and where they begin."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield [place.start or 0 for place in shard.index], np.asarray(shard.data)
    elif index == 0:
        yield [0] * np.ndim(leaf), np.asarray(leaf)


def read(folder: Path, rows: Sequence[dict[str, Any]], lists: Sequence[str]) -> list[np.ndarray]:
    """Reads arrays of these shapes and types, whole.

    Args:
      folder: that ``write`` wrote into.
      rows: {"name", "shape", "dtype"} of every leaf.
      lists: the SHA-256 of the list of every process.

    Raises:
      ValueError: bytes have changed, or something is missing or there twice.
      OSError: a file cannot be read.
    """
    arrays = [np.empty(row["shape"], jnp.dtype(row["dtype"])) for row in rows]
    found = [0] * len(rows)
    for index, digest in enumerate(lists):
        text = (folder / f"part-{index}.json").read_bytes()
        if hashlib.sha256(text).hexdigest() != digest:
            raise ValueError(f"the list of part {index} has changed")
        with (folder / f"part-{index}.bin").open("rb") as handle:
            for part in json.loads(text):
                array, shape = arrays[part["leaf"]], part["shape"]
                handle.seek(part["offset"])
                data = handle.read(math.prod(shape) * array.dtype.itemsize)
                if hashlib.sha256(data).hexdigest() != part["sha256"]:
                    raise ValueError(f"the bytes of {rows[part['leaf']]['name']} have changed")
                place = tuple(slice(at, at + extent) for at, extent in zip(part["start"], shape, strict=True))
                array[place] = np.frombuffer(data, array.dtype).reshape(shape)
                found[part["leaf"]] += math.prod(shape)
    for row, count in zip(rows, found, strict=True):
        if count != math.prod(row["shape"]):
            raise ValueError(f"{row['name']} is not there whole")
    return arrays
