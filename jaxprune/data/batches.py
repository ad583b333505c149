"""Batches by index: padded with weight 0, in an order that never depends on the number of hosts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data.prefetching import prefetch
from jaxprune.data.splits import shuffled
from jaxprune.data.streaming import Stream


class Batches(Sequence[dict[str, Any]]):
    """All examples once, in order, in batches of one size; the last one is padded with examples of weight 0.

    Where the images are a ``Stream``, a loop over the batches makes the next two in the background, and this host
    fetches its own part only.

    Args:
      data: ``{"image": [n, ...], "label": [n]}``, optionally ``"weight"`` and ``"teacher"``, or without labels; see
        ``select`` and ``stream``.
      size: examples in a (global) batch.
      host: (index, count): this host's part of every batch.  The global batches are the same for every count.

    Raises:
      ValueError: no example, lengths that differ, or a size that the number of hosts does not divide.

    >>> batches = Batches({"image": np.zeros((5, 8, 8, 1)), "label": np.arange(5)}, 4)
    >>> [batch["weight"].tolist() for batch in batches]
    [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, data: Mapping[str, Any], size: int, host: tuple[int, int] = (0, 1)) -> None:
        _check(data, size, host)
        self._data, self._size, self._host = data, size, host
        self._count = len(data["image"])

    def __len__(self) -> int:
        return -(-self._count // self._size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a batch in [0, {len(self)}), but got {index}.")
        start = index % len(self) * self._size
        order = np.arange(start, min(start + self._size, self._count))
        return _take(self._data, order, self._size, self._host)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if is_streamed(self._data):
            return iter(prefetch(self))
        return (self[index] for index in range(len(self)))


def training_batch(
    data: Mapping[str, Any], size: int, seed: int, step: int, host: tuple[int, int] = (0, 1)
) -> dict[str, Any]:
    """Returns the batch of a training step: a pure function of (data, size, seed, step).

    Batches are cut from an endless stream in which every epoch is a new permutation that visits each example once.  A
    batch may end one epoch and begin the next; nothing is padded, since padding would enter BatchNorm's statistics.
    Resuming at a step needs no state but the step.

    Args:
      data: ``{"image": [n, ...], "label": [n]}``, optionally ``"weight"`` and ``"teacher"``, or without labels; see
        ``select`` and ``stream``.
      size: examples in a (global) batch.
      seed: another seed gives another order.
      step: the number of the step, from 0.
      host: (index, count): this host's part of the batch.

    >>> data = {"image": np.zeros((4, 1, 1, 1)), "label": np.arange(4)}
    >>> sorted(np.concatenate([training_batch(data, 2, 0, step)["label"] for step in (0, 1)]).tolist())
    [0, 1, 2, 3]
    """
    _check(data, size, host)
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(data["image"]))
    order = np.concatenate(
        [shuffled(len(data["image"]), f"epoch/{seed}/{epoch}")[places[epochs == epoch]] for epoch in np.unique(epochs)]
    )
    return _take(data, order, size, host)


def is_streamed(data: Mapping[str, Any]) -> bool:
    """Whether something of the data is fetched when it is asked for."""
    return any(isinstance(values, Stream) for values in data.values())


def _take(data: Mapping[str, Any], order: np.ndarray, size: int, host: tuple[int, int]) -> dict[str, Any]:
    each = size // host[1]
    mine = order[host[0] * each : (host[0] + 1) * each]

    def padded(values: Any) -> np.ndarray:
        found = values[mine] if isinstance(values, Stream) else np.asarray(values)[mine]
        if len(found) == each:
            return found
        result = np.zeros((each, *found.shape[1:]), found.dtype)
        result[: len(found)] = found
        return result

    weight = data.get("weight", np.ones(len(data["image"]), np.float32))
    return {name: padded(values) for name, values in {**data, "weight": weight}.items()}


def _check(data: Mapping[str, Any], size: int, host: tuple[int, int]) -> None:
    check.batch(data, "data")
    index, count = host
    if size < 1 or count < 1 or size % count or not 0 <= index < count:
        raise ValueError(
            f"size, host: expected a batch size of 1 or more that the number of hosts divides, but got size={size} and "
            f"host={host}."
        )
