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

import numpy as np

from jaxprune.structured.discovery.indices import CONSTANT, WEIGHTS, Nodes
from jaxprune.structured.discovery.likeness import is_count, is_plain, like, rounding, told

Path = tuple[int, ...]
NONE: frozenset[int] = frozenset()

RECOMPUTED = frozenset(["reduce_sum", "reduce_max", "reduce_min"])
"""Statistics that can be taken over fewer units."""

_SHIFTS = frozenset(["add", "sub", "add_any", "max", "min", "select_n", "clamp"])
_COPIES = frozenset(["convert_element_type", "copy", "copy_p", "neg", "name", "stop_gradient", "sharding_constraint"])
_MOVES = frozenset(["transpose", "squeeze", "broadcast_in_dim", "reshape", "slice", "split", "rev", "tile", "pad"])
_LAYS = frozenset(["dynamic_slice", "concatenate", "stack", "unstack", "reduce_precision", "optimization_barrier"])
# What is done to a sum, and to what is divided by a number, in either order.
_LINEAR = _SHIFTS | _COPIES | _MOVES | _LAYS
_TOLD = frozenset(["sign", "is_finite", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "argmax", "argmin"])
_BENT = frozenset(["exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "erf", "erfc"])
# What is no multiple of anything, whatever its operand is a multiple of.
_CURVED = _TOLD | _BENT | {"erf_inv", "floor", "ceil", "round"}
_MEETING = _SHIFTS | {"mul", "div", "pow", "atan2", "rem", "dot_general", "conv_general_dilated"}
# Different numbers in an array that is added: where there are more, it is a table.
_TABLE = 64


class Counted(NamedTuple):
    """What a value has to do with how many units there are.

    Attributes:
      numbers: its different entries, where they are the program's own and known.
      eps: the rounding of the coarsest type that such a number came through.
      linear: the sums over units that it is, but for its layout, for what is added and for other factors.
      open: the sums over units that it is a multiple of a power of, none of them divided by their number.
      touched: the sums over units that it is made of, since the last product.
      scales: the numbers that it was multiplied by, since the last product.
      factored: whether it is a multiple of such a number.
    """

    numbers: np.ndarray | None = None
    eps: float = 0.0
    linear: frozenset[int] = NONE
    open: frozenset[int] = NONE
    touched: frozenset[int] = NONE
    scales: frozenset[int] = NONE
    factored: bool = False


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
    """Numbers of the program's own that multiply or divide something, or are added to a statistic.

    Attributes:
      place: of the equation.
      numbers: they.
      eps: the rounding of their type.
      step: in words.
      along: the axes, or axes summed over together, that it may say the length of.
    """

    place: Path
    numbers: np.ndarray
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
        known = [one.counted for one in operands]
        self._meet(name, operands, words)
        if name not in RECOMPUTED and name not in ("dot_general", "conv_general_dilated"):
            return self._follow(place, name, operands, made, words)
        if name in RECOMPUTED:
            found = self._summed(place, name, operands[0], params["axes"], is_statistic=True)
            linear = known[0].linear | (found if name == "reduce_sum" else NONE)
            return known[0]._replace(linear=linear, open=known[0].open | linear, touched=known[0].touched | found)
        dot, values = name == "dot_general", all(one.source != WEIGHTS for one in operands)
        over = params["dimension_numbers"][0][0] if dot else [params["dimension_numbers"].rhs_spec[1]]
        found = self._summed(place, name, operands[0 if dot else 1], over, is_statistic=values)
        for one in found:
            if any(side.source == CONSTANT and not is_plain(side.counted.numbers) for side in operands):
                why = "a sum over the units is weighted by an array of the program's own"
                self.doubts.append(Doubt(self.sums[one].nodes, why, words))
        inside, open_sums = _union(known, "linear"), _union(known, "open")
        factored = any(one.factored for one in known)
        if not values:
            self._unfollowed(known, words)
        for one in open_sums:
            if any(side.source == CONSTANT and not is_plain(side.counted.numbers) for side in operands):
                why = "a sum over the units is multiplied by an array of the program's own"
                self.doubts.append(Doubt(self.sums[one].nodes, why, words))
        own = found if values else NONE
        linear = inside if all(not one.open or one.linear for one in known) else NONE
        return Counted(None, 0.0, linear | own, open_sums | own, found, NONE, factored and values)

    def _meet(self, name: str, operands: Sequence[Any], step: str) -> None:
        """Doubts what numbers of the program's own meet that cannot be worked out."""
        if name not in _MEETING or not any(one.source == CONSTANT and one.counted.numbers is None for one in operands):
            return
        nodes = [
            nodes for sum_ in _union([one.counted for one in operands], "touched") for nodes in self.sums[sum_].nodes
        ]
        if name not in _SHIFTS:
            nodes += [nodes for one in operands if one.source != CONSTANT for nodes in one.axes if nodes.any()]
        if nodes:
            why = "numbers of the program's own that cannot be worked out meet a statistic over the units, or these"
            self.doubts.append(Doubt(tuple(nodes), why, step))

    def _unfollowed(self, known: Sequence[Counted], step: str) -> None:
        """Doubts sums that nothing divides, where they meet what a number multiplies, which may hide their number."""
        if any(one.factored for one in known):
            for one in _union(known, "open"):
                why = "a sum over the units that is not divided by their number meets what a number multiplies"
                self.doubts.append(Doubt(self.sums[one].nodes, why, step))

    def own(self, place: Path, step: Any, operand: Any, words: str) -> None:
        """Notes a sum of numbers of the program's own: which of them would go cannot be told, unless they are alike."""
        found = self._summed(place, step.name, operand, step.params["axes"], is_statistic=True)
        for one in found if operand.counted.numbers is None or len(operand.counted.numbers) > 1 else ():
            why = "different numbers of the program's own are summed along the units"
            self.doubts.append(Doubt(self.sums[one].nodes, why, words))

    def _summed(self, place: Path, name: str, value: Any, axes: Sequence[int], *, is_statistic: bool) -> frozenset[int]:
        """Notes a sum along axes, if any of their indices may go."""
        nodes = tuple(value.axes[axis] for axis in axes)
        if not any(one.any() for one in nodes):
            return NONE
        self.sums.append(Sum(place, name, tuple(axes), nodes, is_statistic))
        return frozenset((len(self.sums) - 1,))

    def _follow(
        self, place: Path, name: str, operands: Sequence[Any], made: tuple[Sequence[Nodes], Any], step: str
    ) -> Counted:
        """The same for a step that is no sum."""
        known, (axes, kind) = [one.counted for one in operands], made
        touched, scales = _union(known, "touched"), _union(known, "scales")
        for operand in operands:
            if operand.counted.scales and operand.shape != tuple(map(len, axes)):
                alike = len(operand.axes) == len(axes)
                new = [(nodes,) for at, nodes in enumerate(axes) if not alike or len(operand.axes[at]) != len(nodes)]
                for one in operand.counted.scales:
                    self.scales[one].along += [nodes for nodes in new if nodes[0].any()]
        own = [at for at, one in enumerate(operands) if one.source == CONSTANT and one.counted.numbers is not None]
        if name in ("mul", "div") and own:
            return self._scaled(place, name, own[0], operands, kind, step)
        if name in _SHIFTS and touched:
            for at in own:
                if len(known[at].numbers) <= _TABLE:
                    self._noted(place, operands, at, kind, step)
        if name in _LINEAR:
            linear = _union(known, "linear")
            return Counted(
                None, 0.0, linear, _union(known, "open"), touched, scales, any(one.factored for one in known)
            )
        self._unfollowed(known, step)
        if name in _CURVED:
            return Counted(None, 0.0, NONE, NONE, touched, scales)
        linear = NONE
        if (name == "mul" and sum(bool(one.open) for one in known) == 1) or (name == "div" and not known[1].open):
            linear = _union(known, "linear")
        return Counted(None, 0.0, linear, _union(known, "open"), touched, scales, any(one.factored for one in known))

    def _scaled(self, place: Path, name: str, side: int, operands: Sequence[Any], kind: Any, step: str) -> Counted:
        """A product with, or a quotient by, numbers of the program's own: a mean, or a scale."""
        number, known = operands[side].counted, operands[1 - side].counted
        sums, divided = [self.sums[one] for one in sorted(known.open)], name == "div" and side == 1
        if len(sums) == 1 and known.open == known.linear and (name == "mul" or divided):
            count = sums[0].terms
            if is_count(number.numbers, number.eps, count, divided, kind.dtype):
                self.means[place] = Mean(side, divided, sums[0])
                return known._replace(linear=NONE, open=NONE)
        if is_plain(number.numbers):
            return known if name == "mul" or divided else known._replace(linear=NONE)
        how, which = "divided" if divided else "multiplied", told(number.numbers)
        for one in sums:
            of = "the number" if divided else "one over the number"
            why = f"a sum over the units is {how} by {which}, which is not {of} of what it sums, {one.terms}"
            why = why if known.open == known.linear else f"a power of a sum over the units is {how} by {which}"
            why = f"several sums over units are {how} by {which} together" if len(sums) > 1 else why
            self.doubts.append(Doubt(one.nodes, why, step))
        new = self._noted(place, operands, side, kind, step)
        linear = known.linear if name == "mul" or divided else NONE
        return known._replace(linear=linear, scales=known.scales | {new}, factored=True)

    def _noted(self, place: Path, operands: Sequence[Any], side: int, kind: Any, step: str) -> int:
        """Notes numbers, and the axes that they may say the length of."""
        others, number = [one for at, one in enumerate(operands) if at != side], operands[side].counted
        along = [(nodes,) for one in others for nodes in one.axes if nodes.any()]
        along += [self.sums[one].nodes for one in sorted(_union([one.counted for one in others], "touched"))]
        self.scales.append(Scale(place, number.numbers, max(number.eps, rounding(kind)), step, along))
        return len(self.scales) - 1

    def behind(self, operands: Sequence[Any]) -> Counted:
        """What the results of a function have to do with it that nothing is known of but its operands."""
        known = [one.counted for one in operands]
        return passed(known)._replace(open=_union(known, "open"), factored=any(one.factored for one in known))

    def leave(self, values: Sequence[Any], step: str) -> None:
        """Notes values that enter a loop, or leave one or a branch, behind which sums are not followed."""
        for value in values:
            for one in value.counted.open:
                why = "a sum over the units, and not their mean, enters or leaves a loop or a branch"
                self.doubts.append(Doubt(self.sums[one].nodes, why, step))

    def places(self, value: Counted) -> tuple[set[Path], set[Path]]:
        """Where what a value is made of was summed and multiplied: in every turn of a loop anew."""
        return {self.sums[one].place for one in value.touched}, {self.scales[one].place for one in value.scales}

    def doubted(self, atoms: Collection[int], of: Any) -> list[Doubt]:
        """What cannot be followed where these classes are recomputed; ``of`` says the classes of nodes."""
        found = [one for one in self.doubts if any(of(nodes) & set(atoms) for nodes in one.nodes)]
        for scale in self.scales:
            for nodes in scale.along:
                which = like(scale.numbers, math.prod(map(len, nodes)), scale.eps)
                if which and any(of(one) & set(atoms) for one in nodes):
                    why = f"what has to do with a statistic over the units meets {which}"
                    found.append(Doubt(nodes, f"{why}: whether it counts them cannot be told", scale.step))
        return found


def passed(values: Sequence[Counted]) -> Counted:
    """What is left of values behind a loop or a branch."""
    return Counted(touched=_union(values, "touched"), scales=_union(values, "scales"))


def _union(known: Sequence[Counted], field_: str) -> frozenset[int]:
    return frozenset().union(*(getattr(one, field_) for one in known))
