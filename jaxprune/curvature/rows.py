"""The gradient of every example by one leaf, in a form that is fast to square, sum and multiply.

At a site z = W a the gradient of an example, for a signal d = dz, is sum_t a[t] d[t]^T over the positions t that share
W (pixels, tokens).  ``Rows`` puts a and d of one example in order, both cut into groups that share no weights:

    inputs   [g, t, d]        signals   [g, t, k, o]        gradient   [g, d, k, o]

g groups, d inputs of a unit in the row-major order of the leaf, k signals side by side, o units.  A bias or a scale is
one input of a unit, g = t = d = 1.

Signals come in pairs, a left one and a right one (see ``columns``): first all left ones, then all right ones, or none
of these where both are the same.  Nothing here is narrower than float32, in half-precision networks too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.curvature.layouts import Layout, layout, unfolded
from jaxprune.sites import Site, Survey
from jaxprune.sites.program import Program, apply, look

# Steps on the way of a leaf that scale it.
_SCALING = ("mul", "div", "neg")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The inputs of one site, and how they are laid out.

    Leaves of equal layout share compiled programs.

    Attributes:
      operand: the other input of the operation, examples first; of a scale, the derivative of z by it; of a bias, None.
      scale: what every weight is scaled by on its way to the site, [g, d, o]; None: 1.
      layout: where everything stands.
    """

    operand: Any
    scale: Any
    layout: Layout = field(metadata={"static": True})

    def gradients(self, inputs: Any, signals: Any) -> list[Any]:
        """The gradients of one example, [g, d, o] for every signal, from inputs and signals in order."""
        count, outputs = signals.shape[2:]
        rows = jnp.einsum("gtd,gtx->gdx", inputs, signals.reshape(*signals.shape[:2], -1))
        each = [rows[:, :, place * outputs : (place + 1) * outputs] for place in range(count)]
        return each if self.scale is None else [gradient * self.scale for gradient in each]

    def over_examples(self, function: Callable[..., Any], start: Any, inputs: Any, ordered: Any, *more: Any) -> Any:
        """Folds ``function(total, gradients, *more)`` over the examples, gradients a list of k arrays [g, d, o].

        One example at a time, so that its gradients fit into the cache.  What is put in order before the loop (``all``)
        runs on every core; inside the loop it would not.
        """

        def add(total: Any, example: Any) -> tuple[Any, None]:
            inputs, ordered, *more = example
            return function(total, self.gradients(inputs, ordered), *more), None

        return jax.lax.scan(add, start, (inputs, ordered, *more))[0]

    def sum(self, function: Callable[[Any, Any], Any], signals: list[Any], weights: Any) -> Any:
        """Sums ``c_{n,k} function(left_{n,k} [g, d, o], right_{n,k})`` of gradients, over examples n and pairs k."""

        def add(total: Any, gradients: list[Any], weights: Any) -> Any:
            for left, right, weight in zip(*sides(gradients, len(weights)), weights, strict=True):
                total = total + (function(left, right) * weight).astype(total.dtype)
            return total

        start = jnp.zeros(self.layout.index.shape, jnp.result_type(weights, signals[0]))
        return self.over_examples(add, start, *self.all(signals), weights)

    def squares(self, signals: list[Any], weights: Any) -> Any:
        """Sums the products of the gradients of a pair: sum_{n,k} c_{n,k} left right, [g, d, o]."""
        inputs, ordered = self.all(signals)
        if inputs.shape[2] > 1:
            return self.sum(jnp.multiply, signals, weights)
        # One position: the square of a product is the product of the squares.
        left, right = sides(jnp.moveaxis(ordered[:, :, 0], 2, 0), weights.shape[1])
        squared = jnp.einsum("nk,kngo->ngo", weights, left * right)
        total = jnp.einsum("ngd,ngo->gdo", inputs[:, :, 0] ** 2, squared)
        return total if self.scale is None else total * self.scale**2

    @property
    def positions(self) -> int:
        """How many positions of an example share the weights of a unit, t."""
        if self.operand is None:
            return 1
        return jax.eval_shape(self.layout.inputs, jax.eval_shape(lambda: self.operand[0])).shape[1]

    def inputs(self, like: Any) -> Any:
        """The inputs of all examples, [n, g, t, d]; of a bias ones, as many as ``like`` has, and of its type."""
        if self.operand is None:
            return jnp.ones((len(like), 1, 1, 1), like.dtype)
        return tree.wide(jax.vmap(self.layout.inputs)(self.operand))

    def ordered(self, signals: list[Any]) -> Any:
        """The signals of all examples in order, [n, g, t, k, o]."""
        given = [unfolded(each, self.layout.examples) for each in signals]
        if self.operand is None:
            return tree.wide(jax.vmap(lambda each: self.layout.signals(None, each))(given))
        return tree.wide(jax.vmap(self.layout.signals)(self.operand, given))

    def all(self, signals: list[Any]) -> tuple[Any, Any]:
        """The inputs [n, g, t, d] and the signals [n, g, t, k, o] of all examples."""
        ordered = self.ordered(signals)
        return self.inputs(ordered), ordered

    def of_unit(self, inputs: Any, signals: Any, unit: Any, *, paired: bool = False) -> Any:
        """The gradients of all examples by one unit, a number in the order g, o: [n, k, d].

        Where there is one position they are multiples of the inputs, so that one row, or one pair, stands for all.
        """
        outputs = self.layout.index.shape[2]
        group, output = unit // outputs, unit % outputs
        own, signal = inputs[:, group], signals[:, group, :, :, output]  # [n, t, d], [n, t, k]
        if own.shape[1] == 1:
            if paired:
                left, right = jnp.split(signal, 2, axis=2)
                along = jnp.sum(left * right, axis=2, keepdims=True)
                signal = jnp.concatenate([along, jnp.ones_like(along)], axis=2)
            else:
                signal = jnp.sqrt(jnp.sum(signal**2, axis=2, keepdims=True))
        rows = jnp.einsum("ntd,ntk->nkd", own, signal)
        return rows if self.scale is None else rows * self.scale[group, :, output]

    def of_units(self, inputs: Any, signals: Any, units: Any) -> Any:
        """The gradients of all examples by some units of a site without groups: [units, n, k, d]."""
        own = signals[:, 0][..., units]  # [n, t, k, u]
        rows = jnp.moveaxis(jnp.einsum("ntku,ntd->nkud", own, inputs[:, 0]), 2, 0)
        return rows if self.scale is None else rows * self.scale[0].T[units][:, None, None]

    def to_leaf(self, values: Any) -> Any:
        """Puts values [g, d, o] at the places of their weights."""
        index = self.layout.index.ravel()
        if np.array_equal(index, np.arange(index.size)):
            return values.reshape(self.layout.shape)
        return values.ravel()[np.argsort(index)].reshape(self.layout.shape)

    def from_leaf(self, leaf: Any) -> Any:
        """Takes the weights of a leaf in the order [g, d, o]."""
        return leaf.ravel()[self.layout.index]


