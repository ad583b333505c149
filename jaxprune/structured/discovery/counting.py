"""Statistics that are recomputed over the units that are left, and the numbers in a program that count units.

A mean is a sum over units that is divided by their number, or multiplied by one over it: that number is followed, and
becomes the number of those that are left.  A sum that nothing divides (a softmax, a norm) needs none.  Any other number
that multiplies a statistic over units, or looks like their number where they lie (its root, one less), may say how many
there are as well: which it is cannot be told, so such units stay.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.structured.discovery.indices import CONSTANT, WEIGHTS, Nodes

Path = tuple[int, ...]
NONE: frozenset[int] = frozenset()

RECOMPUTED = frozenset(["reduce_sum", "reduce_max", "reduce_min"])
"""Statistics that can be taken over fewer units."""

_LINEAR = frozenset(["convert_element_type", "copy", "copy_p", "neg", "name", "stop_gradient", "sharding_constraint"])
_SAME = _LINEAR | {"transpose", "squeeze", "broadcast_in_dim", "reshape", "reduce_precision", "optimization_barrier"}
_NUMBERS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "sqrt": np.sqrt,
    "square": np.square,
    "rsqrt": lambda one: 1 / np.sqrt(one),
    **dict.fromkeys(_SAME - {"neg"}, lambda one: one),
}
# Arrays that are looked at.
_MANY = 100_000
# How near a number must be to one that counts units, in units of the rounding of its type.
_ROUNDING = 1


class Counted(NamedTuple):
    """What a value has to do with how many units there are.

    Attributes:
      number: what all of its entries are, where they are the program's own.
      linear: the sums over units that it is, but for its layout and for what is added.
      touched: the sums over units that it is made of, since the last product.
      scales: the numbers that it was multiplied by, since the last product.
    """

    number: float | None = None
    linear: frozenset[int] = NONE
    touched: frozenset[int] = NONE
    scales: frozenset[int] = NONE


UNCOUNTED = Counted()


class Sum(NamedTuple):
    """A sum, maximum or minimum over some axes.

    Attributes:
      place: of the equation.
      name: of the primitive.
      axes: of its first operand, or of the kernel of a convolution.
      nodes: those of every axis.
      is_statistic: whether it is of values alone, rather than of what a leaf is multiplied by.
    """

    place: Path
    name: str
    axes: tuple[int, ...]
    nodes: tuple[Nodes, ...]
    is_statistic: bool

    @property
    def terms(self) -> int:
        """How many numbers are summed."""
        return math.prod(map(len, self.nodes))


class Mean(NamedTuple):
    """Where a sum is divided by how many numbers it is of.

    Attributes:
      side: the operand that is this number, or one over it.
      divides: whether it is the number.
      of: the sum.
    """

    side: int
    divides: bool
    of: Sum


@dataclass
class Scale:
    """A number of the program's own that multiplies or divides something.

    Attributes:
      number: it.
      eps: the rounding of its type.
      step: in words.
      along: the axes, or axes summed over together, that it may say the length of.
    """

    number: float
    eps: float
    step: str
    along: list[tuple[Nodes, ...]]


class Doubt(NamedTuple):
    """Units that stay if a statistic over them would have to be recomputed, and why."""

    nodes: tuple[Nodes, ...]
    why: str
    step: str


@dataclass
class Counts:
    """What a walk finds of numbers that count units.

    Attributes:
      sums: all of them.
      means: quotients by the number of a sum, and products with one over it, by the place of the equation.
      scales: all numbers that multiply, and are no such number.
      doubts: what cannot be followed.
    """

    sums: list[Sum] = field(default_factory=list)
    means: dict[Path, Mean] = field(default_factory=dict)
    scales: list[Scale] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    def step(self, place: Path, step: Any, operands: Sequence[Any], made: tuple[Any, Any], words: str) -> Counted:
        """Says what the results of a step have to do with how many units there are.

        Args:
          place: of the equation.
          step: its primitive and parameters.
          operands: values.
          made: its results: their axes, and their types.
          words: the step in words.
        """
        name, params = step.name, step.params
        axes, kind = made
        if name in ("dot_general", "conv_general_dilated"):
            dot, values = name == "dot_general", all(one.source != WEIGHTS for one in operands)
            over = params["dimension_numbers"][0][0] if dot else [params["dimension_numbers"].rhs_spec[1]]
            found = self._summed(place, name, operands[0 if dot else 1], over, is_statistic=values)
            for one in found:
                if any(side.source == CONSTANT and abs(side.counted.number or 0) != 1 for side in operands):
                    why = "a sum over the units is weighted by an array of the program's own"
                    self.doubts.append(Doubt(self.sums[one].nodes, why, words))
            return Counted(None, found, found)
        if name not in RECOMPUTED:
            return self._follow(place, name, operands, axes, _eps(kind.dtype), words)
        known = operands[0].counted
        if known.number is not None:
            lengths = [len(operands[0].axes[axis]) for axis in params["axes"]]
            return Counted(known.number * (math.prod(lengths) if name == "reduce_sum" else 1))
        found = self._summed(place, name, operands[0], params["axes"], is_statistic=True)
        return Counted(None, found if name == "reduce_sum" else NONE, known.touched | found, known.scales)

    def _summed(self, place: Path, name: str, value: Any, axes: Sequence[int], *, is_statistic: bool) -> frozenset[int]:
        """Notes a sum along axes, if any of their indices may go."""
        nodes = tuple(value.axes[axis] for axis in axes)
        if not any(one.any() for one in nodes):
            return NONE
        self.sums.append(Sum(place, name, tuple(axes), nodes, is_statistic))
        return frozenset((len(self.sums) - 1,))

    def _follow(
        self, place: Path, name: str, operands: Sequence[Any], axes: Sequence[Nodes], eps: float, step: str
    ) -> Counted:
        """The same for a step that is no sum, whose type rounds by eps."""
        known = [one.counted for one in operands]
        touched, scales = (frozenset().union(*(one[place] for one in known)) for place in (2, 3))
        number = _number(name, [one.number for one in known])
        if number is not None:
            return Counted(number)
        for operand in operands:
            if operand.counted.scales and operand.shape != tuple(map(len, axes)):
                alike = len(operand.axes) == len(axes)
                new = [(nodes,) for at, nodes in enumerate(axes) if not alike or len(operand.axes[at]) != len(nodes)]
                for one in operand.counted.scales:
                    self.scales[one].along += [nodes for nodes in new if nodes[0].any()]
        linear = known[0].linear if name in _SAME else NONE
        if name in ("add", "sub"):
            linear = frozenset().union(*(one.linear for one in known))
        if name in ("mul", "div"):
            sides = [at for at, one in enumerate(known) if one.number is not None]
            if sides:
                linear, scales = self._scaled(place, name, sides[0], operands, scales, eps, step)
        return Counted(None, linear, touched, scales)

    def _scaled(
        self,
        place: Path,
        name: str,
        side: int,
        operands: Sequence[Any],
        scales: frozenset[int],
        eps: float,
        step: str,
    ) -> tuple[frozenset[int], frozenset[int]]:
        """A product with, or a quotient by, a number of the program's own: a mean, or a scale."""
        number, other = float(operands[side].counted.number), operands[1 - side]
        sums = [self.sums[one] for one in sorted(other.counted.linear)]
        statistics = [one for one in sums if one.is_statistic]
        divided = name == "div" and side == 1
        if len(sums) == 1 and statistics and (name == "mul" or divided):
            count = statistics[0].terms
            if _near(number, count if divided else 1 / count, eps):
                self.means[place] = Mean(side, divided, statistics[0])
                return NONE, scales
        for one in statistics if abs(number) != 1 else ():
            how = "divided" if divided else "multiplied"
            why = f"a sum over the units is {how} by {number:g}, which is not the number of what it sums, {one.terms}"
            why = f"several sums over units are {how} by {number:g} together" if len(sums) > 1 else why
            self.doubts.append(Doubt(one.nodes, why, step))
        along = [(nodes,) for nodes in other.axes if nodes.any()]
        along += [self.sums[one].nodes for one in sorted(other.counted.touched)]
        self.scales.append(Scale(number, eps, step, along))
        return other.counted.linear, scales | {len(self.scales) - 1}

    def behind(self, operands: Sequence[Any]) -> Counted:
        """What the results of a function have to do with it that nothing is known of but its operands."""
        touched, scales = (frozenset().union(*(one.counted[place] for one in operands)) for place in (2, 3))
        return Counted(None, NONE, touched, scales)

    def leave(self, values: Sequence[Any], step: str) -> None:
        """Notes values that leave a loop, or a branch, behind which nothing is known of the sums that they are."""
        for value in values:
            for one in value.counted.linear:
                if self.sums[one].is_statistic:
                    why = "a sum over the units, and not their mean, leaves a loop or a branch"
                    self.doubts.append(Doubt(self.sums[one].nodes, why, step))

    def doubted(self, atoms: Collection[int], of: Any) -> list[Doubt]:
        """What cannot be followed where these classes are recomputed; ``of`` says the classes of nodes."""
        found = [one for one in self.doubts if any(of(nodes) & set(atoms) for nodes in one.nodes)]
        for scale in self.scales:
            for nodes in scale.along:
                count = math.prod(map(len, nodes))
                if (like := _like(scale.number, count, scale.eps)) and any(of(one) & set(atoms) for one in nodes):
                    why = f"what has to do with a statistic over the units is scaled by {scale.number:g}, {like}"
                    found.append(Doubt(nodes, f"{why}: whether it counts them cannot be told", scale.step))
        return found


