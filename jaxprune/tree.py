"""Trees of arrays: the names of their leaves, which of them are prunable, and arithmetic."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxprune import check

# The leaves of an nnx.State that was made by hand have "/value" at their end.
KERNELS = r"(^|/)(kernel|weight|[wW]\d*)(/value)?$"


def name(path: tuple[Any, ...]) -> str:
    """Writes a key path as text: ``(DictKey("Conv_0"), DictKey("kernel"))`` is ``"Conv_0/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names(tree: Any) -> list[str]:
    """Lists the names of the leaves, in the order of ``jax.tree.leaves``.

    >>> names({"Dense_0": {"kernel": 1.0, "bias": 2.0}, "scale": 3.0})
    ['Dense_0/bias', 'Dense_0/kernel', 'scale']

    Raises:
      ValueError: two leaves have one name, so that a name would mean either.
    """
    return check.distinct([name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)])


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps ``function(name, leaf, *leaves)`` over trees of one structure.

    >>> map_named(lambda name, leaf: name if leaf > 1 else "", {"a": 1.0, "b": 2.0})
    {'a': '', 'b': 'b'}
    """
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(name(path), *leaves), tree, *rest)


@partial(jax.jit, static_argnums=0)
def map_compiled(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps a function over trees of one structure, as one program: ``jax.tree.map`` compiles one for every shape.

    Args:
      function: of a leaf of each tree.  One of a module: a function that is made anew is compiled anew.
      tree: of arrays.
      rest: more trees.

    >>> map_compiled(jnp.multiply, {"a": jnp.ones(2)}, {"a": jnp.full(2, 3.0)})
    {'a': Array([3., 3.], dtype=float32)}
    """
    return jax.tree.map(function, tree, *rest)


