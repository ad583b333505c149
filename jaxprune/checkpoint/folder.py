"""A folder of checkpoints: which there are, which of them is whole, and who may write.

A damaged checkpoint falls back to the one before it (with a warning), and a checkpoint of another network is an error.

One writer at a time has a folder; it holds the file ``.writer`` there.  Readers need nothing, and change nothing while
somebody writes.  Several processes are one writer together: process 0 holds the file, names what is written, and gives
it its final name once all have said that they are done.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxprune import check, exclusive, files, processes
from jaxprune.checkpoint import contents, shards

_HELD = ".writer"


def save(folder: str | os.PathLike[str], step: int, state: Any, keep: int = 2) -> Path:
    """Saves a tree of arrays as the checkpoint of a step; older ones are deleted but for ``keep``.

    Args:
      folder: where checkpoints live, one folder each.
      step: names the checkpoint; 0 or more, and above all that are there: what is restored is the newest.
      state: any tree of arrays that are not empty (a network, an optimizer state).  Where some lie on several hosts,
        all of these have to call this, with a folder that they share.
      keep: how many checkpoints stay, the newest; 1 or more.

    Returns:
      The folder of the checkpoint, complete.

    Raises:
      ValueError: the folder cannot be written, has a checkpoint of this step or of a later one, or somebody else writes
        into it at this time (another process, or another thread of this one; a ``jp.train.fit`` does until it ends);
        its file system has no locks; or a leaf is empty or a PRNG key.  Nothing has been written then.

    >>> import tempfile
    >>> import numpy as np
    >>> save(tempfile.mkdtemp(), 7, {"w": np.ones(2)}).name
    '00000007'
    """
    with Writer(folder, together=_is_spread(state)) as writer:
        return writer.save(step, state, keep)


class Writer:
    """A folder of checkpoints that this part of this process writes into, and nobody else, until the context ends.

    Args:
      folder: where checkpoints live; made where it is missing.
      together: whether all processes write what lies on the devices of all; each of them calls everything then.

    Raises:
      ValueError: it cannot be written, somebody else writes into it, its file system has no locks, or processes that
        write together do not share it.
      RuntimeError: on the other processes, where process 0 raises; or a process did not come.

    >>> import tempfile
    >>> import numpy as np
    >>> with Writer(tempfile.mkdtemp()) as writer:
    ...     _ = writer.save(7, {"w": np.ones(2)})
    ...     writer.restore({"w": np.zeros(2)})
    (7, {'w': array([1., 1.])})
    """

    def __init__(self, folder: str | os.PathLike[str], *, together: bool = False) -> None:
        self._together = together and processes.count() > 1
        self._hold: exclusive.Hold | None = None
        self.root = Path(folder)
        if not self._together:
            self._take()
            return
        processes.first(self._take, what="folder")
        try:
            processes.demand_shared("folder", self.root)
        except BaseException:
            self.__exit__()
            raise

    def _take(self) -> None:
        check.writable("folder", self.root)
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
        if self._hold is not None:
            self._hold.release()

    def save(self, step: int, state: Any, keep: int = 2) -> Path:
        """Saves as ``jp.checkpoint.save`` does."""
        check.positive("keep", keep)
        final = self.root / _name(check.whole("step", step, 0))
        contents.demand_savable(state)
        if self._together:
            self._save_together(final, step, state, keep)
            return final
        temporary = _begun(self.root, final)
        try:
            contents.write(temporary, step, state)
            _published(temporary, final, keep)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def _save_together(self, final: Path, step: int, state: Any, keep: int) -> None:
        temporary = self.root / processes.first(lambda: _begun(self.root, final).name, what="checkpoint")
        try:
            said = {"sha256": shards.write(temporary, processes.index(), jax.tree.leaves(state))}
        except OSError as error:  # told to all, which would wait for it
            said = {"error": str(error)}
        found = processes.gathered("checkpoint", said)
        wrong = {index: one["error"] for index, one in enumerate(found) if "error" in one}

        def finish() -> None:
            try:
                if not wrong:
                    contents.write_manifest(temporary, step, state, [one["sha256"] for one in found])
                    _published(temporary, final, keep)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

        processes.first(finish, what="checkpoint")
        if wrong:
            index, error = next(iter(wrong.items()))
            raise OSError(f"checkpoint: process {index} could not write its part of {str(final)!r}: {error}")

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Restores as ``jp.checkpoint.restore`` does."""
        return _restore(self.root, like, self, self._together)


