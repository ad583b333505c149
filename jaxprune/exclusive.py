"""Work that one process at a time may do: a file that it holds, free again when the process is dead.

On one host the kernel says whether the holder lives: it keeps a lock on the file (``flock``), which dies with it.
Other hosts may not see that lock, so the holder also touches its file; one that was not touched for a lease is
abandoned.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

LEASE = 60.0
"""Seconds after which a file that no process of this host locks, and that another host does not touch, is abandoned."""


class Hold:
    """A file that this process holds, until ``release`` or until the process ends.  A context manager."""

    def __init__(self, path: Path, descriptor: int, lease: float) -> None:
        self.path = path
        self._descriptor = descriptor
        self._released = threading.Event()
        # A daemon: it must never keep a process alive.
        threading.Thread(target=self._touch, args=(lease / 4,), daemon=True).start()

    def release(self) -> None:
        """Lets others have it; the file goes."""
        if not self._released.is_set():
            self._released.set()
            # Removed while it is locked, so that whoever opened it before sees that it is no longer the one.
            if _is_same(self._descriptor, self.path):
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _touch(self, every: float) -> None:
        while not self._released.wait(every):
            try:
                os.utime(self._descriptor)
            except OSError:
                return  # released in between


def hold(path: Path, *, lease: float = LEASE) -> Hold | None:
    """Takes a file for this process, at once.

    Args:
      path: made where it is missing; its folder must be there.
      lease: seconds after which the file of another host counts as abandoned.

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
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same(descriptor, path):
                os.close(descriptor)  # its holder removed it after it was opened here
                continue
            if _is_foreign(descriptor) and _age(path) < lease:
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_self()).encode(), 0)
            return Hold(path, descriptor, lease)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise


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
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']}"
    except FileNotFoundError:
        return "nobody"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said its name"


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


def _self() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether a path still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_foreign(descriptor: int) -> bool:
    """Whether a process of another host wrote the file; an empty one is of nobody."""
    try:
        return json.loads(os.pread(descriptor, 4096, 0))["host"] != socket.gethostname()
    except (ValueError, KeyError, TypeError):
        return False


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the machine that keeps the files."""
    probe = path.with_name(f".tmp-{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
