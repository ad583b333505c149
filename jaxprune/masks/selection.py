"""From scores to masks: which weights are pruned, by threshold, by layer, or in groups; and applying a mask."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import check, tree
from jaxprune.masks import allocations, bisection
from jaxprune.types import Select


class TiesWarning(UserWarning):
    """The order of positions, not the scores, decided what was pruned; or a leaf was left without a weight.

    It comes where more than 1 % of the pruned weights have the score of one that was kept, or where a leaf loses its
    last weight.  Equal scores of which all are pruned or all are kept decide nothing, and are no reason.
    """


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

    Warns:
      TiesWarning: position decided more than 1 % of the cut, or a leaf is left without a weight.  Under ``jit`` no
        number is known, and nothing is said.

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
            cut = bisection.keep_largest(chosen, (0,) * len(chosen), [pruned])
        else:
            each = tuple(range(len(chosen)))
            cut = bisection.keep_largest(chosen, each, share([leaf.shape for leaf in chosen], pruned))
        _warn_of_ties(cut, tree.names(scores), leaves, flags)
        return structure.unflatten(_completed(cut.kept, leaves, flags))

    return select


def n_of_m(n: int, m: int, axis: int = -2) -> Select:
    """Keeps the n largest scores of every m consecutive weights along the input axis (2 of 4 is what hardware runs).

    Args:
      n: how many of each group are kept.
      m: the size of a group.
      axis: the input (contraction) axis of a kernel; -2 is the input channel of HWIO and of [in, out], which Flax has.
        Kernels [out, in, ...], those of Equinox and PyTorch, need axis 1.  A tree of scores does not say which it has:
        with the wrong axis the mask is one of groups that no hardware runs.

    Returns:
      A ``Select``: ``(scores, prunable) -> mask``.  Ties are pruned in the order of their position.

    Raises:
      ValueError: not 0 < n <= m, or a prunable leaf that has no such axis or whose axis m does not divide.

    Warns:
      TiesWarning: position decided more than 1 % of the cut, as of ``unstructured``.

    >>> scores = {"w": jnp.array([[1.0], [4.0], [3.0], [2.0]])}
    >>> n_of_m(2, 4)(scores, {"w": True})["w"][:, 0]
    Array([False,  True,  True, False], dtype=bool)
    """
    if not 0 < n <= m:
        raise ValueError(f"n, m: expected 0 < n <= m, but got n={n} and m={m}. 2 of 4 keeps half of the weights.")

    def select(scores: Any, prunable: Any) -> Any:
        leaves, flags, structure = _prepare(scores, prunable)
        for name, leaf, flag in zip(tree.names(scores), leaves, flags, strict=True):
            if flag and (leaf.ndim < 2 or not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] % m):
                raise ValueError(
                    f"prunable: {m} does not divide the input axis ({axis}) of {name}, whose shape is {leaf.shape}. "
                    "Exclude this leaf, choose another m, or another axis: kernels [out, in, ...] need axis=1."
                )
        cut = _keep_in_groups([leaf for leaf, flag in zip(leaves, flags, strict=True) if flag], n, m, axis)
        _warn_of_ties(cut, tree.names(scores), leaves, flags)
        return structure.unflatten(_completed(cut.kept, leaves, flags))

    return select


def apply(mask: Any, params: Any) -> Any:
    """Sets pruned weights to zero.

    >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, jnp.nan])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    check.mask("mask", mask, params)
    return _apply(mask, params)


def lowest(leaf: Any) -> Any:
    """The score of what is pruned already, below every finite one: it stays pruned, and no warning counts it.

    >>> float(lowest(jnp.ones(2))) == float(jnp.finfo(jnp.float32).min)
    True
    """
    return jnp.finfo(jnp.promote_types(leaf.dtype, jnp.float32)).min


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
    return structure.unflatten(_ones(tuple(np.shape(leaf) for leaf in leaves)))


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
    demand_finite(scores, prunable)
    leaves, structure = jax.tree.flatten(scores)
    leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
    for name, leaf in zip(tree.names(scores), leaves, strict=True):
        whole = jnp.issubdtype(leaf.dtype, jnp.integer) and not isinstance(leaf, Tracer)
        if whole and leaf.size and max(abs(int(jnp.min(leaf))), abs(int(jnp.max(leaf)))) > 2**24:
            raise ValueError(
                f"scores: expected whole numbers up to 2^24, which are ranked as float32, but {name or 'the array'} "
                "has larger ones, and some would come out equal. Pass floating-point numbers."
            )
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


