"""From scores to masks: which weights are pruned, by threshold, by layer, or in groups; and applying a mask."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.masks import allocations, bisection
from jaxprune.types import Select


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
    allocate = {"global": None, "uniform": allocations.uniform, "erk": allocations.erdos_renyi}
    check.choice("allocation", allocation, allocate)
    share = allocate[allocation]

    def select(scores: Any, prunable: Any) -> Any:
        leaves, flags, structure = _prepare(scores, prunable)
        chosen = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
        pruned = round(sparsity * sum(leaf.size for leaf in chosen))
        if share is None:
            kept = bisection.keep_largest(chosen, (0,) * len(chosen), [pruned])
        else:
            each = tuple(range(len(chosen)))
            kept = bisection.keep_largest(chosen, each, share([leaf.shape for leaf in chosen], pruned))
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
    return sum(bisection.count_false(chosen)) / tree.size(chosen)


def ones(params: Any) -> Any:
    """Makes the mask that keeps everything."""
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten(_ones(tuple(leaf.shape for leaf in leaves)))


@functools.partial(jax.jit, static_argnums=0)
def _ones(shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    return [jnp.ones(shape, dtype=bool) for shape in shapes]


@jax.jit
def _apply(mask: Any, params: Any) -> Any:
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), mask, params)


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
