"""Work that one process at a time may do: a file that it holds, free again when the process is dead.

On one machine the kernel says whether the holder lives: it keeps a lock on the file (``flock``), which dies with it.
Other machines may not see that lock, so the holder also touches its file; one that was not touched for a lease is
abandoned.  Where they do not see it, two of them may take an abandoned file in the same moment, and both have it.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

LEASE = 60.0
"""Seconds after which a file that no process of this machine locks, and that another does not touch, is abandoned."""


class Hold:
    """A file that this process holds, until ``release`` or until the process ends.  A context manager.

    A process that is forked meanwhile does not hold it.
    """

    def __init__(self, path: Path, descriptor: int, written: bytes, lease: float) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._written = written
        self._guard = threading.Lock()
        self._released = threading.Event()
        _HELD.add(self)
        # A daemon: it must never keep a process alive.
        threading.Thread(target=self._touch, args=(lease / 4,), daemon=True).start()

    def release(self) -> None:
        """Lets others have it; the file goes."""
        with self._guard:
            if self._descriptor is None:
                return
            descriptor, self._descriptor = self._descriptor, None
            # Removed while it is locked, so that whoever opened it before sees that it is no longer the one.  Not where
            # another machine has taken it, when this one slept for longer than the lease.
            if _is_same(descriptor, self.path) and os.pread(descriptor, 4096, 0) == self._written:
                self.path.unlink(missing_ok=True)
            os.close(descriptor)
            self._released.set()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _touch(self, every: float) -> None:
        while not self._released.wait(every):
            # The guard, because the number of a closed descriptor is soon that of another file.
            with self._guard, contextlib.suppress(OSError):
                if self._descriptor is not None:
                    os.utime(self._descriptor)

    def _forget(self) -> None:
        """Closes the copy of a forked process: the lock would live as long as that, and not as long as the holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._guard = None, threading.Lock()


_HELD: weakref.WeakSet[Hold] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [one._forget() for one in list(_HELD)])


def hold(path: Path, *, lease: float = LEASE) -> Hold | None:
    """Takes a file for this process, at once.

    Args:
      path: made where it is missing; its folder must be there.
      lease: seconds without a touch after which other machines may take the file from this one.

    Returns:
      The hold, or None where somebody alive has it: another process, or another part of this one.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "claim"
    >>> first = hold(path)
    >>> hold(path) is None, holder(path).startswith("process ")
    (True, True)
    >>> first.release()
    >>> hold(path) is None
    False
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it after it was opened here.
            if _is_same(descriptor, path):
                if not _is_foreign(found := _read(os.pread(descriptor, 4096, 0))) or _is_old(path, found):
                    return _take(path, descriptor, lease)
                os.close(descriptor)
                return None
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # removed in between, by a holder of another machine
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def wait(path: Path, *, every: float = 0.2) -> Hold:
    """Takes a file as soon as it is free."""
    while (found := hold(path)) is None:
        time.sleep(every)
    return found


def holder(path: Path) -> str:
    """Says who wrote a file that ``hold`` made: "process 123 on host"; "nobody" where there is none.

    >>> holder(Path("nowhere"))
    'nobody'
    """
    try:
        found = _read(path.read_bytes())
    except FileNotFoundError:
        return "nobody"
    return f"process {found['process']} on {found['host']}" if found else "a process that has not said its name"


def is_held(path: Path) -> bool:
    """Whether the holder of a file seems to live.

    For a moment whoever wants to take the file may find it held, and has to ask again.
    """
    try:
        found = _read(path.read_bytes())
        if _is_foreign(found):
            return not _is_old(path, found)
        # Not by its number: a dead process keeps that until its parent has asked, and another one may have it.
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def age(path: Path) -> float:
    """Returns the seconds since a file was touched, by the clock of the machine that keeps the files."""
    probe = path.with_name(f".tmp-{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def demand_supported(name: str, folder: Path) -> None:
    """Checks that files in a folder can be locked and linked.

    Raises:
      ValueError: its file system lacks one of them; ``name`` is the argument that is named.
    """
    probe = folder / f".tmp-{uuid.uuid4().hex}"
    other = probe.with_name(f"{probe.name}-link")
    try:
        with probe.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(probe, other)
    except OSError as error:
        raise ValueError(
            f"{name}: expected a folder on a file system with locks and hard links, which keep two processes from "
            f"doing one thing, but got {str(folder)!r} ({error.strerror}). Choose one on a local disk or on NFS."
        ) from error
    finally:
        other.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)


def _take(path: Path, descriptor: int, lease: float) -> Hold:
    """Signs a file that is locked; one that cannot be signed, as the disk is full, goes."""
    content = {**_self(), "process": os.getpid(), "lease": lease, "hold": uuid.uuid4().hex}
    written = json.dumps(content).encode()
    try:
        os.ftruncate(descriptor, 0)
        if os.pwrite(descriptor, written, 0) < len(written):  # an unreadable holder would be nobody to other machines
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return Hold(path, descriptor, written, lease)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _self() -> dict[str, Any]:
    """This machine: its name, and the start of its kernel, as two machines may have one name."""
    start = Path("/proc/sys/kernel/random/boot_id")
    return {"host": socket.gethostname(), "boot": start.read_text().strip() if start.exists() else ""}


def _read(content: bytes) -> dict[str, Any]:
    """What a holder wrote; nothing where it was killed before it had."""
    try:
        found = json.loads(content)
        return {name: kind(found[name]) for name, kind in _FIELDS.items()}
    except (ValueError, KeyError, TypeError):
        return {}


_FIELDS = {"host": str, "boot": str, "process": int, "lease": float}


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether a path still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_foreign(found: dict[str, Any]) -> bool:
    """Whether a process of another machine wrote a file; an empty one is of nobody."""
    return bool(found) and any(found[name] != value for name, value in _self().items())


def _is_old(path: Path, found: dict[str, Any]) -> bool:
    """Whether a file was not touched for the lease that its own holder promised to keep."""
    return age(path) >= found["lease"]