def sides(signals: Any, pairs: int) -> tuple[Any, Any]:
    """The left and the right ones; the same where there are no more signals than pairs."""
    return (signals, signals) if len(signals) == pairs else (signals[:pairs], signals[-pairs:])


def rows(found: Survey, site: Site, values: dict[int, Any]) -> Rows:
    """Prepares the gradients of every example at a site; its examples must be proven independent.

    Args:
      found: the survey of the network.
      site: where the leaf enters.
      values: holds what ``site.needs`` lists.
    """
    program, where = found.program, layout(found, site)
    scaled = any(program.steps[at].name in _SCALING for at in site.way[:-1])
    if site.kind == "add" and not scaled:
        operation = site.operation(program)
        last = program.steps[site.way[-2]].outputs[0] if len(site.way) > 1 else site.leaf
        negative = operation.name == "sub" and operation.inputs[1] == last
        return Rows(None, jnp.full(where.index.shape, -1.0) if negative else None, where)
    if site.kind in ("add", "multiply"):
        ones = jnp.ones(where.shape, program.avals[site.leaf].dtype)
        return Rows(unfolded(site.contribution(program, values)(ones), where.examples), None, where)
    operand = look(values, site.operation(program).inputs[1 - site.position])
    # Its square would be out of half precision where the scale is not.
    scale = tree.wide(_scale(program, site, values, where.index)) if scaled else None
    return Rows(where.prepared(operand), scale, where)


def _scale(program: Program, site: Site, values: dict[int, Any], index: np.ndarray) -> Any:
    """What every weight of a kernel is scaled by on its way to the site, [g, d, o]."""
    shape = program.avals[site.leaf].shape
    known = {**values, site.leaf: jnp.ones(shape, program.avals[site.leaf].dtype)}
    for at in site.way[:-1]:
        step = program.steps[at]
        known[step.outputs[0]] = apply(step, [look(known, atom) for atom in step.inputs])[0]
    operand = known[site.operation(program).inputs[site.position]]
    along = [axis for axes in site.axes for axis in axes or ()]
    singles = [axis for axis in range(len(shape)) if axis not in along]
    sizes = [shape[axis] for axis in (*singles, *along)]
    leaf = jnp.transpose(operand.reshape(sizes), np.argsort([*singles, *along]).tolist())
    return leaf.ravel()[index]
