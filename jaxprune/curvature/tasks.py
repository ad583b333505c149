"""One compiled program that serves some leaves: what a plan reads, and a computation runs."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxprune.curvature import loops
from jaxprune.curvature.compiled import Compiled, compile_only
from jaxprune.memory import available, fits

# Products that run side by side, folded into the batch.  More costs memory and measured no faster on convolutions.
WIDTH = 16


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

    def fitted(self, memory: int | None) -> "Task":
        """Returns the task with as many products side by side as fit into ``memory`` bytes of temporaries.

        Inside ``jax.jit`` the width stays: what fits cannot be known there.

        Raises:
          MemoryError: not even one at a time fits.
        """
        if loops.is_traced(self.arguments) or self.program is None:
            return self
        there = available(memory)
        task = self
        while (needed := task._memory()) > there:
            if not task.count or task.width == 1:
                fits(f"{self.route} of {', '.join(self.paths[:3])}", needed, max(there, 1))
            task = replace(task, width=max(1, task.width // 2))
        return task

    def cost(self) -> tuple[int, float, int]:
        """The number of calls, the operations of all of them, and the bytes of temporaries and results."""
        if self.program is None:
            return 0, 0.0, 0
        calls = len(self.chunks()) if self.count else 1
        return calls, calls * self._compiled().operations, self._memory()

    def _memory(self) -> int:
        return self._compiled().bytes

    def _compiled(self) -> Compiled:
        indices = self.chunks()[:1] if self.count else []
        return compile_only(self.program, (*self.arguments, *indices), self.options)
