"""Devices and shardings, the same for one chip and for a pod.

Meshes have ``Auto`` axes: the compiler propagates shardings and inserts every cross-device sum, so the rest of the
library contains no collective, and a program is correct on any number of devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxprune import check, processes


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

    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, _split(leaf, count, "data"))), tree)


def _split(leaf: Any, count: int, name: str) -> PartitionSpec:
    """Names the largest axis of a leaf that ``count`` divides; none where there is no such axis."""
    sizes = {axis: size for axis, size in enumerate(np.shape(leaf)) if size and size % count == 0}
    largest = max(sizes, key=lambda axis: sizes[axis], default=None)
    return PartitionSpec(*(name if axis == largest else None for axis in range(np.ndim(leaf))))


@dataclass(frozen=True)
class Placement:
    """Where numbers lie: examples are split over one axis of a mesh, on any number of hosts.

    Attributes:
      mesh: of ``jp.mesh.make``, or any other one with ``Auto`` axes.
      data: the axis over which examples are split.
      split: whether weights and optimizer states are split over the same axis too, each along its largest axis that is
        divisible, and gathered where they are used.  False: every device has all of them.

    Raises:
      ValueError: the mesh has no such axis, or an axis that is not ``Auto``.

    >>> placement = Placement(make(jax.devices()[:1]))
    >>> placement.batch({"image": np.ones((4, 2))})["image"].shape
    (4, 2)
    """

    mesh: Mesh
    data: str = "data"
    split: bool = False

    def __post_init__(self) -> None:
        check.choice("data", self.data, self.mesh.axis_names)
        kinds = dict(zip(self.mesh.axis_names, self.mesh.axis_types, strict=True))
        if other := [name for name, kind in kinds.items() if kind != AxisType.Auto]:
            raise ValueError(
                f"mesh: expected Auto axes, but {', '.join(other)} is {kinds[other[0]]}, under which linen networks "
                "and vmapped products fail. Make it by jp.mesh.make(), or with axis_types=(AxisType.Auto, ...)."
            )

    @property
    def size(self) -> int:
        """How many parts the examples are split into."""
        return self.mesh.shape[self.data]

    @property
    def host(self) -> tuple[int, int]:
        """(index, count) of this process, as ``jp.data.Batches`` takes them: which part of every batch it brings."""
        return processes.index(), processes.count()

    def demand_divisible(self, name: str, examples: int) -> None:
        """Checks that examples can be split evenly.

        Raises:
          ValueError: they cannot.
        """
        if examples % self.size:
            raise ValueError(
                f"{name}: expected a multiple of {self.size}, the parts that {self.data!r} of the mesh splits examples "
                f"into, but got {examples}. Choose another, or fewer devices."
            )

    def batch(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Puts a batch together of what every host has of it, in their order.

        Args:
          part: arrays [b / hosts, ...] of this host; its part of the batch, not all of it.

        Returns:
          Arrays [b, ...], split over the devices.

        Raises:
          ValueError: the devices do not divide the examples.
        """
        count = processes.count()
        sharding = NamedSharding(self.mesh, PartitionSpec(self.data))
        made = {}
        for name, entry in part.items():
            entry = np.asarray(entry)
            whole = (len(entry) * count, *entry.shape[1:])
            self.demand_divisible("batch", whole[0])
            made[name] = jax.make_array_from_process_local_data(sharding, entry, whole)
        return made

    def tree(self, tree: Any) -> Any:
        """Puts weights, a state, or a network on the devices; every host has to have the same.

        Returns:
          A copy on every device; or, with ``split``, each leaf split along its largest axis that is divisible.
        """
        return jax.tree.map(self._placed, tree)

    def _placed(self, leaf: Any) -> Any:
        spec = _split(leaf, self.size, self.data) if self.split else PartitionSpec(*[None] * np.ndim(leaf))
        sharding = NamedSharding(self.mesh, spec)
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if processes.count() == 1:
            return jax.device_put(leaf, sharding)
        value = processes.read(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
