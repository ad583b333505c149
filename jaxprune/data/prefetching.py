"""What comes next is made while the present is used, in threads that end with the loop."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from jaxprune import check


def in_background(
    function: Callable[[Any], Any], arguments: Iterable[Any], ahead: int = 2
) -> Generator[Any, None, None]:
    """Yields ``function(argument)`` for each argument, in order, with the next ones under way in threads.

    At most ``ahead`` results are under way or waiting.  An error comes in place of its result.  When the iterator is
    exhausted, closed or dropped, what is under way is waited for, and no thread is left.

    Args:
      function: called in up to ``ahead`` threads at a time.
      arguments: read in the thread of the caller, ``ahead`` places in advance.
      ahead: how many.

    Raises:
      ValueError: ``ahead`` is not a whole number of 1 or more.

    >>> list(in_background(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    check.whole("ahead", ahead)
    return _in_background(function, iter(arguments), ahead)


def _in_background(function: Callable[[Any], Any], arguments: Iterator[Any], ahead: int) -> Generator[Any, None, None]:
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="jaxprune-ahead")
    # Bound now: a loop that was left standing when Python ends is closed after the modules were emptied.
    ending = sys.is_finalizing
    try:
        waiting = deque(pool.submit(function, argument) for argument in islice(arguments, ahead))
        while waiting:
            result = waiting.popleft().result()
            # Before the caller goes to work, so that as many are under way meanwhile.
            waiting.extend(pool.submit(function, argument) for argument in islice(arguments, 1))
            yield result
            del result
    finally:
        pool.shutdown(wait=not ending())  # as many threads as tasks, so nothing that has not begun could be cancelled


def prefetch(batches: Sequence[Any], ahead: int = 2, place: Callable[[Any], Any] | None = None) -> Sequence[Any]:
    """Makes the next batches in threads while the present one is used, and puts them where they are needed.

    Iterates any number of times, always in the same order; see ``in_background`` for errors and for what becomes of
    the threads.  ``Batches`` of a stream do this by themselves, without ``place``.

    Args:
      batches: such as ``Batches``; ``batches[i]`` is called for several i at a time.
      ahead: how many batches are under way at most; the memory of as many is taken.
      place: applied to every batch in those threads, such as ``functools.partial(jp.mesh.shard_batch, mesh)`` or
        ``jax.device_put``, so that the transfer overlaps with the computation.  JAX's context managers
        (``jax.default_device``) do not reach into threads: name the device in ``place``.  None: batches stay on the
        host.

    Returns:
      A sequence of as many batches.

    Raises:
      ValueError: ``ahead`` is not a whole number of 1 or more.
      TypeError: ``batches`` has no length or no order, as an iterator.

    >>> [batch["label"] for batch in prefetch([{"label": 1}, {"label": 2}])]
    [1, 2]
    """
    check.whole("ahead", ahead)
    if not isinstance(batches, Sequence):
        raise TypeError(
            f"batches: expected a sequence, such as jp.data.Batches or a list, but got a {type(batches).__name__}. An "
            "iterator can be read once only; make a list of it."
        )
    return _Prefetched(batches, ahead, place)


class _Prefetched(Sequence[Any]):
    def __init__(self, batches: Sequence[Any], ahead: int, place: Callable[[Any], Any] | None) -> None:
        self._batches, self._ahead, self._place = batches, ahead, place

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        batch = self._batches[index]
        return batch if self._place is None else self._place(batch)

    def __iter__(self) -> Iterator[Any]:
        return in_background(self.__getitem__, range(len(self)), self._ahead)
