"""Exact selection without sorting: the smallest of many scores, found by counting.

A bisection over the bits of a score finds the largest pruned one, and a second one over positions settles its ties.
Each step is a comparison and a sum, so leaves may be sharded in any way, nothing is gathered, and any number of devices
finds the same mask, bit for bit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

_ROW = 4096  # of scores that are laid end to end


class Cut(NamedTuple):
    """Masks, and how they came about.

    Attributes:
      kept: the masks.
      by_position: [groups] how many of the pruned have the score of one that was kept.
      pruned: [leaves] how many are pruned.
    """

    kept: list[Any]
    by_position: Any
    pruned: Any


def keep_largest(leaves: list[Any], groups: tuple[int, ...], pruned: list[int]) -> Cut:
    """Masks of ``leaves`` that prune exactly the ``pruned[g]`` smallest of each group g of leaves, ties by position."""
    bisect = _bisect_end_to_end if _on_one_device(leaves) else _bisect_leaves
    return bisect(leaves, np.array(pruned, np.uint32), groups)


def count_false(flags: list[Any]) -> list[int]:
    """Counts what is False in every leaf (of fewer than 2^32), in Python's whole numbers, whose sum has no bound."""
    return np.asarray(_count_false(flags)).tolist()


@jax.jit
def _count_false(flags: list[Any]) -> jax.Array:
    return jnp.stack([count_true(~flag) for flag in flags])


