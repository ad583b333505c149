"""The whole program with what is gone left out of its sums: what removing units is where statistics are recomputed.

Nothing is cut: sums take zeros for units that are gone, maxima what is below all, and means count what is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.structured.discovery.compacting import planned
from jaxprune.structured.discovery.cutting import Cutting, counted
from jaxprune.structured.discovery.evaluating import Change, Changed, Path
from jaxprune.structured.discovery.full import Full
from jaxprune.structured.probes import is_float


@dataclass(frozen=True)
class Masked:
    """A function of all leaves of a network, in which some units are left out.

    Attributes:
      function: ``apply`` or ``train_apply``, of the whole network.
      full: what is left of its leaves.
    """

    function: Any
    full: Full

    def __call__(self, params: Any, state: Any, *others: Any) -> Any:
        """Evaluates it.

        Raises:
          ValueError: units that are gone end inside of a function with a derivative rule of its own.
        """
        given = jax.tree.leaves((params, state, *others))
        types = tuple(jnp.result_type(leaf) for leaf in jax.tree.leaves((params, state)))
        program, cutting, _, made = planned(self.function, self.full, types, others)
        return jax.tree.unflatten(made, Changed(_changes(cutting)).run(program, given))


def _changes(cutting: Cutting) -> Mapping[tuple[Path, int], Change]:
    """What is done to operands, by the place of their equation and their number."""
    fills: dict[tuple[Path, int], dict[int, tuple[np.ndarray, float]]] = {}
    facts = cutting.walk.facts
    for one in facts.contractions:
        if (kept := cutting.alive(one.nodes)).all():
            continue
        if one.gated is None:
            raise ValueError("its units end inside of a function with a derivative rule of its own")
        number, axis = one.gated
        along = cutting.alive(cutting.walk.records[one.place].before[number][axis])
        fills.setdefault((one.place, number), {})[axis] = (along & kept, 0.0)
    fill = {"reduce_sum": 0.0, "reduce_max": -np.inf, "reduce_min": np.inf}
    for one in facts.counts.sums if facts.counts else ():
        for axis, nodes in zip(one.axes, one.nodes, strict=True) if one.name in fill else ():
            if not (kept := cutting.alive(nodes)).all():
                fills.setdefault((one.place, 0), {})[axis] = (kept, fill[one.name])
    changes: dict[tuple[Path, int], Change] = {place: partial(_filled, axes) for place, axes in fills.items()}
    for place, (side, number) in cutting.left.items():
        changes[place, side] = partial(counted, number)
    return changes


def _filled(axes: Mapping[int, tuple[np.ndarray, float]], value: Any) -> Any:
    """A value with what is gone along some axes replaced by what does not count."""
    for axis, (kept, fill) in axes.items():
        shape = [1] * np.ndim(value)
        shape[axis] = -1
        if not is_float(value):
            fill = int(min(max(fill, np.iinfo(value.dtype).min), np.iinfo(value.dtype).max))
        value = jnp.where(kept.reshape(shape), value, jnp.asarray(fill, value.dtype))
    return value
