"""Checkpoints: orbax arrays beside a manifest that says what every leaf is and what its bytes hash to.

Orbax restores flipped bits, and casts another dtype, without a word.  So every leaf's SHA-256 is kept, a damaged
checkpoint falls back to the one before it (with a warning), and a checkpoint of another network is an error.

One writer at a time has a folder; it holds the file ``.writer`` there.  Readers need nothing, and change nothing while
somebody writes.
"""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune import check, exclusive, files, tree

_HELD = ".writer"


def save(folder: str | os.PathLike[str], step: int, state: Any, keep: int = 2) -> Path:
    """Saves a tree of arrays as the checkpoint of a step; older ones are deleted but for ``keep``.

    Args:
      folder: where checkpoints live, one folder each.
      step: names the checkpoint.
      state: any tree of arrays that are not empty (a network, an optimizer state).
      keep: how many checkpoints stay, the newest; 1 or more.

    Returns:
      The folder of the checkpoint, complete.

    Raises:
      ValueError: the folder cannot be written, has a checkpoint of this step, or somebody else writes into it at this
        time (another process, or another thread of this one; a ``jp.train.fit`` does until it ends); its file system
        has no locks; or a leaf is empty or a PRNG key.

    >>> import tempfile
    >>> save(tempfile.mkdtemp(), 7, {"w": np.ones(2)}).name
    '00000007'
    """
    with Writer(folder) as writer:
        return writer.save(step, state, keep)


class Writer:
    """A folder of checkpoints that this part of this process writes into, and nobody else, until the context ends.

    Args:
      folder: where checkpoints live; made where it is missing.

    Raises:
      ValueError: it cannot be written, somebody else writes into it, or its file system has no locks.

    >>> import tempfile
    >>> with Writer(tempfile.mkdtemp()) as writer:
    ...     _ = writer.save(7, {"w": np.ones(2)})
    ...     writer.restore({"w": np.zeros(2)})
    (7, {'w': array([1., 1.])})
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.root = check.writable("folder", folder)
        while (hold := _taken(self.root)) is None:
            # Nobody: it has ended in between.
            if (owner := exclusive.holder(self.root / _HELD)) != "nobody":
                raise ValueError(
                    f"folder: expected one that nobody else writes into, but {owner} does into {str(self.root)!r}. "
                    "Wait until it ends, or choose another folder."
                )
        self._hold = hold

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self._hold.release()

    def save(self, step: int, state: Any, keep: int = 2) -> Path:
        """Saves as ``jp.checkpoint.save`` does."""
        check.positive("keep", keep)
        final = self.root / f"{step:08d}"
        if final.exists():
            raise ValueError(f"step: {str(final)!r} exists. Resume from it, or choose another folder.")
        demand_savable(state)
        names, leaves = tree.names(state), jax.tree.leaves(state)
        arrays = [np.asarray(leaf) for leaf in leaves]
        temporary = self.root / f".tmp-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            ocp.save(str((temporary / "arrays").absolute()), {str(index): leaf for index, leaf in enumerate(arrays)})
            files.write_json(temporary / "manifest.json", _manifest(step, names, arrays))
            temporary.rename(final)
            files.sync_folder(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in steps(self.root)[:-keep]:
            # Renamed first: whoever is killed in the middle leaves no half under a final name.
            (self.root / f"{old:08d}").rename(self.root / f".tmp-{uuid.uuid4().hex}")
        for leftover in self.root.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return final

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Restores as ``jp.checkpoint.restore`` does."""
        return _restore(self.root, like, self)


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Lists the steps that have a checkpoint, whole or damaged, in order.

    >>> steps("nowhere")
    []
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit() and path.is_dir())


def demand_savable(state: Any) -> None:
    """Checks that no leaf is empty or a PRNG key; what is NaN or infinite is saved as it is."""
    for name, leaf in tree.by_name(state).items():
        if np.size(leaf) == 0 or jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            raise ValueError(
                f"state: {name} is empty or a PRNG key, which cannot be saved. Save jax.random.key_data(key)."
            )


def restore(folder: str | os.PathLike[str], like: Any) -> tuple[int, Any] | None:
    """Loads the newest checkpoint that is whole.

    Damaged ones are put aside, under names that begin with a dot, so that training can go on from here; but where
    somebody writes into the folder, or this process must not, they are left where they are.

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

    >>> import tempfile
    >>> restore(tempfile.mkdtemp(), {"w": np.zeros(2)}) is None
    True
    """
    return _restore(Path(folder), like, None)


def _restore(root: Path, like: Any, writer: Writer | None) -> tuple[int, Any] | None:
    damaged: set[int] = set()
    while left := [step for step in steps(root) if step not in damaged]:
        path = root / f"{left[-1]:08d}"
        try:
            leaves = _load(path, like)
        except _DamagedError as damage:
            # Its writer deletes old ones, perhaps while they are read here; then there is a newer one.
            if path.is_dir():
                damaged.add(left[-1])
                message = f"The checkpoint {str(path)!r} is damaged ({damage}); trying the one before it."
                warnings.warn(f"{message} It {_put_aside(path, writer)}.", stacklevel=3)
            continue
        return left[-1], jax.tree.unflatten(jax.tree.structure(like), leaves)
    if damaged:
        raise ValueError(f"folder: every checkpoint in {str(root)!r} is damaged. Call again to start anew.")
    return None


def _put_aside(path: Path, writer: Writer | None) -> str:
    """Renames a damaged checkpoint, if that is nobody else's to do; says what became of it."""
    with _may_write(path.parent, writer) as may:
        if not may:
            return "was left there, since somebody writes into the folder, or this process may not"
        if not path.is_dir():
            return "is gone, since somebody else has put it aside"
        aside = path.with_name(f".damaged-{path.name}-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        return f"was renamed to {aside.name!r}"


@contextmanager
def _may_write(root: Path, writer: Writer | None) -> Iterator[bool]:
    if writer is not None:
        yield True
        return
    try:
        hold = exclusive.hold(root / _HELD)
    except OSError:  # a reader need not be able to write
        hold = None
    try:
        yield hold is not None
    finally:
        if hold is not None:
            hold.release()


def _taken(root: Path) -> exclusive.Hold | None:
    try:
        return exclusive.hold(root / _HELD)
    except OSError:
        exclusive.demand_supported("folder", root)
        raise


class _DamagedError(Exception):
    """The files of a checkpoint are not as they were written."""


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
