"""The gradient of every example by one leaf, in a form that is fast to square, sum and multiply.

At a site z = W a the gradient of an example, for a signal d = dz, is sum_t a[t] d[t]^T over the positions t that share
W (pixels, tokens).  ``Rows`` puts a and d of one example in order, both cut into groups that share no weights:

    inputs   [g, t, d]        signals   [g, t, k, o]        gradient   [g, d, k, o]

g groups, d inputs of a unit in the row-major order of the leaf, k signals side by side, o units.  A bias or a scale is
one input of a unit, g = t = d = 1.

Signals come in pairs, a left one and a right one (see ``outputs``): first all left ones, then all right ones, or none
of these where both are the same.  Nothing here is narrower than float32, in half-precision networks too.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.sites import Site, Survey
from jaxprune.sites.program import Program, apply, look


@dataclass(frozen=True)
class Rows:
    """The inputs of one site, and where its weights stand.

    Attributes:
      operand: the other input of the operation, examples first; of a bias or scale, the derivative of z by it.
      cut: operand of one example -> inputs [g, t, d]; None for a bias or scale.
      scale: what every weight is scaled by on its way to the site, [g, d, o]; None: 1.
      index: the flat position in the leaf of every weight, [g, d, o].
      examples: the axis of z that counts the examples.
      axes: the other axes of z that make up g, t and o, in this order.
    """

    operand: Any
    cut: Callable[[Any], Any] | None
    scale: Any
    index: np.ndarray
    examples: int
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def first(self, values: Any) -> Any:
        """Moves the axis of the examples of a value of the shape of z to the front."""
        return jnp.moveaxis(values, self.examples, 0)

    def inputs(self, operand: Any) -> Any:
        """The inputs of one example, [g, t, d]."""
        return jnp.ones((1, 1, 1), operand.dtype) if self.cut is None else self.cut(operand)

    def signals(self, operand: Any, signals: list[Any]) -> Any:
        """The signals of one example, each of the shape of its z, in order: [g, t, k, o]."""
        return jnp.stack([self._ordered(operand, signal) for signal in signals], axis=2)

    def _ordered(self, operand: Any, signal: Any) -> Any:
        groups, positions, units = (tuple(axis - (axis > self.examples) for axis in axes) for axes in self.axes)
        count, outputs = self.index.shape[0], self.index.shape[2]
        if self.cut is None:
            return jnp.transpose(
                jnp.sum(signal * operand, axis=positions, keepdims=True), (*positions, *units)
            ).reshape(1, 1, outputs)
        ordered = jnp.transpose(signal, (*groups, *positions, *units))
        if groups or count == 1:
            return ordered.reshape(count, -1, outputs)
        # The groups of a convolution are runs of its filters.
        return jnp.moveaxis(ordered.reshape(-1, count, outputs), 1, 0)

    def gradients(self, inputs: Any, signals: Any) -> list[Any]:
        """The gradients of one example, [g, d, o] for every signal, from inputs and signals in order."""
        count, outputs = signals.shape[2:]
        rows = jnp.einsum("gtd,gtx->gdx", inputs, signals.reshape(*signals.shape[:2], -1))
        each = [rows[:, :, place * outputs : (place + 1) * outputs] for place in range(count)]
        return each if self.scale is None else [gradient * self.scale for gradient in each]

    def sum(self, function: Callable[[Any, Any], Any], signals: list[Any], weights: Any) -> Any:
        """Sums ``c_{n,k} function(left_{n,k} [g, d, o], right_{n,k})`` of the gradients, over examples n and pairs k.

        One example at a time, so that its gradients fit into the cache.  What is put in order before the loop runs on
        every core; inside the loop it would not.
        """

        def add(total: Any, example: Any) -> tuple[Any, None]:
            inputs, signals, weights = example
            gradients = self.gradients(inputs, signals)
            for left, right, weight in zip(*_sides(gradients, len(weights)), weights, strict=True):
                total = total + (function(left, right) * weight).astype(total.dtype)
            return total, None

        start = jnp.zeros(self.index.shape, jnp.result_type(weights, signals[0]))
        return jax.lax.scan(add, start, (*self.all(signals), weights))[0]

    def squares(self, signals: list[Any], weights: Any) -> Any:
        """Sums the products of the gradients of a pair: sum_{n,k} c_{n,k} left right, [g, d, o]."""
        if self.cut is not None and self.axes[1]:
            return self.sum(jnp.multiply, signals, weights)
        # One position: the square of a product is the product of the squares.
        inputs, ordered = self.all(signals)
        left, right = _sides(jnp.moveaxis(ordered[:, :, 0], 2, 0), weights.shape[1])
        squared = jnp.einsum("nk,kngo->ngo", weights, left * right)
        total = jnp.einsum("ngd,ngo->gdo", inputs[:, :, 0] ** 2, squared)
        return total if self.scale is None else total * self.scale**2

    def all(self, signals: list[Any]) -> tuple[Any, Any]:
        """The inputs [n, g, t, d] and the signals [n, g, t, k, o] of all examples."""
        ordered = jax.vmap(self.signals)(self.operand, [self.first(each) for each in signals])
        return tree.wide((jax.vmap(self.inputs)(self.operand), ordered))

    def of_unit(self, inputs: Any, signals: Any, weights: Any, unit: Any) -> tuple[Any, Any]:
        """The gradients of all examples by one unit, a number in the order g, o: [n, k, d], and their weights [n, k].

        Where there is one position they are multiples of the inputs, so that one row stands for all signals.
        """
        group, output = unit // self.index.shape[2], unit % self.index.shape[2]
        own, signal = inputs[:, group], signals[:, group, :, :, output]  # [n, t, d], [n, t, k]
        if own.shape[1] == 1:
            left, right = _sides(jnp.moveaxis(signal[:, 0], 1, 0), weights.shape[1])
            rows, weights = own, jnp.sum(weights * (left * right).T, axis=1, keepdims=True)
        else:
            rows = jnp.einsum("ntd,ntk->nkd", own, signal)
        return rows if self.scale is None else rows * self.scale[group, :, output], weights

    def to_leaf(self, values: Any, like: Any) -> Any:
        """Puts values [g, d, o] at the places of their weights."""
        if np.array_equal(self.index.ravel(), np.arange(self.index.size)):
            return values.reshape(like.shape)
        return values.ravel()[np.argsort(self.index.ravel())].reshape(like.shape)

    def from_leaf(self, leaf: Any) -> Any:
        """Takes the weights of a leaf in the order [g, d, o]."""
        return leaf.ravel()[self.index]


def _sides(signals: Any, pairs: int) -> tuple[Any, Any]:
    """The left and the right ones; the same where there are no more signals than pairs."""
    return signals[:pairs], signals[-pairs:]


def rows(found: Survey, site: Site, values: dict[int, Any]) -> Rows:
    """Prepares the gradients of every example at a site; its examples must be proven independent.

    Args:
      found: the survey of the network.
      site: where the leaf enters.
      values: holds what ``site.needs`` lists.
    """
    program, examples = found.program, found.proofs[site.path].examples
    assert examples is not None
    shape = program.avals[site.leaf].shape
    if site.kind in ("add", "multiply"):
        derivative = site.contribution(program, values)(jnp.ones(shape, program.avals[site.leaf].dtype))
        rank = len(program.avals[site.output].shape)
        rest = tuple(axis for axis in range(rank) if axis != examples and axis not in site.output_axes)
        index = _positions(shape, (), (), site.unit_axes)
        operand = jnp.moveaxis(derivative, examples, 0)
        return Rows(operand, None, None, index, examples, ((), rest, site.output_axes))
    operand = look(values, site.operation(program).inputs[1 - site.position])
    prepare = _dense if site.kind == "dense" else _convolution
    operand, cut, index, axes = prepare(site, site.operation(program).params, operand, examples, shape)
    # The order of the leaf, so that runs of inputs are those of ``partition``.
    order = np.argsort(index[0, :, 0], kind="stable")
    index = index[:, order]
    in_order = cut if np.array_equal(order, np.arange(order.size)) else lambda example: cut(example)[..., order]
    return Rows(operand, in_order, _scale(program, site, values, index), index, examples, axes)


def _scale(program: Program, site: Site, values: dict[int, Any], index: np.ndarray) -> Any:
    if not any(program.steps[at].name in ("mul", "div", "neg") for at in site.way[:-1]):
        return None
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


def _positions(
    shape: tuple[int, ...], groups: tuple[int, ...], inputs: tuple[int, ...], units: tuple[int, ...]
) -> np.ndarray:
    """The flat positions [g, d, o] in a leaf of that shape, from the axes that make up each."""
    singles = [axis for axis in range(len(shape)) if axis not in (*groups, *inputs, *units)]
    places = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    sizes = [int(np.prod([shape[axis] for axis in axes], dtype=np.int64)) for axes in (groups, inputs, units)]
    return places.transpose([*singles, *groups, *inputs, *units]).reshape(sizes)


def _leaf_axes(site: Site, axes: Any) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(site.axes[axis] or () for axis in axes))


def _dense(site: Site, params: dict[str, Any], operand: Any, examples: int, shape: tuple[int, ...]) -> Any:
    contracted, batched = params["dimension_numbers"]
    mine, other = site.position, 1 - site.position
    free = [axis for axis in range(operand.ndim) if axis not in (*contracted[other], *batched[other])]
    own = [axis for axis in range(len(site.axes)) if axis not in (*contracted[mine], *batched[mine])]
    # z has the batch axes first, then the free ones of the left side, then those of the right side.
    groups = tuple(range(len(batched[0])))
    start = {mine: len(groups) + (len(free) if mine else 0), other: len(groups) + (0 if mine else len(own))}
    here = dict(zip(range(start[other], start[other] + len(free)), free, strict=True))
    positions = tuple(axis for axis in here if axis != examples)
    parts = (batched[other], [here[axis] for axis in positions], contracted[other])
    ordered = jnp.transpose(operand, (here[examples], *itertools.chain(*parts)))
    sizes = [int(np.prod([operand.shape[axis] for axis in axes], dtype=np.int64)) for axes in parts]
    index = _positions(
        shape, _leaf_axes(site, batched[mine]), _leaf_axes(site, contracted[mine]), _leaf_axes(site, own)
    )
    units = tuple(range(start[mine], start[mine] + len(own)))
    return ordered, lambda example: example.reshape(sizes), index, (groups, positions, units)


def _convolution(site: Site, params: dict[str, Any], operand: Any, examples: int, shape: tuple[int, ...]) -> Any:
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    kernel = [_extent(site, shape, axis) for axis in numbers.rhs_spec[2:]]
    images = jnp.transpose(operand, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))

    def cut(image: Any) -> Any:
        patches = _patches(image, kernel, params)  # [t, taps, c]
        split = patches.reshape(*patches.shape[:2], groups, -1)
        return jnp.moveaxis(split, 2, 0).reshape(groups, len(patches), -1)

    taps = (*numbers.rhs_spec[2:], numbers.rhs_spec[1])
    flat = _positions(shape, (), _leaf_axes(site, taps), _leaf_axes(site, numbers.rhs_spec[:1]))
    index = np.moveaxis(flat[0].reshape(flat.shape[1], groups, -1), 1, 0)
    return images, cut, index, ((), tuple(numbers.out_spec[2:]), (numbers.out_spec[1],))


def _extent(site: Site, shape: tuple[int, ...], axis: int) -> int:
    return int(np.prod([shape[each] for each in site.axes[axis] or ()], dtype=np.int64))


def _patches(image: Any, kernel: list[int], params: dict[str, Any]) -> Any:
    """Cuts [*space, c] into what every position of a convolution sees: [positions, taps, c].

    Strided slices of the padded input, one for each tap: XLA's own extraction of patches is a grouped convolution, ten
    times slower on CPU.
    """
    edges = zip(params["padding"], params["lhs_dilation"], strict=True)
    padding = [(low, high, dilation - 1) for (low, high), dilation in edges]
    padded = jax.lax.pad(image, jnp.zeros((), image.dtype), [*padding, (0, 0, 0)])
    strides, dilations, channels = params["window_strides"], params["rhs_dilation"], image.shape[-1]
    steps = [
        (extent - (size - 1) * dilation - 1) // stride + 1
        for extent, size, dilation, stride in zip(padded.shape, kernel, dilations, strides, strict=False)
    ]
    slices = []
    for tap in itertools.product(*map(range, kernel)):
        start = [at * dilation for at, dilation in zip(tap, dilations, strict=True)]
        stop = [low + (count - 1) * stride + 1 for low, count, stride in zip(start, steps, strides, strict=True)]
        window = jax.lax.slice(padded, (*start, 0), (*stop, channels), (*strides, 1))
        slices.append(window.reshape(-1, channels))
    return jnp.stack(slices, axis=1)