def demand_finite(scores: Any, prunable: Any) -> None:
    """Checks the scores of what may be pruned; of all else they say nothing."""
    chosen = jax.tree.map(lambda flag, leaf: leaf if flag else np.zeros(()), prunable, scores)
    check.finite(
        "scores",
        chosen,
        "A score that is not finite ranks nothing: inspect the loss, the images, the labels (are they classes that the "
        "network has?) and the weights that were scored.",
    )


def _warn_of_ties(cut: bisection.Cut, names: list[str], leaves: list[Any], flags: list[bool]) -> None:
    """Warns outside of transformations, where the numbers are known."""
    if isinstance(cut.by_position, Tracer):
        return
    chosen = [entry[:2] for entry in zip(names, leaves, flags, strict=True) if entry[2]]
    by_position, pruned = (np.asarray(counts, np.int64) for counts in (cut.by_position, cut.pruned))
    emptied = [
        name
        for (name, leaf), count in zip(chosen, pruned, strict=True)
        # What has the lowest score there is was empty before.
        if 0 < count == leaf.size and bool(jnp.max(leaf) > lowest(leaf))
    ]
    # Of what was pruned now, not in the rounds before.
    new = int(pruned.sum()) - (_count_lowest([leaf for _, leaf in chosen]) if by_position.any() else 0)
    share = by_position.sum() / max(1, new)
    if share <= 0.01 and not emptied:
        return
    parts = []
    if share > 0.01:
        parts.append(
            f"position decided {by_position.sum()} of the {new} weights that were pruned ({share:.1%}): "
            "their scores equal those of weights that were kept"
        )
    if emptied:
        listed = ", ".join(emptied[:5]) + (f" and {len(emptied) - 5} more" if len(emptied) > 5 else "")
        parts.append(f"no weight is left of {listed}")
    warnings.warn(
        f"scores: {'; '.join(parts)}. Inspect the scores: are they zero, or too large or too small for their type?",
        TiesWarning,
        stacklevel=3,
    )


def _count_lowest(leaves: list[Any]) -> int:
    """Counts what was pruned before, see ``lowest``."""
    return sum(np.asarray(_lowest_of(leaves), np.int64).tolist())


@jax.jit
def _lowest_of(leaves: list[Any]) -> list[Any]:
    return [bisection.count_true(leaf <= lowest(leaf)) for leaf in leaves]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _keep_in_groups(leaves: list[Any], n: int, m: int, axis: int) -> bisection.Cut:
    """Masks of ``leaves`` that keep the n largest of every m along an axis."""
    later = np.arange(m)[:, None] < np.arange(m)[None, :]

    def keep(leaf: Any) -> tuple[Any, ...]:
        groups = jnp.moveaxis(leaf, axis, -1)
        groups = groups.reshape(*groups.shape[:-1], -1, m)
        # Rank inside the group by comparing all pairs: m is small, and nothing is gathered.
        mine, other = groups[..., :, None], groups[..., None, :]
        # NaN loses against every number, and ties with NaN.
        larger = (other > mine) | (jnp.isnan(mine) & ~jnp.isnan(other))
        equal = (other == mine) | (jnp.isnan(mine) & jnp.isnan(other))
        beaten_by = larger | (equal & later.reshape((1,) * (groups.ndim - 1) + (m, m)))
        kept = jnp.sum(beaten_by, axis=-1) < n
        # A pruned one whose equal was kept.  Slice by slice: XLA on CPU is slow at reducing a short axis.
        low = functools.reduce(jnp.minimum, [jnp.where(kept[..., i], groups[..., i], jnp.inf) for i in range(m)])
        decided = ~kept & (groups == low[..., None])
        return tuple(jnp.moveaxis(flag.reshape(*flag.shape[:-2], -1), -1, axis) for flag in (kept, decided))

    masks, decided = zip(*map(keep, leaves), strict=True)
    pruned = np.array([leaf.size // m * (m - n) for leaf in leaves])
    return bisection.Cut(list(masks), jnp.stack([bisection.count_true(flag) for flag in decided]), pruned)