def number_of(value: Any) -> float | None:
    """What all entries of an array are; None where they differ, are many, or no numbers."""
    values = np.asarray(value)
    if not 0 < values.size <= _MANY or jnp.issubdtype(values.dtype, jnp.complexfloating):
        return None
    first = values.reshape(-1)[0]
    return float(first) if (values == first).all() else None


def _eps(kind: Any) -> float:
    return float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else float(np.finfo(np.float32).eps)


def _number(name: str, numbers: Sequence[float | None]) -> float | None:
    if name not in _NUMBERS or any(one is None for one in numbers) or not numbers:
        return None
    with np.errstate(all="ignore"):
        return float(_NUMBERS[name](*numbers))


def _near(number: float, other: float, eps: float) -> bool:
    return abs(number - other) <= _ROUNDING * eps * abs(other)


def _like(number: float, count: int, eps: float) -> str:
    """Says which function of a count a number is; nothing where it is none."""
    if count < 2 or number == 0 or not math.isfinite(number):
        return ""
    named = {
        f"{count}, their number": count,
        f"the root of their number, {count}": math.sqrt(count),
        f"one less than their number, {count}": count - 1,
        f"{count} / {count - 1}": count / (count - 1),
        f"the root of {count} / {count - 1}": math.sqrt(count / (count - 1)),
    }
    for words, value in named.items():
        for told, one in ((words, value), (f"one over {words}", 1 / value)):
            if value != 1 and _near(abs(number), one, eps):
                return told
    return ""
