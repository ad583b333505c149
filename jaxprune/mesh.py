"""Devices and shardings, the same for one chip and for a pod.

Meshes have ``Auto`` axes: the compiler propagates shardings and inserts every cross-device sum, so the rest of the
library contains no collective, and a program is correct on any number of devices.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make(devices: list[Any] | None = None) -> Mesh:
    """Makes a mesh with one axis, ``"data"``, over all devices (or those given).

    >>> make(jax.devices()[:1]).axis_names
    ('data',)
    """
    chosen = jax.devices() if devices is None else devices
    # Explicitly Auto: jax.make_mesh defaults to Explicit axes, under which linen networks and vmapped products fail.
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(AxisType.Auto,), devices=chosen)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Splits the leading axis of every leaf over the devices.

    Raises:
      ValueError: the number of devices does not divide the number of examples.
    """
    count = mesh.devices.size
    for leaf in jax.tree.leaves(batch):
        if np.shape(leaf)[0] % count:
            raise ValueError(
                f"batch: expected a number of examples that {count} devices divide, but got {np.shape(leaf)[0]}. "
                "Choose another batch size; jp.data.Batches pads the last batch with weight 0."
            )
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def shard_leaves(mesh: Mesh, tree: Any) -> Any:
    """Splits every leaf along its largest axis that the number of devices divides; other leaves are replicated."""
    count = mesh.devices.size

    def place(leaf: Any) -> Any:
        fitting = [axis for axis, size in enumerate(np.shape(leaf)) if size % count == 0 and size > 0]
        spec = [None] * np.ndim(leaf)
        if fitting:
            spec[max(fitting, key=lambda axis: np.shape(leaf)[axis])] = "data"  # type: ignore[call-overload]
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(place, tree)