def _begun(root: Path, final: Path) -> Path:
    """Makes the folder that becomes a checkpoint."""
    if final.exists():
        raise ValueError(f"step: {str(final)!r} exists. Resume from it, or choose another folder.")
    # It would be the first to be deleted, and a restore would never take it.  Whoever restored an older one has put the
    # damaged ones above it aside.
    if (newest := max(steps(root), default=-1)) > int(final.name):
        raise ValueError(
            f"step: expected one above {newest}, the newest in {str(root)!r}, but got {int(final.name)}. Restore, "
            "which says where to go on and puts damaged ones aside; delete the newer ones; or choose another folder."
        )
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    return temporary


def _published(temporary: Path, final: Path, keep: int) -> None:
    """Gives a checkpoint its name, and deletes old ones but for ``keep``."""
    root = final.parent
    temporary.rename(final)
    files.sync_folder(root)
    for old in steps(root)[:-keep]:
        # Renamed first: whoever is killed in the middle leaves no half under a final name.
        (root / _name(old)).rename(root / f".tmp-{uuid.uuid4().hex}")
    for leftover in root.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_spread(state: Any) -> bool:
    """Whether some arrays lie on devices of several processes."""
    return any(isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in jax.tree.leaves(state))


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Lists the steps that have a checkpoint, whole or damaged, in order; folders of other names are nobody's.

    >>> steps("nowhere")
    []
    """
    root = Path(folder)
    if not root.is_dir():
        return []
    names = [path.name for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(int(name) for name in names if name == _name(int(name)))


def _name(step: int) -> str:
    return f"{step:08d}"


def restore(folder: str | os.PathLike[str], like: Any) -> tuple[int, Any] | None:
    """Loads the newest checkpoint that is whole.

    Damaged ones are put aside, under names that begin with a dot, so that training can go on from here; but where
    somebody writes into the folder, or this process must not, they are left where they are.

    Args:
      folder: where checkpoints live.
      like: a tree of the same structure, shapes and types; its leaves' shardings are taken over, whatever those were
        that were saved.  Where some lie on several hosts, all of these have to call this.

    Returns:
      (step, tree), or None where there is no checkpoint.

    Raises:
      ValueError: the checkpoint is of another network or optimizer (the first leaf that differs is named), or all of
        them are damaged.

    Warns:
      UserWarning: a checkpoint is damaged, and an older one is tried.

    >>> import tempfile
    >>> import numpy as np
    >>> restore(tempfile.mkdtemp(), {"w": np.zeros(2)}) is None
    True
    """
    return _restore(Path(folder), like, None, processes.count() > 1 and _is_spread(like))


def _restore(root: Path, like: Any, writer: Writer | None, together: bool) -> tuple[int, Any] | None:
    first = _on_first if together else lambda function: function()
    damaged: set[int] = set()
    while left := [step for step in first(lambda: steps(root)) if step not in damaged]:
        path = root / _name(left[-1])
        leaves, damage = _tried(path, like)
        if together:  # what one of them cannot read none of them takes
            damage = next((one for one in processes.gathered("checkpoint", damage) if one is not None), None)
        if damage is None:
            return left[-1], jax.tree.unflatten(jax.tree.structure(like), leaves)
        # Its writer deletes old ones, perhaps while they are read here; then there is a newer one.
        if first(path.is_dir):
            damaged.add(left[-1])
            message = f"The checkpoint {str(path)!r} is damaged ({damage}); trying the one before it."
            aside = first(lambda path=path: _put_aside(path, writer))
            warnings.warn(f"{message} It {aside}.", stacklevel=3)
    if damaged:
        raise ValueError(f"folder: every checkpoint in {str(root)!r} is damaged. Call again to start anew.")
    return None


def _on_first(function: Any) -> Any:
    return processes.first(function, what="checkpoint")


def _tried(path: Path, like: Any) -> tuple[list[Any], str | None]:
    """The leaves of a checkpoint, or what is wrong with it."""
    try:
        return contents.load(path, like, int(path.name)), None
    except contents.DamagedError as damage:
        return [], str(damage)


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
