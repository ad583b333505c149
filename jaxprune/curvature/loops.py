"""Loops over chunks of one compiled program.

Outside ``jax.jit`` the host calls the program again and again; inside, the loop is compiled too.  XLA runs convolutions
in compiled loops several times slower on CPU, so the host's loop is the better one where there is a choice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(arguments: Any) -> bool:
    """Whether any leaf is a tracer: then the caller is inside a JAX transformation."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))


def chunks(count: int, width: int) -> list[np.ndarray]:
    """Cuts ``range(count)`` into runs of at most ``width``, as equal as can be; -1 pads the last.

    >>> [chunk.tolist() for chunk in chunks(5, 4)]
    [[0, 1, 2], [3, 4, -1]]
    """
    runs = max(1, -(-count // width))
    size = -(-count // runs)
    indices = np.full(runs * size, -1, dtype=np.int32)
    indices[:count] = np.arange(count)
    return list(indices.reshape(runs, size))


def total(
    function: Callable[[Any], Any],
    parts: Sequence[np.ndarray],
    traced: bool,
    add: Callable[[Any, Any], Any] | None = None,
) -> Any:
    """Sums a tree-valued function over the chunks; ``add``: how, if not by ``added``."""
    add = add or added
    if not traced or len(parts) == 1:
        result = function(parts[0])
        for part in parts[1:]:
            result = add(result, function(part))
        return result
    shapes = jax.eval_shape(function, parts[0])
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    table = jnp.asarray(np.stack(parts))
    return jax.lax.fori_loop(0, len(parts), lambda at, so_far: add(so_far, function(table[at])), start)


def side_by_side(function: Callable[[Any], Any], indices: Any) -> Any:
    """Maps a function over indices, all at once where JAX can do that."""
    if len(indices) == 1:
        # No axis of one: jaxlib 0.10.2 on a CPU dies of sums over such arrays of six axes (jax-ml/jax#40412).
        return jax.tree.map(lambda leaf: leaf[None], function(indices[0]))
    try:
        return jax.vmap(function)(indices)
    except NotImplementedError:
        # The weight gradients of a grouped convolution whose kernel lies on several devices (jax 0.10 and 0.12).
        return jax.lax.map(function, indices)


def concatenated(function: Callable[[Any], Any], parts: Sequence[np.ndarray], count: int, traced: bool) -> Any:
    """Joins the rows that a function returns for every chunk; the first ``count`` of them."""
    if traced and len(parts) > 1:
        rows = jax.lax.map(function, jnp.asarray(np.stack(parts)))
    else:
        rows = jnp.stack([function(part) for part in parts])
    return rows.reshape(-1, *rows.shape[2:])[:count]


@jax.jit
def added(left: Any, right: Any) -> Any:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, left, right)
