"""Files that appear under their final name only when they are complete."""

import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes, *, over: bool = True) -> None:
    """Writes a file at once: to a temporary name in the same folder, flushed to disk, then renamed.

    A process killed at any moment leaves the old file, or the new one, or a stray ``.tmp-<stem>-*`` beside it.

    Args:
      path: the file.
      content: of the file.
      over: whether a file that is there is replaced; else it stays, also where it appears in this very moment.

    Raises:
      FileExistsError: it is there, and is not to be replaced.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".tmp-{path.stem[:32]}-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        if over:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # a rename would replace
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, over: bool = True) -> None:
    """Writes a value as JSON, keys sorted; errors are those of ``demand_finite`` and ``write``."""
    demand_finite("value", value)
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n", over=over)


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


def identity(path: Path) -> tuple[int, ...] | None:
    """Returns what tells a file from the next one of its name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, so that a rename survives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
