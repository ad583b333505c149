"""How a leaf is cut into blocks."""

import numpy as np

from jaxprune import check


def check_blocks(blocks: str | int) -> None:
    """Checks that blocks are "unit", "layer" or a size of 1 or more.

    Raises:
      ValueError: they are not.
    """
    if isinstance(blocks, str):
        check.choice("blocks", blocks, ("unit", "layer"))
    elif isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks: expected 'unit', 'layer' or a size of 1 or more, but got {blocks!r}.")


def labels(shape: tuple[int, ...], blocks: str | int, units: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers the blocks of a leaf: an integer array of the leaf's shape.

    Args:
      shape: of the leaf.
      blocks: "unit" (all weights into one output), "layer" (the whole leaf) or an int (runs of that many inputs, in
        row-major order, inside a unit).
      units: the axes that are output: one index of them is a unit.  None: the last axis.

    Raises:
      ValueError: blocks are none of these.

    >>> labels((3, 2), "unit").tolist()
    [[0, 1], [0, 1], [0, 1]]
    >>> labels((3, 2), 2).tolist()
    [[0, 2], [0, 2], [1, 3]]
    """
    check_blocks(blocks)
    if blocks == "layer":
        return np.zeros(shape, dtype=np.int32)
    if units is None:
        units = (len(shape) - 1,) if shape else ()
    outputs = _index(shape, units)
    inputs = _index(shape, [axis for axis in range(len(shape)) if axis not in units])
    count = int(inputs.max(initial=0)) + 1
    size = count if isinstance(blocks, str) else blocks
    return np.asarray(outputs * -(-count // size) + inputs // size, dtype=np.int32)


def members(shape: tuple[int, ...], blocks: str | int, units: tuple[int, ...] | None = None) -> np.ndarray:
    """Lists the flat positions of the weights of every block: [blocks, size], -1 where a block is shorter.

    Arguments and errors are those of ``labels``.

    >>> members((3, 2), 2).tolist()
    [[0, 2], [4, -1], [1, 3], [5, -1]]
    """
    numbers = labels(shape, blocks, units).ravel()
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    size = int(counts.max(initial=0))
    within = np.arange(numbers.size) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((counts.size, size), -1, dtype=np.int32)
    table[numbers[order], within] = order
    return table


def _index(shape: tuple[int, ...], axes: tuple[int, ...] | list[int]) -> np.ndarray:
    """The row-major index over some axes of every entry, in the shape of all."""
    index = np.zeros(shape, dtype=np.int64)
    for axis in sorted(axes):
        along = np.arange(shape[axis]).reshape([-1 if place == axis else 1 for place in range(len(shape))])
        index = index * shape[axis] + along
    return index
