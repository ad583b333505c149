"""Fingerprints of files, and work on many of them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from jaxprune.data.streaming import usable_cpus

S = TypeVar("S")
T = TypeVar("T")

WHOLE = 2**30
"""Up to this many bytes in total all are hashed, beyond it the ends of each file."""

_END = 4096
_PIECE = 64  # items that a thread takes at a time: to hand over single ones of a million would cost more than they do


def fingerprint(folder: Path, names: Sequence[str], facts: Iterable[Any] = (), whole: int = WHOLE) -> str:
    """Hashes files: their names, sizes, and contents or ends, in this order.

    Args:
      folder: where they lie.
      names: relative to the folder, with forward slashes.
      facts: what else belongs to each file or to all, as text.
      whole: up to this many bytes in total, contents are hashed whole.

    Returns:
      ``"sha256-whole:..."``, or ``"sha256-ends:..."`` of the first and the last 4 KiB of each file: a byte that flips
      between them does not show.

    Raises:
      OSError: a file can't be read.
    """
    sizes = in_threads(lambda name: (folder / name).stat().st_size, names)
    ends = sum(sizes) > whole
    contents = in_threads(lambda each: _contents(folder / each[0], each[1], ends), list(zip(names, sizes, strict=True)))
    digest = hashlib.sha256()
    for part in (*facts, *(f"{name}\0{size}" for name, size in zip(names, sizes, strict=True))):
        digest.update(f"{part}\0".encode())  # which no name holds
    for content in contents:
        digest.update(content)
    return f"sha256-{'ends' if ends else 'whole'}:{digest.hexdigest()}"


def in_threads(function: Callable[[S], T], items: Sequence[S], workers: int | None = None) -> list[T]:
    """Applies a function to all items in threads of their own, and returns what it returns, in order.

    Its first error is raised, and what was not begun is left.
    """
    count = workers or usable_cpus()
    size = max(1, min(_PIECE, len(items) // (4 * count)))
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(count) as pool:
        try:
            done = list(pool.map(lambda piece: [function(item) for item in piece], pieces))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [result for piece in done for result in piece]


def _contents(path: Path, size: int, ends: bool) -> bytes:
    with path.open("rb") as handle:
        if not ends:
            return hashlib.file_digest(handle, "sha256").digest()
        digest = hashlib.sha256(handle.read(_END))
        handle.seek(max(size - _END, 0))
        digest.update(handle.read(_END))
        return digest.digest()
