"""What serves some leaves by one route: what a plan reads, and a computation runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import losses
from jaxprune.curvature import finishing, loops, signals
from jaxprune.curvature.compiled import Compiled, compile_only, shape_of, struct_of
from jaxprune.curvature.signals import Wanted
from jaxprune.memory import available, refusal
from jaxprune.mesh import Placement, each_shard, kept
from jaxprune.network import Network
from jaxprune.types import Batch

# Products that run side by side, folded into the batch.  More costs memory and measured no faster on convolutions.
WIDTH = 16

# A jitted program, its arguments and its static options -> what it takes: ``compile_only``, or ``count_only``.
Measure = Callable[[Any, tuple[Any, ...], dict[str, Any]], Compiled]


@dataclass(frozen=True)
class Task:
    """One compiled program that serves some leaves.

    Attributes:
      route: which of the routes above.
      paths: the leaves.
      why: why this route, in words.
      program: a jitted function of ``arguments``, and of a chunk of indices if ``count`` is not 0.
      arguments: the network, the batch, and what else is not static.
      options: static arguments.
      count: how many products, signals or units there are; 0: the program is called once.
      width: how many of them run side by side.
      rows: whether the chunks' results are rows to be joined, rather than summed.
      placement: over which devices the examples are divided; None: the compiler's choice.
    """

    route: str
    paths: tuple[str, ...]
    why: str
    program: Any = None
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    width: int = WIDTH
    rows: bool = False
    placement: Placement | None = None

    def chunks(self) -> list[np.ndarray]:
        """The indices of every call."""
        return loops.chunks(self.count, self.width)

    def call(self, *indices: Any) -> Any:
        """Calls the program once, for a chunk of indices if it takes one."""
        program, static = self._program()
        return program(*self.arguments, *indices, **static)

    def _program(self) -> tuple[Any, dict[str, Any]]:
        if self.placement is None:
            return self.program, self.options
        options = tuple(sorted(self.options.items()))
        return _on_parts, {"program": self.program, "placement": self.placement, "options": options}

    def smaller(self) -> "Task | None":
        """The task with fewer products side by side, if there are fewer."""
        return replace(self, width=self.width // 2) if self.count and self.width > 1 else None

    def run(self) -> Any:
        """Computes the result of all calls."""
        if not self.count:
            return self.call()
        traced = loops.is_traced(self.arguments)
        if self.rows:
            return loops.concatenated(self.call, self.chunks(), self.count, traced)
        return loops.total(self.call, self.chunks(), traced)

    def fitted(self, memory: int | None, measure: Measure = compile_only) -> "Task":
        """Returns the task with as many products side by side as fit into ``memory`` bytes, see ``fitted``."""
        return self if loops.is_traced(self.arguments) or self.program is None else fitted(self, memory, measure)

    def cost(self, measure: Measure = compile_only) -> tuple[int, float, int]:
        """The number of calls, the operations of all of them, and the bytes of temporaries and results."""
        if self.program is None:
            return 0, 0.0, 0
        calls = len(self.chunks()) if self.count else 1
        indices = self.chunks()[:1] if self.count else []
        program, static = self._program()
        found = measure(program, (*self.arguments, *indices), static)
        return calls, calls * found.operations, found.bytes


@partial(jax.jit, static_argnames=("program", "placement", "options"))
def _on_parts(
    network: Network, batch: Batch, *rest: Any, program: Any, placement: Placement, options: tuple[Any, ...]
) -> Any:
    """Runs a program of a mean over examples on every device with its own ones, and averages by their weights."""

    def of_part(whole: Any, batch: Batch, _: Any) -> tuple[Any, Any]:
        network, total, rest = whole
        share = _counted(batch) / total
        found = program(network, batch, *rest, **dict(options))
        return jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), found), ()

    total = _counted(batch)
    return each_shard(of_part, placement, (network, jnp.where(total > 0, total, 1), rest), batch)[0]


def _counted(batch: Batch) -> Any:
    """The sum of the weights that count, as wide as can be."""
    weights = losses.weights(batch)
    return jnp.sum(jnp.where(weights > 0, weights, 0), dtype=jnp.promote_types(weights.dtype, float))


@dataclass(frozen=True)
class SignalTask:
    """All that is wanted of the class-backward signals of some leaves: one forward pass, and one set of signals.

    Attributes:
      route: its name.
      paths: the leaves.
      why: why this route, in words.
      network: the network.
      batch: images, what the loss reads, and weights.
      share: of every example in the sum [b].
      vectors: v at every leaf, for products.
      wanted: what is wanted of the signals.
      count: how many columns the output Hessian has.
      width: how many backward passes run side by side.
      drawn: see ``signals.begin``.
      placement: over which devices the examples are divided; None: the compiler's choice.
    """

    route: str
    paths: tuple[str, ...]
    why: str
    network: Network
    batch: Batch
    share: Any
    vectors: tuple[Any, ...]
    wanted: Wanted
    count: int
    width: int
    drawn: Any = None
    placement: Placement | None = None
    rows: bool = False

    def chunks(self) -> list[np.ndarray]:
        """The numbers of the columns of every call."""
        return loops.chunks(self.count, self.width)

    def smaller(self) -> "SignalTask | None":
        """The task with fewer signals side by side, or without roots, which are held until the end."""
        if self.width > 1:
            return replace(self, width=self.width // 2)
        if not self.wanted.rooted:
            return None
        return replace(self, wanted=replace(self.wanted, rooted=False))

    def run(self) -> dict[Any, list[Any]]:
        """Computes every quantity: its name -> one array for every leaf."""
        traced = loops.is_traced(self._beginning())
        if traced and self.placement is not None:
            return self._divided(self.placement)
        point = self.begun()
        found = loops.total(partial(self.of_columns, point), self.chunks(), traced, self._added)
        for blocks in self.wanted.products:
            found[blocks] = finishing.weight_gradients(
                self.network, self.batch, point.values, found[blocks], paths=self.paths, placement=self.placement
            )
        rooted = found.pop(signals.ROOTS, [])
        for name, at, options in _rooted(self.wanted, found, rooted):
            found[name][at] = finishing.of_roots(point.rows[at], rooted[at], **options, placement=self.placement)
        return found

    def _divided(self, placement: Placement) -> dict[Any, list[Any]]:
        """The same in one program, with the loop over the columns on every device."""

        def of_part(whole: Any, split: Any, _: Any) -> tuple[Any, Any]:
            network, vectors = whole
            batch, share, drawn = split
            own = {"batch": batch, "share": share, "drawn": drawn, "placement": None}
            return replace(self, network=network, vectors=vectors, **own).run(), ()

        split = (self.batch, self.share, self.drawn)
        return each_shard(of_part, placement, (self.network, self.vectors), split)[0]

    def of_columns(self, point: signals.Point, indices: Any) -> dict[Any, list[Any]]:
        """What some columns add to every quantity; to products, in the space of z."""
        options = {"wanted": self.wanted, "count": self.count, "placement": self.placement}
        return signals.of_columns(point, self.vectors, indices, **options)

    def _added(self, one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
        if signals.ROOTS not in one:
            return loops.added(one, other)
        joined = finishing.joined(one[signals.ROOTS], other[signals.ROOTS], placement=self.placement)
        rests = ({name: each for name, each in side.items() if name != signals.ROOTS} for side in (one, other))
        return loops.added(*rests) | {signals.ROOTS: joined}

    def begun(self) -> signals.Point:
        """The forward pass."""
        return signals.begin(*self._beginning(), wanted=self.wanted, placement=self.placement)

    def fitted(self, memory: int | None, measure: Measure = compile_only) -> "SignalTask":
        """Returns the task with as many signals side by side as fit into ``memory`` bytes, see ``fitted``."""
        return self if loops.is_traced(self._beginning()) else fitted(self, memory, measure)

    def cost(self, measure: Measure = compile_only) -> tuple[int, float, int]:
        """The number of calls of all programs, their operations, and the most bytes that are held at a time."""
        leaves, structure = jax.tree.flatten(self._beginning())
        config: Any = jax.config
        shapes = tuple(map(shape_of, leaves))
        static = (self.wanted, self.placement, self.count, self.width)
        return _signal_cost(measure, structure, shapes, *static, config.jax_enable_x64)

    def _beginning(self) -> tuple[Any, ...]:
        return self.network, self.batch, self.share, self.vectors, self.drawn


# Remembered by shapes: even where nothing is new, JAX takes tens of milliseconds to find that out of a large network.
@lru_cache(maxsize=256)
def _signal_cost(
    measure: Measure,
    structure: Any,
    shapes: Any,
    wanted: Wanted,
    placement: Placement | None,
    count: int,
    width: int,
    float64: bool,
) -> tuple[int, float, int]:
    beginning = jax.tree.unflatten(structure, [struct_of(shape) for shape in shapes])
    network, batch, _, vectors, _ = beginning
    static = {"wanted": wanted, "placement": placement}
    first = measure(signals.begin, beginning, static)
    point = kept(jax.eval_shape(partial(signals.begin, **static), *beginning), placement)
    chunks = loops.chunks(count, width)
    arguments, options = (point, vectors, chunks[0]), {**static, "count": count}
    each = measure(signals.of_columns, arguments, options)
    found = jax.eval_shape(partial(signals.of_columns, **options), *arguments)
    last = [
        measure(
            finishing.weight_gradients,
            (network, batch, point.values, kept(found[of], placement)),
            {"paths": wanted.paths, "placement": placement},
        )
        for of in wanted.products
    ]
    rooted = kept(found.pop(signals.ROOTS, []), placement)
    made = [
        measure(finishing.of_roots, (point.rows[at], rooted[at]), {**options, "placement": placement})
        for _, at, options in _rooted(wanted, found, rooted)
    ]
    operations = first.operations + len(chunks) * each.operations + sum(other.operations for other in last + made)
    calls = 1 + len(chunks) + len(last) + len(made)
    # The sum so far lies beside what is added to it.
    held = [each.bytes + (len(chunks) > 1) * each.results, *(each.results + other.bytes for other in last)]
    # Blocks are made one leaf after the other.
    blocks = sum(other.results for other in made)
    held.append(each.results + blocks + max((other.bytes - other.results for other in made), default=0))
    if made and len(chunks) > 1:
        join = measure(finishing.joined, (rooted, rooted), {"placement": placement})
        operations, calls = operations + (len(chunks) - 1) * join.operations, calls + len(chunks) - 1
        held.append(2 * each.results + join.bytes)
    return calls, operations, first.results + max(first.bytes - first.results, *held)


def _rooted(wanted: Wanted, found: dict[Any, Any], given: list[Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Lists (quantity, leaf, options of ``finishing.of_roots``) of the dense blocks that are made of roots."""
    for quantity in wanted.others if given else ():
        name = signals.name_of(quantity)
        for at, units in enumerate(wanted.units):
            if given[at] is not None and found[name][at] is None:
                yield name, at, {"blocks": quantity[1], "units": units}


def fitted(task: Any, memory: int | None, measure: Measure) -> Any:
    """Returns a task with as many products or signals side by side as fit into ``memory`` bytes.

    Not inside ``jax.jit``: what fits cannot be known there.

    Raises:
      MemoryError: not even one at a time fits.
    """
    narrow, against = narrowed(task, available(memory), measure)
    if against:
        raise MemoryError(against)
    return narrow


def narrowed(task: Any, there: int, measure: Measure) -> tuple[Any, str]:
    """Returns a task with as many side by side as fit into so many bytes, and why not even one does, or nothing."""
    while (needed := task.cost(measure)[2]) > there:
        smaller = task.smaller()
        if smaller is None:
            return task, refusal(f"{task.route} of {', '.join(task.paths[:3])}", needed, max(there, 1))
        task = smaller
    return task, ""
