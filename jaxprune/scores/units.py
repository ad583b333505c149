"""Work on units that know nothing of each other, divided over devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.mesh import Placement, each_shard


def divided(function: Callable[[Any, Any], Any], placement: Placement | None, given: Any, count: int) -> Any:
    """Calls a function of units on every device with some of them, and joins what it returns; inside ``jax.jit``.

    Args:
      function: ``(given, numbers) -> tree`` of arrays, with the units of these numbers first.
      placement: the devices; None: the function is called once.
      given: what it takes units from, whole on every device.
      count: of the units.

    Returns:
      The tree, with all units in every leaf, on every device.

    >>> divided(lambda rows, numbers: 2 * rows[numbers], None, jnp.ones(2), 2)
    Array([2., 2.], dtype=float32)
    """
    if placement is None or count == 1:
        return function(given, jnp.arange(count))
    # As many on every device: some of them again.
    numbers = np.resize(np.arange(count), -(-count // placement.size) * placement.size)
    _, found = each_shard(lambda given, numbers, _: ((), function(given, numbers)), placement, given, numbers)
    everywhere = NamedSharding(placement.mesh, PartitionSpec())

    def joined(leaf: Any) -> Any:
        return jax.lax.with_sharding_constraint(leaf.reshape(-1, *leaf.shape[2:]), everywhere)[:count]

    return jax.tree.map(joined, found)
