"""Checkpoints: orbax arrays beside a manifest that says what every leaf is and what its bytes hash to.

Orbax restores flipped bits, and casts another dtype, without a word.  So every leaf's SHA-256 is kept, a damaged
checkpoint falls back to the one before it (with a warning), and a checkpoint of another network is an error.
"""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune import check, files, tree


def save(folder: str | os.PathLike[str], step: int, state: Any, keep: int = 2) -> Path:
    """Saves a tree of arrays as the checkpoint of a step; older ones are deleted but for ``keep``.

    One process writes into a folder.

    Args:
      folder: where checkpoints live, one folder each.
      step: names the checkpoint.
      state: any tree of arrays that are not empty (a network, an optimizer state).
      keep: how many checkpoints stay, the newest; 1 or more.

    Returns:
      The folder of the checkpoint, complete.

    Raises:
      ValueError: the folder cannot be written, has a checkpoint of this step, or a leaf is empty or a PRNG key.
    """
    root = check.writable("folder", folder)
    check.positive("keep", keep)
    final = root / f"{step:08d}"
    if final.exists():
        raise ValueError(f"step: {str(final)!r} exists. Resume from it, or choose another folder.")
    demand_savable(state)
    names, leaves = tree.names(state), jax.tree.leaves(state)
    arrays = [np.asarray(leaf) for leaf in leaves]
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        ocp.save(str((temporary / "arrays").absolute()), {str(index): leaf for index, leaf in enumerate(arrays)})
        files.write_json(temporary / "manifest.json", _manifest(step, names, arrays))
        temporary.rename(final)
        files.sync_folder(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _steps(root)[:-keep]:
        # Renamed first: whoever is killed in the middle leaves no half under a final name.
        (root / f"{old:08d}").rename(root / f".tmp-{uuid.uuid4().hex}")
    for leftover in root.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return final


def demand_savable(state: Any) -> None:
    """Checks that no leaf is empty or a PRNG key; what is NaN or infinite is saved as it is."""
    for name, leaf in tree.by_name(state).items():
        if np.size(leaf) == 0 or jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            raise ValueError(
                f"state: {name} is empty or a PRNG key, which cannot be saved. Save jax.random.key_data(key)."
            )


def restore(folder: str | os.PathLike[str], like: Any) -> tuple[int, Any] | None:
    """Loads the newest checkpoint that is whole; damaged ones are put aside, under names that begin with a dot.

    Args:
      folder: where checkpoints live.
      like: a tree of the same structure, shapes and types; its leaves' shardings are taken over.

    Returns:
      (step, tree), or None where there is no checkpoint.

    Raises:
      ValueError: the checkpoint is of another network or optimizer (the first leaf that differs is named), or all of
        them are damaged.

    Warns:
      UserWarning: a checkpoint is damaged, and an older one is tried.
    """
    root = Path(folder)
    steps = _steps(root)
    for step in reversed(steps):
        path = root / f"{step:08d}"
        try:
            leaves = _load(path, like)
        except _DamagedError as damage:
            aside = root / f".damaged-{path.name}-{uuid.uuid4().hex[:8]}"
            path.rename(aside)
            message = f"The checkpoint {str(path)!r} is damaged ({damage}); trying the one before it."
            warnings.warn(f"{message} It was renamed to {aside.name!r}.", stacklevel=2)
            continue
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves)
    if steps:
        raise ValueError(f"folder: every checkpoint in {str(root)!r} is damaged. Call again to start anew.")
    return None


class _DamagedError(Exception):
    """The files of a checkpoint are not as they were written."""


def _steps(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit() and path.is_dir())


def _manifest(step: int, names: list[str], leaves: list[np.ndarray]) -> dict[str, Any]:
    rows = [
        {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": _digest(leaf)}
        for name, leaf in zip(names, leaves, strict=True)
    ]
    # The rows are hashed too: a changed name is damage, and not another network.
    return {"step": step, "leaves": rows, "sha256": _digest_rows(rows)}


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()


def _digest_rows(rows: Any) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _load(path: Path, like: Any) -> list[Any]:
    """Loads the leaves of a checkpoint; raises where it is damaged, or whole but of something else."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        rows = manifest["leaves"]
        if manifest["sha256"] != _digest_rows(rows):
            raise ValueError("its hash does not fit")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"its manifest cannot be read: {error}") from error
    targets = jax.tree.leaves(like)
    _check_same(path, rows, tree.names(like), targets)
    try:
        arrays = ocp.load(str((path / "arrays").absolute()))
        values = [np.asarray(arrays[str(index)]) for index in range(len(rows))]
    # Orbax and TensorStore raise many kinds of errors for damaged files; each of them means the same here.
    except Exception as error:
        raise _DamagedError(f"its arrays cannot be read: {type(error).__name__}") from error
    for row, value in zip(rows, values, strict=True):
        if _digest(value) != row["sha256"]:
            raise _DamagedError(f"the bytes of {row['name']} have changed")
    return [_place(value, target) for value, target in zip(values, targets, strict=True)]


def _check_same(path: Path, rows: list[dict[str, Any]], names: list[str], targets: list[Any]) -> None:
    for row, name, target in zip(rows, names, targets, strict=False):
        saved = (row["name"], tuple(row["shape"]), row["dtype"])
        wanted = (name, np.shape(target), str(target.dtype if hasattr(target, "dtype") else np.asarray(target).dtype))
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
    return value if sharding is None else jax.device_put(value, sharding)
