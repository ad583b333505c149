"""Compilation apart: the seconds of a block of code, and how many of them JAX spent on tracing, lowering and compiling.

A program is compiled where it is first called, so that whichever work comes first in a process pays for all that
follow.  JAX says how long each of the three took as soon as it is over, in the thread that did it.
"""

import functools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jax import monitoring

# Tracing, lowering and compiling; the last is also of a program that is read from the persistent cache.  How long the
# reading took is inside it, and what it saved nobody spent: both have other beginnings.
_EVENTS = "/jax/core/compile/"
_now = time.perf_counter


class Spent:
    """What ``stopwatch`` hands out: seconds so far while the block runs, of the whole block once it is over."""

    def __init__(self) -> None:
        self._begin = _now()
        self._end: float | None = None
        self._intervals: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Of the block, compilation included."""
        return (_now() if self._end is None else self._end) - self._begin

    @property
    def compiling(self) -> float:
        """Seconds of these that went into tracing, lowering and compiling."""
        return covered(self._intervals, self._begin)


class _Running(threading.local):
    """The stopwatches of a thread, so that none is charged with what another thread compiles."""

    def __init__(self) -> None:
        self.spent: list[Spent] = []


_running = _Running()


@contextmanager
def stopwatch() -> Iterator[Spent]:
    """Measures the seconds of a block of code, and how many of them were compilation in this thread.

    Without compilation a block took ``seconds - compiling``.  JAX returns before results are there: wait for them in
    the block (``jax.block_until_ready``).  Python's own work around a trace, and what a device does at the first run of
    a program, are no compilation.  What JAX traces inside of ``jax.grad`` or ``jax.vmap`` that is itself outside of
    ``jit`` it does not report.

    Yields:
      A ``Spent``.

    Raises:
      Whatever the block raises.

    >>> import jax
    >>> with stopwatch() as spent:
    ...     _ = jax.block_until_ready(jax.jit(lambda x: 3 * x)(2.0))
    >>> 0 < spent.compiling <= spent.seconds
    True
    """
    _listen()
    spent = Spent()
    _running.spent.append(spent)
    try:
        yield spent
    finally:
        spent._end = _now()
        _running.spent.remove(spent)


def covered(intervals: Iterable[tuple[float, float]], begin: float) -> float:
    """Returns the length of the union of intervals, as far as it lies after ``begin``.

    >>> covered([(2.0, 3.0), (1.0, 4.0), (6.0, 7.0)], 1.5)
    3.5
    """
    length = 0.0
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, begin))
        begin = max(begin, end)
    return length


# Once in a process: not every version of JAX can take a listener back.
@functools.cache
def _listen() -> None:
    monitoring.register_event_duration_secs_listener(_hear)


def _hear(event: str, duration_secs: float, **_: Any) -> None:
    """Notes what has just ended; one program is often compiled while another is traced, so sums would count twice."""
    if event.startswith(_EVENTS):
        end = _now()
        for spent in _running.spent:
            spent._intervals.append((end - duration_secs, end))
