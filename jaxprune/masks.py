"""From scores to masks: exact selection, and applying a mask.

A mask prunes the weights with the smallest scores.  Which these are is found by counting, not by sorting: a bisection
over the bits of a score finds the largest pruned one, and a second one over positions settles its ties.  Each step
is a comparison and a sum, so leaves may be sharded in any way, nothing is gathered, and any number of devices finds the
same mask, bit for bit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import check, tree
from jaxprune.types import Select

_ROW = 4096


def unstructured(sparsity: float, allocation: str = "global") -> Select:
    """Prunes single weights: exactly ``round(sparsity * n)`` of the n prunable ones, those with the smallest scores.

    Ties are pruned in the order of their position (leaves in tree order, row-major inside).  -0.0 equals 0.0, and so
    may subnormal numbers; NaN ranks lowest under ``jit`` and is an error outside of it.

    Args:
      sparsity: the share of the prunable weights that becomes zero, in [0, 1).
      allocation: how it is shared out among the leaves.
        "global": one threshold for all.
        "uniform": the same share of every leaf.
        "erk": Erdős-Rényi-kernel, density of a leaf proportional to sum(shape) / prod(shape), at most 1.

    Returns:
      A ``Select``: ``(scores, prunable) -> mask``.

    Raises:
      ValueError: unknown allocation, sparsity outside [0, 1), scores that are not finite, or more than 2^32 weights.

    Source: the Erdős-Rényi-kernel allocation is from Evci et al. (2020), arXiv 1911.11134.

    >>> scores = {"w": jnp.array([3.0, -1.0, 2.0, 0.5])}
    >>> unstructured(0.5)(scores, {"w": True})
    {'w': Array([ True, False,  True, False], dtype=bool)}
    """
    check.sparsity(sparsity)
    allocate = {"global": None, "uniform": _uniform, "erk": _erdos_renyi}
    check.choice("allocation", allocation, allocate)
    share = allocate[allocation]

    def select(scores: Any, prunable: Any) -> Any:
        leaves, flags, structure = _prepare(scores, prunable)
        chosen = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
        pruned = round(sparsity * sum(leaf.size for leaf in chosen))
        if share is None:
            kept = _keep_largest(chosen, (0,) * len(chosen), [pruned])
        else:
            kept = _keep_largest(chosen, tuple(range(len(chosen))), share([leaf.shape for leaf in chosen], pruned))
        return structure.unflatten(_completed(kept, leaves, flags))

    return select


def n_of_m(n: int, m: int, axis: int = -2) -> Select:
    """Keeps the n largest scores of every m consecutive weights along the input axis (2 of 4 is what hardware runs).

    Args:
      n: how many of each group are kept.
      m: the size of a group.
      axis: the input (contraction) axis of a kernel; -2 is the input channel of HWIO and of [in, out].

    Returns:
      A ``Select``: ``(scores, prunable) -> mask``.  Ties are pruned in the order of their position.

    Raises:
      ValueError: not 0 < n <= m, or a prunable leaf whose input axis m does not divide.

    >>> scores = {"w": jnp.array([[1.0], [4.0], [3.0], [2.0]])}
    >>> n_of_m(2, 4)(scores, {"w": True})["w"][:, 0]
    Array([False,  True,  True, False], dtype=bool)
    """
    if not 0 < n <= m:
        raise ValueError(f"n, m: expected 0 < n <= m, but got n={n} and m={m}. 2 of 4 keeps half of the weights.")

    def select(scores: Any, prunable: Any) -> Any:
        leaves, flags, structure = _prepare(scores, prunable)
        for name, leaf, flag in zip(tree.names(scores), leaves, flags, strict=True):
            if flag and (leaf.ndim < 2 or leaf.shape[axis] % m):
                raise ValueError(
                    f"prunable: {m} does not divide the input axis ({axis}) of {name}, whose shape is {leaf.shape}. "
                    "Exclude this leaf, or choose another m."
                )
        kept = _keep_in_groups([leaf for leaf, flag in zip(leaves, flags, strict=True) if flag], n, m, axis)
        return structure.unflatten(_completed(kept, leaves, flags))

    return select


def apply(mask: Any, params: Any) -> Any:
    """Sets pruned weights to zero.

    >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.nan])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    check.mask("mask", mask, params)
    return _apply(mask, params)


