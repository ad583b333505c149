"""Files that appear under their final name only when they are complete."""

import fcntl
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes) -> None:
    """Writes a file at once: to a temporary name in the same folder, flushed to disk, then renamed.

    A process killed at any moment leaves the old file, or the new one, or a stray ``.tmp-*`` beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, keys sorted; errors are those of ``demand_finite``."""
    demand_finite("value", value)
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def demand_finite(name: str, value: Any) -> None:
    """Checks that every number in a JSON value is one that JSON has.

    Raises:
      ValueError: a number is NaN or infinite; the message says where it is.
    """
    for where, number in _numbers(value):
        if not math.isfinite(number):
            raise ValueError(
                f"{name}: expected finite numbers, which JSON has, but {where or 'it'} is {number}. Find its cause, or "
                "leave it out."
            )


def _numbers(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield where, value
    elif isinstance(value, (dict, list, tuple)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(entry, f"{where}/{key}".lstrip("/"))


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, so that a rename survives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (a file beside what it protects); other processes wait for it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