def prunable(params: Any, include: str = KERNELS, exclude: str | None = None) -> Any:
    """Says which leaves may be pruned: by default the kernels of convolutions and dense layers.

    A leaf is prunable if it has two or more axes, ``include`` matches its name and ``exclude`` does
    not (regular expressions, found anywhere in a name such as ``"Block_0/Conv_1/kernel"``).

    Args:
      params: the parameters of a network.
      include: what to prune.  The default matches leaves called kernel, weight, w or w1.
      exclude: what to leave alone all the same, for example ``"^head/"``.

    Returns:
      A static tree with one Python bool for every leaf.

    Raises:
      ValueError: no leaf is prunable under these patterns, or ``exclude`` matches no leaf that ``include`` does; the
        message lists the names there are.

    >>> dense = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    >>> prunable({"body": dense, "head": dense}, exclude="^head/")
    {'body': {'bias': False, 'kernel': True}, 'head': {'bias': False, 'kernel': False}}
    """
    listed = ", ".join(names(params))
    included = map_named(lambda name, leaf: np.ndim(leaf) > 1 and bool(re.search(include, name)), params)
    excluded = map_named(lambda name, inside: bool(exclude and inside and re.search(exclude, name)), included)
    chosen = jax.tree.map(lambda inside, outside: inside and not outside, included, excluded)
    if exclude is not None and any(jax.tree.leaves(included)) and not any(jax.tree.leaves(excluded)):
        raise ValueError(
            f"exclude: expected a pattern that leaves something out, but exclude={exclude!r} matches no leaf that "
            f"would be pruned. Is it spelt as the names are? The leaves are: {listed}. To prune all of them pass None."
        )
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(
            f"include/exclude: expected patterns that leave something to prune, but include={include!r} with "
            f"exclude={exclude!r} matches no leaf of two or more axes. The leaves are: {listed}."
        )
    return chosen


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves by their names, in the order of ``jax.tree.leaves``.

    >>> by_name({"Dense_0": {"kernel": 1.0}})
    {'Dense_0/kernel': 1.0}
    """
    return dict(zip(names(tree), jax.tree.leaves(tree), strict=True))


def leaf(tree: Any, path: str) -> Any:
    """Returns the leaf of that name.

    Raises:
      ValueError: there is no such leaf; the message lists the names there are.

    >>> leaf({"Dense_0": {"kernel": 1.0}}, "Dense_0/kernel")
    1.0
    """
    found = by_name(tree)
    if path not in found:
        raise ValueError(f"path: no leaf is called {path!r}. The leaves are: {', '.join(found)}.")
    return found[path]


def replace(tree: Any, path: str, value: Any) -> Any:
    """Returns the tree with the leaf of that name replaced.

    >>> replace({"a": 1.0, "b": 2.0}, "b", 5.0)
    {'a': 1.0, 'b': 5.0}
    """
    leaf(tree, path)
    return map_named(lambda leaf_name, old: value if leaf_name == path else old, tree)


def wide(tree: Any) -> Any:
    """Returns the tree with every floating-point leaf narrower than float32 as float32; else the tree itself.

    Half precision is for storing weights and for running networks.  Of what the library computes from them, the square
    of a small gradient say, nothing would be left.

    >>> [leaf.dtype.name for leaf in wide([jnp.ones(2, jnp.bfloat16), np.ones(2, np.int8)])]
    ['float32', 'int8']
    """
    if not any(map(_is_narrow, jax.tree.leaves(tree))):
        return tree
    return jax.tree.map(lambda leaf: _widened(leaf) if _is_narrow(leaf) else leaf, tree)


def _is_narrow(leaf: Any) -> bool:
    kind = getattr(leaf, "dtype", None)
    return kind is not None and jnp.issubdtype(kind, jnp.floating) and jnp.promote_types(kind, jnp.float32) != kind


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
    return leaf.astype(jnp.float32)


def cast(tree: Any, like: Any) -> Any:
    """Returns the tree with its leaves in the types of those of another tree; leaves of the right type as they are.

    >>> cast({"a": np.ones(2, np.int8)}, {"a": jnp.zeros(2)})
    {'a': Array([1., 1.], dtype=float32)}
    """

    def one(leaf: Any, other: Any) -> Any:
        kind = jnp.result_type(other)
        return leaf if jnp.result_type(leaf) == kind else jnp.asarray(leaf, kind)

    return jax.tree.map(one, tree, like)


def size(tree: Any) -> int:
    """Counts the numbers in all leaves (arrays, or anything that has a shape).

    >>> size({"a": jnp.ones((2, 3)), "b": jnp.ones(4)})
    10
    """
    return sum(int(np.prod(np.shape(leaf), dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def copied(tree: Any) -> Any:
    """Copies every leaf into an array of its own, where it lies.

    ``jnp.array`` does so by a program, which is compiled for every shape; only where an array lies on other hosts too
    there is no other way.

    >>> copied({"a": np.ones(2, np.float32)})
    {'a': Array([1., 1.], dtype=float32)}
    """

    def copy(leaf: Any) -> jax.Array:
        if isinstance(leaf, Tracer) or not getattr(leaf, "is_fully_addressable", True):
            return jnp.array(leaf)
        # Of NumPy's memory JAX makes its own where it is aligned, whatever may_alias says.
        return jax.device_put(leaf.copy() if isinstance(leaf, np.ndarray) else leaf, may_alias=False)

    return jax.tree.map(copy, tree)


# Each is one program for the whole tree.
@jax.jit
def gather(tree: Any, positions: Any) -> Any:
    """Reads the numbers at some positions of the leaves laid end to end.

    >>> gather({"a": jnp.ones(2), "b": jnp.array([2.0, 3.0])}, np.array([0, 3]))
    Array([1., 3.], dtype=float32)
    """
    return ravel_pytree(tree)[0][positions]


@jax.jit
def spread(vector: Any, positions: Any, like: Any) -> Any:
    """Writes numbers at some positions of the leaves laid end to end, and zero elsewhere; undoes ``gather``.

    >>> spread(jnp.array([5.0]), np.array([2]), {"a": jnp.ones(2), "b": jnp.ones(1)})
    {'a': Array([0., 0.], dtype=float32), 'b': Array([5.], dtype=float32)}
    """
    flat, unravel = ravel_pytree(like)
    return unravel(jnp.zeros_like(flat).at[positions].set(vector.astype(flat.dtype)))


@jax.jit
def add(left: Any, right: Any) -> Any:
    """Adds two trees, leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


@jax.jit
def scale(factor: Any, tree: Any) -> Any:
    """Multiplies every leaf by a number."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


@jax.jit
def dot(left: Any, right: Any) -> jax.Array:
    """Computes the inner product of two trees, the sum over all leaves.

    >>> float(dot({"a": jnp.ones(3)}, {"a": jnp.full(3, 2.0)}))
    6.0
    """
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), left, right))
    return sum(products, start=jnp.zeros(()))
