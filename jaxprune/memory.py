"""What fits into memory, asked before anything is allocated."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from jaxprune import check

_LIMIT = "JAXPRUNE_MEMORY"


def available(memory: int | None) -> int:
    """Returns the bytes that may be taken: what was asked for, or half of what is free on the device.

    The environment variable JAXPRUNE_MEMORY says how many bytes this process may hold in all, such as 4e9; what it
    holds already is not free then.

    With several processes it is half of what a device has: what is free differs between hosts, and all must compile the
    same programs.

    Raises:
      ValueError: ``memory`` is not positive.

    >>> available(10**9)
    1000000000
    """
    if memory is not None:
        check.positive("memory", memory)
        return int(memory)
    statistics = jax.local_devices()[0].memory_stats() or {}
    limit, asked = statistics.get("bytes_limit"), _asked()
    if jax.process_count() > 1:
        return min(sys.maxsize if limit is None else limit, asked) // 2
    if limit is None:
        return max(0, min(_free(), asked - _held())) // 2
    return max(0, min(limit, asked) - statistics.get("bytes_in_use", 0)) // 2


def fits(
    what: str, needed: int, memory: int | None, largest: Callable[[int], str] | None = None, *, remedy: str = ""
) -> None:
    """Checks that something fits.

    Args:
      what: it is.
      needed: bytes.
      memory: see ``available``.
      largest: the bytes that there are -> the largest choice that fits, in words.
      remedy: what to do, in a sentence, where that is neither smaller blocks nor a smaller batch.

    Raises:
      MemoryError: it does not; the message is that of ``refusal``.
    """
    if said := refusal(what, needed, memory, largest, remedy=remedy):
        raise MemoryError(said)


def refusal(
    what: str, needed: int, memory: int | None, largest: Callable[[int], str] | None = None, *, remedy: str = ""
) -> str:
    """Says of what does not fit what it needs, what there is, and what to choose instead; nothing of what fits.

    >>> refusal("a matrix", 10**9, 10**9)
    ''
    """
    there = available(memory)
    if needed <= there:
        return ""
    smaller = 'smaller blocks (blocks="unit" or an int such as 128)' if largest is None else largest(there)
    usual = (
        f"Choose {smaller}, a smaller batch (averages over batches are exact), or products, which never form a "
        "block: jp.curvature.block_product."
    )
    return (
        f"{what}: needs {needed / 1e9:.3g} GB, but {there / 1e9:.3g} GB may be taken (memory=None takes half of "
        f"what is free{_under()}). {remedy or usual}"
    )


def forget_programs() -> None:
    """Gives back what compiled programs take, which on a CPU is memory as any other.

    Whichever is called again is compiled again.
    """
    jax.clear_caches()
    gc.collect()


def _free() -> int:
    """What the operating system could give to this process, within the limit of its control group."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    table = Path("/proc/meminfo")
    for line in table.read_text().splitlines() if table.exists() else []:
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024  # counts caches that would be given up
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def _under() -> str:
    return f", with {_LIMIT}={os.environ[_LIMIT]}" if os.environ.get(_LIMIT) else ""


def _asked() -> int:
    """What the environment allows this process on a device; on a CPU that is what the process holds."""
    asked = os.environ.get(_LIMIT)
    if not asked:
        return sys.maxsize
    try:
        limit = float(asked)
        check.positive(_LIMIT, limit)
        return int(limit)
    except (ValueError, OverflowError):
        raise ValueError(f"{_LIMIT}: expected a number of bytes above 0, such as 4e9, but got {asked!r}.") from None


def _held() -> int:
    """What this process holds, after what was freed is given back: glibc keeps it, in an arena for each thread."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    table = Path("/proc/self/statm")
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if table.exists() else 0