def sparsity(mask: Any, prunable: Any) -> float:
    """Computes the share of the prunable weights that a mask sets to zero.

    >>> sparsity({"w": jnp.array([True, False]), "b": jnp.array([True])}, {"w": True, "b": False})
    0.5
    """
    check.static_bools("prunable", prunable, mask)
    chosen = [leaf for leaf, flag in zip(jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True) if flag]
    if not chosen:
        raise ValueError("prunable: expected at least one True leaf, but every leaf is False.")
    # Added up in Python, whose whole numbers have no bound.
    return sum(np.asarray(_count_pruned(chosen)).tolist()) / tree.size(chosen)


@jax.jit
def ones(params: Any) -> Any:
    """Makes the mask that keeps everything."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, dtype=bool), params)


@jax.jit
def _apply(mask: Any, params: Any) -> Any:
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), mask, params)


@jax.jit
def _count_pruned(leaves: list[Any]) -> jax.Array:
    return jnp.stack([_count(~leaf) for leaf in leaves])


def _completed(kept: list[Any], leaves: list[Any], flags: list[bool]) -> list[Any]:
    """The masks of all leaves, from those of the prunable ones."""
    masks = iter(kept)
    others = iter(ones([leaf for leaf, flag in zip(leaves, flags, strict=True) if not flag]))
    return [next(masks) if flag else next(others) for flag in flags]


def _prepare(scores: Any, prunable: Any) -> tuple[list[Any], list[bool], Any]:
    check.static_bools("prunable", prunable, scores)
    check.finite("scores", scores, "Look at the loss and at the images; a score that is not finite ranks nothing.")
    leaves, structure = jax.tree.flatten(scores)
    flags = [bool(flag) for flag in jax.tree.leaves(prunable)]
    if not any(flags):
        raise ValueError(
            "prunable: expected at least one True leaf, but every leaf is False: there is nothing to prune."
        )
    prunable_size = sum(leaf.size for leaf, flag in zip(leaves, flags, strict=True) if flag)
    if prunable_size >= 2**32:
        raise ValueError(
            f"scores: expected fewer than 2^32 prunable weights, whose positions fit 32 bits, but got {prunable_size}."
        )
    return leaves, flags, structure


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _keep_in_groups(leaves: list[Any], n: int, m: int, axis: int) -> list[Any]:
    """Masks of ``leaves`` that keep the n largest of every m along an axis."""
    later = np.arange(m)[:, None] < np.arange(m)[None, :]

    def keep(leaf: Any) -> Any:
        groups = jnp.moveaxis(leaf, axis, -1)
        groups = groups.reshape(*groups.shape[:-1], -1, m)
        # Rank inside the group by comparing all pairs: m is small, and nothing is gathered.
        mine, other = groups[..., :, None], groups[..., None, :]
        # NaN loses against every number, and ties with NaN.
        larger = (other > mine) | (jnp.isnan(mine) & ~jnp.isnan(other))
        equal = (other == mine) | (jnp.isnan(mine) & jnp.isnan(other))
        beaten_by = larger | (equal & later.reshape((1,) * (groups.ndim - 1) + (m, m)))
        kept = jnp.sum(beaten_by, axis=-1) < n
        return jnp.moveaxis(kept.reshape(*kept.shape[:-2], -1), -1, axis)

    return [keep(leaf) for leaf in leaves]


def _keep_largest(leaves: list[Any], groups: tuple[int, ...], pruned: list[int]) -> list[Any]:
    """Masks of ``leaves`` that prune exactly the ``pruned[g]`` smallest of each group g of leaves, ties by position."""
    bisect = _bisect_end_to_end if _on_one_device(leaves) else _bisect_leaves
    return bisect(leaves, np.array(pruned, np.uint32), groups)


def _on_one_device(leaves: list[Any]) -> bool:
    """Whether all leaves are known to lie on one device; inside of a transformation nothing is known."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return False
    devices = set().union(*(leaf.sharding.device_set for leaf in leaves if isinstance(leaf, jax.Array)))
    return len(devices) <= 1 and sum(-(-leaf.size // _ROW) * _ROW for leaf in leaves) < 2**32


@functools.partial(jax.jit, static_argnames="groups")
def _bisect_leaves(leaves: list[Any], wanted: Any, groups: tuple[int, ...]) -> list[Any]:
    """Bisects leaves as they lie, sharded in any way.  Every one of them compiles for a quarter of a second."""
    return _bisect(leaves, wanted, groups)


@functools.partial(jax.jit, static_argnames="groups")
def _bisect_end_to_end(leaves: list[Any], wanted: Any, groups: tuple[int, ...]) -> list[Any]:
    """Bisects leaves that lie on one device, end to end in rows: one program of one size for any number of leaves."""
    dtype, rows = _widest(leaves), [-(-leaf.size // _ROW) for leaf in leaves]
    pieces = []
    for leaf in leaves:
        # What fills the last row of a leaf ranks above every score, so it is never pruned.
        pieces += [leaf.astype(dtype).ravel(), jnp.full(-leaf.size % _ROW, jnp.inf, dtype)]
    [kept] = _bisect([jnp.concatenate(pieces).reshape(-1, _ROW)], wanted, [np.repeat(groups, rows)])
    parts = jnp.split(kept.ravel(), np.cumsum(rows)[:-1] * _ROW)
    return [part[: leaf.size].reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]


def _bisect(leaves: list[Any], wanted: Any, groups: Sequence[Any]) -> list[Any]:
    """The masks; ``groups`` names the group of each leaf, or of each row of a leaf [rows, columns]."""
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
            totals = totals.at[group].add(_count(flag) if np.ndim(group) == 0 else _count_rows(flag))
        return totals

    def value_of(bits: Any) -> Any:
        # Bits below those of -inf are NaN: nothing is smaller or equal but the NaN, which rank lowest.
        return _float_of(jnp.minimum(bits, infinity), dtype)

    def small(index: int, values: Any) -> Any:
        return (leaves[index] <= spread(values, index)) | jnp.isnan(leaves[index])

    def pruned(index: int, values: Any, last: Any) -> Any:
        """What lies below the cut, and of its ties those up to the last position."""
        leaf, cut = leaves[index], spread(values, index)
        ties = jnp.where(jnp.isnan(cut), jnp.isnan(leaf), leaf == cut)
        early = _positions(leaf.shape, int(offsets[index])) <= spread(last, index)
        return small(index, values) & (~ties | early)

    each = range(len(leaves))
    bits = jnp.iinfo(unsigned).bits
    cut, found = _smallest(unsigned, bits, wanted, lambda cut: count([small(index, value_of(cut)) for index in each]))
    values = value_of(cut)
    last = lax.cond(
        jnp.all(found == wanted),
        lambda: jnp.full(wanted.shape, total - 1, jnp.uint32),
        lambda: _smallest(
            jnp.uint32,
            (total - 1).bit_length(),
            wanted,
            lambda last: count([pruned(index, values, last) for index in each]),
        )[0],
    )
    return [~pruned(index, values, last) for index in each]


def _widest(leaves: list[Any]) -> Any:
    return functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves), jnp.float32)


def _count(flag: Any) -> Any:
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


def _uniform(shapes: list[tuple[int, ...]], pruned: int) -> list[int]:
    """The same share of every leaf, rounded so that the total is exact."""
    sizes = np.array([int(np.prod(shape, dtype=np.int64)) for shape in shapes])
    return _round_to_total(lambda amount: sizes * (amount / sizes.sum()), pruned, sizes)


def _erdos_renyi(shapes: list[tuple[int, ...]], pruned: int) -> list[int]:
    """Density proportional to sum(shape) / prod(shape); leaves that would exceed density 1 stay dense."""
    sizes = np.array([int(np.prod(shape, dtype=np.int64)) for shape in shapes])
    raw = np.array([float(sum(shape)) for shape in shapes])  # raw density times size

    def exact(amount: float) -> np.ndarray:
        kept, dense = sizes.sum() - amount, np.zeros(len(sizes), dtype=bool)
        while not dense.all():
            scale = (kept - sizes[dense].sum()) / raw[~dense].sum()
            over = ~dense & (scale * raw > sizes)
            if not over.any():
                return sizes - np.where(dense, sizes, scale * raw)
            dense |= over
        return np.zeros(len(sizes))

    return _round_to_total(exact, pruned, sizes)


def _round_to_total(exact: Callable[[float], np.ndarray], total: int, sizes: np.ndarray) -> list[int]:
    """Finds the amount whose shares, rounded, sum to ``total``, by bisection; of shares that rise together the earlier.

    Shares only grow with the amount, so no leaf gets a weight back as the total grows, and masks are nested.  Rounding
    by largest remainders does not have that.
    """
    if total >= sizes.sum():
        return sizes.tolist()

    def rounded(amount: float) -> np.ndarray:
        return np.floor(exact(amount) + 0.5).astype(np.int64)

    low, high = 0.0, float(sizes.sum())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rounded(middle).sum() <= total else (low, middle)
    counts = rounded(low)
    rising = np.flatnonzero(rounded(high) > counts)
    counts[rising[: total - counts.sum()]] += 1
    return counts.tolist()