def _on_one_device(leaves: list[Any]) -> bool:
    """Whether all leaves are known to lie on one device; inside of a transformation nothing is known."""
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return False
    devices = set().union(*(leaf.sharding.device_set for leaf in leaves if isinstance(leaf, jax.Array)))
    return len(devices) <= 1 and sum(-(-leaf.size // _ROW) * _ROW for leaf in leaves) < 2**32


@functools.partial(jax.jit, static_argnames="groups")
def _bisect_leaves(leaves: list[Any], wanted: Any, groups: tuple[int, ...]) -> Cut:
    """Bisects leaves as they lie, sharded in any way.  Every one of them compiles for a quarter of a second."""
    kept, by_position = _bisect(leaves, wanted, groups)
    return Cut(kept, by_position, jnp.stack([count_true(~leaf) for leaf in kept]))


@functools.partial(jax.jit, static_argnames="groups")
def _bisect_end_to_end(leaves: list[Any], wanted: Any, groups: tuple[int, ...]) -> Cut:
    """Bisects leaves that lie on one device, end to end in rows: one program of one size for any number of leaves."""
    dtype, rows = _widest(leaves), [-(-leaf.size // _ROW) for leaf in leaves]
    pieces = []
    for leaf in leaves:
        # What fills the last row of a leaf ranks above every score, so it is never pruned.
        pieces += [leaf.astype(dtype).ravel(), jnp.full(-leaf.size % _ROW, jnp.inf, dtype)]
    [kept], by_position = _bisect([jnp.concatenate(pieces).reshape(-1, _ROW)], wanted, [np.repeat(groups, rows)])
    parts = jnp.split(kept.ravel(), np.cumsum(rows)[:-1] * _ROW)
    masks = [part[: leaf.size].reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    pruned = jnp.zeros(len(leaves), jnp.uint32).at[np.repeat(np.arange(len(leaves)), rows)].add(_count_rows(~kept))
    return Cut(masks, by_position, pruned)


def _bisect(leaves: list[Any], wanted: Any, groups: Sequence[Any]) -> tuple[list[Any], Any]:
    """The masks, and how many of each group position decided.

    ``groups`` names the group of each leaf, or of each row of a leaf [rows, columns].
    """
    dtype = _widest(leaves)
    leaves = [leaf.astype(dtype) for leaf in leaves]
    total = sum(leaf.size for leaf in leaves)
    offsets = np.cumsum([0] + [leaf.size for leaf in leaves[:-1]])
    # The bisection walks over the bits, but compares floats: no pass has to compute the bits of every score.
    unsigned = jnp.uint64 if dtype == jnp.float64 else jnp.uint32
    infinity = _ordered_bits(jnp.full((), jnp.inf, dtype))

    def spread(values: Any, index: int) -> Any:
        """What a group has, for every score of a leaf."""
        return values[groups[index]] if np.ndim(groups[index]) == 0 else values[groups[index], None]

    def count(flags: list[Any]) -> Any:
        totals = jnp.zeros(wanted.shape, jnp.uint32)
        for flag, group in zip(flags, groups, strict=True):
            totals = totals.at[group].add(count_true(flag) if np.ndim(group) == 0 else _count_rows(flag))
        return totals

    def value_of(bits: Any) -> Any:
        # Bits below those of -inf are NaN: nothing is smaller or equal but the NaN, which rank lowest.
        return _float_of(jnp.minimum(bits, infinity), dtype)

    def small(index: int, values: Any) -> Any:
        return (leaves[index] <= spread(values, index)) | jnp.isnan(leaves[index])

    def tied(index: int, values: Any) -> Any:
        leaf, cut = leaves[index], spread(values, index)
        return jnp.where(jnp.isnan(cut), jnp.isnan(leaf), leaf == cut)

    def pruned(index: int, values: Any, last: Any) -> Any:
        """What lies below the cut, and of its ties those up to the last position."""
        early = _positions(leaves[index].shape, int(offsets[index])) <= spread(last, index)
        # Of a group of which nothing is wanted, not even a NaN at the first place.
        return small(index, values) & (~tied(index, values) | early) & (spread(wanted, index) > 0)

    def by_position() -> tuple[Any, Any]:
        last, _ = _smallest(
            jnp.uint32,
            (total - 1).bit_length(),
            wanted,
            lambda last: count([pruned(index, values, last) for index in each]),
        )
        below = count([small(index, values) & ~tied(index, values) for index in each])
        return last, jnp.where(found == wanted, 0, wanted - below)

    each = range(len(leaves))
    bits = jnp.iinfo(unsigned).bits
    cut, found = _smallest(unsigned, bits, wanted, lambda cut: count([small(index, value_of(cut)) for index in each]))
    values = value_of(cut)
    last, decided = lax.cond(
        jnp.all(found == wanted),
        lambda: (jnp.full(wanted.shape, total - 1, jnp.uint32), jnp.zeros(wanted.shape, jnp.uint32)),
        by_position,
    )
    return [~pruned(index, values, last) for index in each], decided


def _widest(leaves: list[Any]) -> Any:
    return functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves), jnp.float32)


def count_true(flag: Any) -> Any:
    """Counts what is True in an array (of fewer than 2^32), also inside of a compiled program."""
    # XLA on CPU adds integers one by one, and floats in vectors: rows are counted in float32, exact up to 2^24.
    return jnp.sum(_count_rows(flag) if flag.ndim and flag.shape[-1] <= 2**24 else flag, dtype=jnp.uint32)


def _count_rows(flag: Any) -> Any:
    return jnp.sum(flag.astype(jnp.float32), axis=-1).astype(jnp.uint32)


def _smallest(dtype: Any, bits: int, wanted: Any, count: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Finds for every group the smallest unsigned integer below 2^bits that counts ``wanted`` or more, and its count.

    Counts rise with the integer, and the largest has enough.  A plain bisection, which ends where every group has as
    many as wanted: comparing with more thresholds in one pass measured slower.
    """

    def going_on(state: tuple[Any, ...]) -> Any:
        turn, _, _, found = state
        return (turn < bits) & jnp.any(found != wanted)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        turn, low, best, found = state
        half = dtype(1) << (bits - 1 - turn).astype(dtype)
        middle = low + (half - dtype(1))
        counted = count(middle)
        enough = counted >= wanted
        best, found = jnp.where(enough, middle, best), jnp.where(enough, counted, found)
        return turn + 1, jnp.where(enough, low, low + half), best, found

    largest = jnp.full(wanted.shape, jnp.iinfo(dtype).max >> (jnp.iinfo(dtype).bits - bits), dtype)
    # Not counted yet: more than there are.
    unknown = jnp.full(wanted.shape, 2**32 - 1, jnp.uint32)
    _, _, best, found = lax.while_loop(going_on, step, (jnp.int32(0), jnp.zeros_like(largest), largest, unknown))
    return best, found


def _ordered_bits(value: Any) -> Any:
    """Maps a float to an unsigned integer so that the order of numbers is kept."""
    unsigned = jnp.uint64 if value.dtype == jnp.float64 else jnp.uint32
    bits = lax.bitcast_convert_type(value, unsigned)
    sign = unsigned(1) << unsigned(jnp.iinfo(unsigned).bits - 1)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _float_of(ordered: Any, dtype: Any) -> Any:
    """Inverts ``_ordered_bits``."""
    sign = ordered.dtype.type(1) << ordered.dtype.type(jnp.iinfo(ordered.dtype).bits - 1)
    return lax.bitcast_convert_type(jnp.where(ordered >= sign, ordered ^ sign, ~ordered), dtype)


def _positions(shape: tuple[int, ...], offset: int) -> Any:
    """Row-major positions from ``offset``, made on each device from its own indices (a reshape would gather)."""
    total = jnp.full(shape, offset, dtype=jnp.uint32)
    for axis, stride in enumerate(np.cumprod([1, *shape[:0:-1]], dtype=np.int64)[::-1]):
        total += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return total
