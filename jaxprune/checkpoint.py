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
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune import check, files, tree


def save(folder: str | os.PathLike[str], step: int, state: Any, keep: int = 2) -> Path:
    """Saves a tree of arrays as the checkpoint of a step; older ones are deleted but for ``keep``.

    Args:
      folder: where checkpoints live, one folder each.
      step: names the checkpoint.
      state: any tree of arrays (a network, an optimizer state).  PRNG keys are saved as ``jax.random.key_data``.
      keep: how many checkpoints stay, the newest.

    Returns:
      The folder of the checkpoint, complete.

    Raises:
      ValueError: the folder cannot be written, or has a checkpoint of this step.
    """
    root = check.writable("folder", folder)
    final = root / f"{step:08d}"
    if final.exists():
        raise ValueError(f"step: {str(final)!r} exists. Resume from it, or choose another folder.")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        ocp.save(str((temporary / "arrays").absolute()), {str(index): leaf for index, leaf in enumerate(leaves)})
        files.write_json(temporary / "manifest.json", _manifest(step, tree.names(state), leaves))
        temporary.rename(final)
        files.sync_folder(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _steps(root)[:-keep]:
        shutil.rmtree(root / f"{old:08d}")
    return final


def restore(folder: str | os.PathLike[str], like: Any) -> tuple[int, Any] | None:
    """Loads the newest checkpoint that is whole.

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
        problem, leaves = _load(path, like)
        if problem is None:
            return step, jax.tree.unflatten(jax.tree.structure(like), leaves)
        warnings.warn(f"The checkpoint {str(path)!r} is damaged ({problem}); trying the one before it.", stacklevel=2)
    if steps:
        raise ValueError(f"folder: every checkpoint in {str(root)!r} is damaged. Delete the folder to start again.")
    return None


def _steps(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit() and path.is_dir())


def _manifest(step: int, names: list[str], leaves: list[np.ndarray]) -> dict[str, Any]:
    rows = [
        {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": _digest(leaf)}
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return {"step": step, "leaves": rows}


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()


def _load(path: Path, like: Any) -> tuple[str | None, list[Any]]:
    """Returns (what is damaged or None, leaves); raises where the checkpoint is whole but of something else."""
    try:
        rows = json.loads((path / "manifest.json").read_text())["leaves"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read: {error}", []
    targets = jax.tree.leaves(like)
    _check_same(path, rows, tree.names(like), targets)
    try:
        arrays = ocp.load(str((path / "arrays").absolute()))
        values = [np.asarray(arrays[str(index)]) for index in range(len(rows))]
    # Orbax and TensorStore raise many kinds of errors for damaged files; each of them means the same here.
    except Exception as error:
        return f"its arrays cannot be read: {type(error).__name__}", []
    for row, value in zip(rows, values, strict=True):
        if _digest(value) != row["sha256"]:
            return f"the bytes of {row['name']} have changed", []
    return None, [_place(value, target) for value, target in zip(values, targets, strict=True)]


def _check_same(path: Path, rows: list[dict[str, Any]], names: list[str], targets: list[Any]) -> None:
    for row, name, target in zip(rows, names, targets, strict=False):
        saved = (row["name"], tuple(row["shape"]), row["dtype"])
        wanted = (name, np.shape(target), str(np.asarray(target).dtype))
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
    return jax.device_put(value, target.sharding) if isinstance(target, jax.Array) else value
