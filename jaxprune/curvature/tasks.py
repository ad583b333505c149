"""What serves some leaves by one route: what a plan reads, and a computation runs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxprune.curvature import grams, loops, signals
from jaxprune.curvature.compiled import Compiled, compile_only
from jaxprune.curvature.signals import Wanted
from jaxprune.memory import available, fits
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

    def chunks(self) -> list[np.ndarray]:
        """The indices of every call."""
        return loops.chunks(self.count, self.width)

    def call(self, *indices: Any) -> Any:
        """Calls the program once, for a chunk of indices if it takes one."""
        return self.program(*self.arguments, *indices, **self.options)

    def run(self) -> Any:
        """Computes the result of all calls."""
        if not self.count:
            return self.call()
        traced = loops.is_traced(self.arguments)
        if self.rows:
            return loops.concatenated(self.call, self.chunks(), self.count, traced)
        return loops.total(self.call, self.chunks(), traced)

    def fitted(self, memory: int | None, measure: Measure = compile_only) -> "Task":
        """Returns the task with as many products side by side as fit into ``memory`` bytes, see ``_fitted``."""
        return self if loops.is_traced(self.arguments) or self.program is None else _fitted(self, memory, measure)

    def cost(self, measure: Measure = compile_only) -> tuple[int, float, int]:
        """The number of calls, the operations of all of them, and the bytes of temporaries and results."""
        if self.program is None:
            return 0, 0.0, 0
        calls = len(self.chunks()) if self.count else 1
        indices = self.chunks()[:1] if self.count else []
        found = measure(self.program, (*self.arguments, *indices), self.options)
        return calls, calls * found.operations, found.bytes


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
      quantities: what is made of the signals of every leaf: "diagonal", ("runs", size), ("dense", blocks),
        ("factors", blocks).  Products of units and layers are ``wanted.products``.
      units: the axes of every leaf that are output.
      count: how many columns the output Hessian has.
      width: how many backward passes run side by side.
      drawn: see ``signals.begin``.
    """

    route: str
    paths: tuple[str, ...]
    why: str
    network: Network
    batch: Batch
    share: Any
    vectors: tuple[Any, ...]
    wanted: Wanted
    quantities: tuple[Any, ...]
    units: tuple[tuple[int, ...], ...]
    count: int
    width: int
    drawn: Any = None
    rows: bool = False

    def chunks(self) -> list[np.ndarray]:
        """The numbers of the columns of every call."""
        return loops.chunks(self.count, self.width)

    def run(self) -> dict[Any, list[Any]]:
        """Computes every quantity: its name -> one array for every leaf."""
        point = signals.begin(*self._beginning(), wanted=self.wanted)
        found = loops.total(partial(self.of_columns, point), self.chunks(), loops.is_traced(self._beginning()))
        for blocks in self.wanted.products:
            found[blocks] = signals.weight_gradients(
                self.network, self.batch, point.values, found[blocks], paths=self.paths
            )
        return found

    def of_columns(self, point: signals.Point, indices: Any) -> dict[Any, list[Any]]:
        """What some columns add to every quantity; to products, in the space of z."""
        every, weights, found = signals.pull(point, indices, wanted=self.wanted, count=self.count)
        for quantity in self.quantities:
            found[quantity] = [
                program(*arguments, **options)
                for program, arguments, options in self._of_leaves(quantity, point.rows, every, weights)
            ]
        return found

    def begun(self) -> signals.Point:
        """The forward pass."""
        return signals.begin(*self._beginning(), wanted=self.wanted)

    def fitted(self, memory: int | None, measure: Measure = compile_only) -> "SignalTask":
        """Returns the task with as many signals side by side as fit into ``memory`` bytes, see ``_fitted``."""
        return self if loops.is_traced(self._beginning()) else _fitted(self, memory, measure)

    def cost(self, measure: Measure = compile_only) -> tuple[int, float, int]:
        """The number of calls of all programs, their operations, and the most bytes that are held at a time."""
        first = measure(signals.begin, self._beginning(), {"wanted": self.wanted})
        point = jax.eval_shape(partial(signals.begin, wanted=self.wanted), *self._beginning())
        chunk = self.chunks()[0]
        options = {"wanted": self.wanted, "count": self.count}
        back = measure(signals.pull, (point, chunk), options)
        every, weights, products = jax.eval_shape(partial(signals.pull, **options), point, chunk)
        leaves: list[Compiled] = []
        for quantity in self.quantities:
            parts = self._of_leaves(quantity, point.rows, every, weights)
            leaves += [measure(program, arguments, options) for program, arguments, options in parts]
        last = [
            measure(signals.weight_gradients, (self.network, self.batch, point.values, each), {"paths": self.paths})
            for each in products.values()
        ]
        chunks = len(self.chunks())
        calls = 1 + chunks * (1 + len(leaves)) + len(last)
        operations = first.operations + sum(each.operations for each in last)
        operations += chunks * (back.operations + sum(each.operations for each in leaves))
        # The signals lie there while the quantities are made of them; those of one leaf at a time take temporaries.
        results, temporary = sum(each.results for each in leaves), max((_temporary(each) for each in leaves), default=0)
        held = max(_temporary(back), (1 + (chunks > 1)) * results + temporary)
        held = max(held, sum(each.results for each in last) + max(map(_temporary, last), default=0))
        return calls, operations, first.results + max(_temporary(first), back.results + held)

    def _beginning(self) -> tuple[Any, ...]:
        return self.network, self.batch, self.share, self.vectors, self.drawn

    def _of_leaves(
        self, quantity: Any, ready: Any, every: Any, weights: Any
    ) -> list[tuple[Callable[..., Any], Any, Any]]:
        """A program for each leaf, with its arguments and options."""
        kind, argument = (quantity, None) if isinstance(quantity, str) else quantity
        calls = []
        for at, units in enumerate(self.units):
            arguments = (ready[at], every[at], weights)
            if kind == "diagonal":
                calls.append((grams.squares, arguments, {}))
            elif kind == "runs":
                calls.append((grams.run_products, (*arguments, self.vectors[at]), {"size": argument}))
            else:
                program = grams.dense if kind == "dense" else grams.factors
                calls.append((program, arguments, {"blocks": argument, "units": units}))
        return calls


def _temporary(found: Compiled) -> int:
    return found.bytes - found.results


def _fitted(task: Any, memory: int | None, measure: Measure) -> Any:
    """Returns a task with as many products or signals side by side as fit into ``memory`` bytes.

    Not inside ``jax.jit``: what fits cannot be known there.

    Raises:
      MemoryError: not even one at a time fits.
    """
    there, smaller = available(memory), task
    while (needed := smaller.cost(measure)[2]) > there:
        if not smaller.count or smaller.width == 1:
            fits(f"{task.route} of {', '.join(task.paths[:3])}", needed, max(there, 1))
        smaller = replace(smaller, width=max(1, smaller.width // 2))
    return smaller
