"""Kinds of numbers: what the formats call them, and views of a file's bytes.

A kind is the name of NumPy's type, or "bfloat16", which NumPy has not.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.tensor_files.refusal import Refusal
from jaxprune.tensor_files.values import Unreadable

SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
KINDS = ("bool", *SIGNED, *UNSIGNED, "float16", "float32", "float64", "bfloat16")

# NumPy has no more axes.
AXES = 64
_LARGEST = 2**63 - 1


class BFloat16(NamedTuple):
    """Numbers in bfloat16, which are the upper halves of float32 numbers.

    They are widened when asked for, so that a file of them takes no more memory than it has bytes.
    """

    halves: np.ndarray

    def widened(self) -> np.ndarray:
        """The same numbers in float32; every bfloat16 number is one."""
        # As an array: of a 0-d one, NumPy makes a scalar.
        return np.asarray(self.halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def size_of(kind: str) -> int:
    """The bytes of one number."""
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of an array in C order, in elements.

    >>> contiguous((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def is_count(value: object) -> bool:
    """Whether a value of a file is a whole number of zero or more that an array can have."""
    return type(value) is int and 0 <= value <= _LARGEST


def view(
    data: bytes, start: int, count: int, kind: str, shape: Sequence[int], *, offset: int = 0, strides: Sequence[int]
) -> np.ndarray | BFloat16 | Unreadable:
    """Sees numbers of a file as an array, without a copy.

    Args:
      data: the file's bytes.
      start: the byte at which the storage begins; it lies within the data.
      count: the elements of the storage; it ends within the data.
      kind: of its numbers.
      shape: of the array.
      offset: of its first element, in elements of the storage.
      strides: in elements; 0 repeats.

    Returns:
      A read-only view; the halves of float32 numbers; or why it is neither: widening would take more memory than the
      file has bytes.

    Raises:
      Refusal: an element lies outside of the storage, or no array has such a shape.
    """
    # Of an array without elements, and of an axis of length 1, strides mean nothing and can be anything.
    empty = 0 in shape
    steps = [0 if empty or length == 1 else stride for length, stride in zip(shape, strides, strict=False)]
    size = size_of(kind)
    known = [len(shape) == len(strides), len(shape) <= AXES, *map(is_count, (offset, *shape, *steps))]
    if not all(known) or math.prod(length for length in shape if length) * size > _LARGEST:
        claims = ", ".join(map(_short, (shape, strides, offset)))
        raise Refusal(f"a tensor claims a shape, strides and an offset that no array has: {claims}")
    last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    if offset > count or (not empty and last >= count):
        raise Refusal(
            f"a tensor of shape {_short(shape)} with strides {_short(strides)} reaches element {last} of a storage "
            f"that has {count}"
        )
    if kind == "bfloat16" and math.prod(shape) > count:
        return Unreadable("in bfloat16 and repeats its elements")
    stored = np.dtype("<u2") if kind == "bfloat16" else np.dtype(kind)
    if empty:
        array = np.empty(shape, stored)
        array.flags.writeable = False
    else:
        array = np.ndarray(shape, stored, data, start + offset * size, [step * size for step in steps])
    return BFloat16(array) if kind == "bfloat16" else array


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
