"""Devices and shardings, the same for one chip and for a pod.

Meshes have ``Auto`` axes: the compiler propagates shardings and inserts every cross-device sum.  What it would not
divide, loops over single examples above all, runs in ``each_shard``, which holds the library's only collective that is
written out: one sum.  A program is correct on any number of devices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxprune import check, processes

_DATA = "data"


def make(devices: list[Any] | None = None) -> Mesh:
    """Makes a mesh with one axis, ``"data"``, over all devices (or those given).

    >>> make(jax.devices()[:1]).axis_names
    ('data',)
    """
    chosen = jax.devices() if devices is None else devices
    # Explicitly Auto: jax.make_mesh defaults to Explicit axes, under which linen networks and vmapped products fail.
    return jax.make_mesh((len(chosen),), (_DATA,), axis_types=(AxisType.Auto,), devices=chosen)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a copy of every leaf on every device: ``Placement(mesh).tree``."""
    return Placement(mesh).tree(tree)


def shard_batch(mesh: Mesh, batch: Any) -> Any:
    """Splits the leading axis of every leaf over the axis "data" of a mesh: ``Placement(mesh).whole``.

    Raises:
      ValueError: the axis does not divide the number of examples; the mesh has no such axis, or one that is not
        ``Auto``.
    """
    return Placement(mesh).whole(batch)


def shard_leaves(mesh: Mesh, tree: Any) -> Any:
    """Splits every leaf along its largest axis that the axis "data" of a mesh divides, see ``Placement.split``."""
    return Placement(mesh, split=True).tree(tree)


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

    mesh: Mesh | AbstractMesh
    data: str = _DATA
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
                f"into, but got {examples}. Choose another, or fewer devices; jp.data.Batches pads the last batch with "
                "weight 0."
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
            entry = np.array(entry)  # see _put
            whole = (len(entry) * count, *entry.shape[1:])
            self.demand_divisible("batch", whole[0])
            made[name] = jax.make_array_from_process_local_data(sharding, entry, whole)
        return made

    def whole(self, batch: Any) -> Any:
        """Splits a batch that every host has, all of it.

        Args:
          batch: a tree of arrays [b, ...].

        Returns:
          The same tree, split over the devices.

        Raises:
          ValueError: the devices do not divide the examples.
        """
        for leaf in jax.tree.leaves(batch):
            self.demand_divisible("batch", np.shape(leaf)[0])
        return jax.tree.map(lambda leaf: _put(leaf, self.parts), batch)

    @property
    def parts(self) -> NamedSharding:
        """Where arrays lie whose first axis is split."""
        return NamedSharding(self.mesh, PartitionSpec(self.data))

    def tree(self, tree: Any) -> Any:
        """Puts weights, a state, or a network on the devices; every host has to have the same.

        Returns:
          A copy on every device; or, with ``split``, each leaf split along its largest axis that is divisible.
        """
        return jax.tree.map(self._placed, tree)

    def _placed(self, leaf: Any) -> Any:
        spec = _split(leaf, self.size, self.data) if self.split else PartitionSpec(*[None] * np.ndim(leaf))
        return _put(leaf, NamedSharding(self.mesh, spec))


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    """Puts an array there; with several processes each of them has to have all of it, or to have it placed before."""
    if getattr(leaf, "sharding", None) == sharding:
        return leaf
    # Of NumPy's memory JAX makes its own where it is aligned: a caller who writes into it would change the array.
    leaf = leaf.copy() if isinstance(leaf, np.ndarray) else leaf
    if processes.count() == 1:
        return jax.device_put(leaf, sharding)
    value = processes.read(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def found(batch: Any) -> Placement | None:
    """Says how the examples of a batch are split; None where they are not.

    Inside ``jax.jit`` an array says on which mesh it lies, and not how: then that its examples are split is taken to be
    so, over the axis "data" or the only one, since that is always right, and free where it is true.

    Args:
      batch: a tree of arrays [b, ...], or tracers of them; its first leaf is asked.

    Raises:
      ValueError: the axis is not ``Auto``.

    >>> found({"image": np.ones((4, 2))}) is None
    True
    """
    leaf = next(iter(jax.tree.leaves(batch)), None)
    if not isinstance(leaf, jax.Array) or not leaf.ndim:
        return None
    mesh, data = _of_tracer(leaf) if isinstance(leaf, Tracer) else _of_array(leaf)
    if mesh is None or not isinstance(data, str):
        return None
    # Inside of somebody's own shard_map a device has its examples already.
    if dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[data] == AxisType.Manual:
        return None
    placement = Placement(mesh, data)
    return placement if placement.size > 1 and leaf.shape[0] % placement.size == 0 else None


def _of_tracer(leaf: Any) -> tuple[Any, Any]:
    sharding = getattr(jax.typeof(leaf), "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return None, None
    names = sharding.mesh.axis_names
    return sharding.mesh, _DATA if _DATA in names else names[0] if len(names) == 1 else None


def _of_array(leaf: Any) -> tuple[Any, Any]:
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding) or not len(sharding.spec):
        return None, None
    return sharding.mesh, sharding.spec[0]


def each_shard(
    function: Callable[[Any, Any, Any], tuple[Any, Any]],
    placement: Placement | None,
    whole: Any,
    split: Any,
    own: Any = (),
) -> tuple[Any, Any]:
    """Calls a function on every device with the examples that lie there, and adds up what it returns.

    Loops over examples are divided in this way: the compiler would bring all of them to every device.  May be called
    inside ``jax.jit``, and with arrays that lie on several hosts.

    Args:
      function: ``(whole, split, own) -> (terms, kept)``, pure.
      placement: the mesh, and its axis; None: the function is called once, with everything, and nothing is added.
      whole: a tree of arrays that every device gets whole.
      split: a tree of arrays [b, ...] of which every device gets its part, [b / size, ...].
      own: what an earlier call has kept.

    Returns:
      (sums, kept): the terms of all devices, added up, on every device; and of what was kept arrays [size, ...], whose
      parts stay where they were made.

    >>> placement = Placement(make(jax.devices()[:1]))
    >>> each_shard(lambda w, x, _: ((w * x).sum(), x.max()), placement, 2.0, np.arange(4.0))
    (Array(12., dtype=float32), Array([3.], dtype=float32))
    """
    if placement is None:
        return function(whole, split, own)
    over, everywhere = PartitionSpec(placement.data), PartitionSpec()

    def of_part(whole: Any, split: Any, own: Any) -> tuple[Any, Any]:
        terms, kept = function(whole, split, jax.tree.map(lambda leaf: leaf[0], own))
        return jax.lax.psum(terms, placement.data), jax.tree.map(lambda leaf: leaf[None], kept)

    # Unchecked: what a loop begins with is the same everywhere, and what comes out of it is not.
    divided = jax.shard_map(
        of_part,
        mesh=placement.mesh,
        in_specs=(everywhere, over, over),
        out_specs=(everywhere, over),
        check_vma=False,
    )
    return divided(whole, split, own)


def kept(structs: Any, placement: Placement | None) -> Any:
    """Shapes of what ``each_shard`` keeps, and that it lies in parts.

    >>> kept(jax.ShapeDtypeStruct((2,), "float32"), None).shape
    (2,)
    """
    if placement is None:
        return structs
    return jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, weak_type=one.weak_type, sharding=placement.parts),
        structs,
    )
