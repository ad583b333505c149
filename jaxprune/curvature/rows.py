"""The gradient of every example by one leaf, in a form that is fast to square, sum and multiply.

At a site z = W a the gradient of example n, for a signal d = dz, is sum_t a[n, t] d[n, t]^T over the positions t that
share W (pixels, tokens).  ``Rows`` holds a and puts d in order, both cut into groups that share no weights:

    inputs   [n, g, t, d]        signals   [n, g, t, k, o]        gradients   [n, g, d, k, o]

g groups, d inputs of a unit in the row-major order of the leaf, k signals side by side, o units.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.sites import Site, Survey
from jaxprune.sites.program import Program, apply, look


@dataclass(frozen=True)
class Rows:
    """The inputs of one site, and where its weights stand.

    Attributes:
      inputs: a, [n, g, t, d].  A bias or a scale has one weight in a unit, and here [n, 0].
      factor: what every weight is scaled by on its way to the site, [g, d, o]; for a bias or scale, the derivative of z
        by it, in the shape of z.
      index: the flat position in the leaf of every weight, [g, d, o].
      signal_axes: the axes of z in the order n, g, t, o, and how many there are of each.
    """

    inputs: Any
    factor: Any
    index: np.ndarray
    signal_axes: tuple[tuple[int, ...], ...]

    @property
    def has_inputs(self) -> bool:
        """Whether this is a product or a convolution, not a bias or a scale."""
        return self.inputs.ndim == 4

    def signals(self, signals: list[Any]) -> Any:
        """Puts signals of the shape of z in order: [n, g, t, k, o]."""
        examples, groups, positions, units = self.signal_axes
        stacked = jnp.stack(signals if self.has_inputs else [each * self.factor for each in signals], axis=-1)
        ordered = jnp.transpose(stacked, (*examples, *groups, *positions, stacked.ndim - 1, *units))
        if not self.has_inputs:
            ordered = jnp.sum(ordered, axis=tuple(range(1, 1 + len(groups) + len(positions))))
            return ordered.reshape(ordered.shape[0], 1, 1, len(signals), -1)
        shape = signals[0].shape
        count, size = shape[examples[0]], int(np.prod([shape[axis] for axis in positions], dtype=np.int64))
        if groups or self.index.shape[0] == 1:
            return ordered.reshape(count, self.index.shape[0], size, len(signals), self.index.shape[2])
        # The groups of a convolution are runs of its filters.
        split = ordered.reshape(count, size, len(signals), self.index.shape[0], self.index.shape[2])
        return jnp.moveaxis(split, 3, 1)

    def gradients(self, inputs: Any, signals: Any) -> Any:
        """Multiplies inputs and ordered signals of one example: [g, d, k, o]."""
        if not self.has_inputs:
            return signals
        rows = jnp.einsum("gtd,gtko->gdko", inputs, signals)
        return rows if self.factor is None else rows * self.factor[:, :, None, :]

    def of_unit(self, signals: Any, unit: Any) -> Any:
        """The gradients of all examples by one unit, a number in the order g, o: [n, k, d]."""
        group, output = unit // self.index.shape[2], unit % self.index.shape[2]
        own = signals[:, group, :, :, output]  # [n, t, k]
        if not self.has_inputs:
            return jnp.moveaxis(own, 1, 2)
        rows = jnp.einsum("ntd,ntk->nkd", self.inputs[:, group], own)
        return rows if self.factor is None else rows * self.factor[group, :, output]

    def squares(self, signals: Any, signs: Any) -> Any:
        """Sums the squared gradients: sum_{n,k} sign_{n,k} gradient^2, [g, d, o]."""
        if not self.has_inputs:
            return jnp.einsum("nk,ngtko->gto", signs, signals**2)
        if self.inputs.shape[2] == 1:
            total = jnp.einsum("ngtd,nk,ngtko->gdo", self.inputs**2, signs, signals**2)
        else:

            def add(total: Any, example: Any) -> tuple[Any, None]:
                inputs, signals, signs = example
                rows = jnp.einsum("gtd,gtko->gdko", inputs, signals)
                return total + jnp.einsum("gdko,k->gdo", rows**2, signs), None

            # One matrix product for each example, small enough for the cache.
            start = jnp.zeros(self.index.shape, signals.dtype)
            total, _ = jax.lax.scan(add, start, (self.inputs, signals, signs))
        return total if self.factor is None else total * self.factor**2

    def to_leaf(self, values: Any, like: Any) -> Any:
        """Puts values [g, d, o] at the places of their weights."""
        if np.array_equal(self.index.ravel(), np.arange(self.index.size)):
            return values.reshape(like.shape)
        return jnp.zeros(like.size, values.dtype).at[self.index.ravel()].set(values.ravel()).reshape(like.shape)

    def from_leaf(self, leaf: Any) -> Any:
        """Takes the weights of a leaf in the order [g, d, o]."""
        return leaf.ravel()[self.index]


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
    z = program.avals[site.output].shape
    if site.kind in ("add", "multiply"):
        factor = site.contribution(program, values)(jnp.ones(shape, program.avals[site.leaf].dtype))
        rest = tuple(axis for axis in range(len(z)) if axis != examples and axis not in site.output_axes)
        index = _positions(shape, (), (), site.unit_axes)
        return Rows(jnp.zeros((z[examples], 0)), factor, index, ((examples,), (), rest, site.output_axes))
    operand = look(values, site.operation(program).inputs[1 - site.position])
    prepare = _dense if site.kind == "dense" else _convolution
    inputs, index, signal_axes = prepare(site, site.operation(program).params, operand, examples, shape)
    # The order of the leaf, so that runs of inputs are those of ``partition``.
    order = np.argsort(index[0, :, 0], kind="stable")
    if not np.array_equal(order, np.arange(order.size)):
        inputs, index = inputs[..., order], index[:, order]
    return Rows(inputs, _factor(program, site, values, index), index, signal_axes)


def _factor(program: Program, site: Site, values: dict[int, Any], index: np.ndarray) -> Any:
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
    leaf = jnp.transpose(operand.reshape(sizes), np.argsort([*singles, *along]))
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
    taken = (*contracted[other], *batched[other])
    free = [axis for axis in range(operand.ndim) if axis not in taken]
    own = [axis for axis in range(len(site.axes)) if axis not in (*contracted[mine], *batched[mine])]
    groups = tuple(range(len(batched[0])))
    # z has the batch axes first, then the free ones of the left side, then those of the right side.
    left = len(groups) + (len(own) if mine == 0 else 0)
    right = len(groups) + (0 if mine == 0 else len(free))
    here = dict(zip(range(left, left + len(free)), free, strict=True))
    positions = tuple(axis for axis in here if axis != examples)
    order = (here[examples], *batched[other], *(here[axis] for axis in positions), *contracted[other])
    ordered = jnp.transpose(operand, order)
    sizes = [
        int(np.prod([operand.shape[axis] for axis in axes], dtype=np.int64))
        for axes in (batched[other], [here[axis] for axis in positions], contracted[other])
    ]
    index = _positions(
        shape, _leaf_axes(site, batched[mine]), _leaf_axes(site, contracted[mine]), _leaf_axes(site, own)
    )
    units = tuple(range(right, right + len(own)))
    return ordered.reshape(ordered.shape[0], *sizes), index, ((examples,), groups, positions, units)


def _convolution(site: Site, params: dict[str, Any], operand: Any, examples: int, shape: tuple[int, ...]) -> Any:
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    kernel = [_extent(site, shape, axis) for axis in numbers.rhs_spec[2:]]
    patches = _patches(
        jnp.transpose(operand, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])), kernel, params
    )
    count, positions, taps, channels = patches.shape
    split = patches.reshape(count, positions, taps, groups, channels // groups)
    inputs = jnp.moveaxis(split, 3, 1).reshape(count, groups, positions, -1)
    flat = _positions(
        shape,
        (),
        _leaf_axes(site, (*numbers.rhs_spec[2:], numbers.rhs_spec[1])),
        _leaf_axes(site, numbers.rhs_spec[:1]),
    )
    index = np.moveaxis(flat[0].reshape(flat.shape[1], groups, -1), 1, 0)
    return inputs, index, ((examples,), (), tuple(numbers.out_spec[2:]), (numbers.out_spec[1],))


def _extent(site: Site, shape: tuple[int, ...], axis: int) -> int:
    return int(np.prod([shape[each] for each in site.axes[axis] or ()], dtype=np.int64))


def _patches(images: Any, kernel: list[int], params: dict[str, Any]) -> Any:
    """Cuts [n, *space, c] into what every position of a convolution sees: [n, positions, taps, c].

    Strided slices of the padded input, one for each tap: XLA's own extraction of patches is a grouped convolution, ten
    times slower on CPU.
    """
    zero = jnp.zeros((), images.dtype)
    padding = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    padded = jax.lax.pad(images, zero, [(0, 0, 0), *padding, (0, 0, 0)])
    strides, dilations = params["window_strides"], params["rhs_dilation"]
    space = padded.shape[1:-1]
    steps = [
        (extent - (size - 1) * dilation - 1) // stride + 1
        for extent, size, dilation, stride in zip(space, kernel, dilations, strides, strict=True)
    ]
    slices = []
    for tap in itertools.product(*map(range, kernel)):
        start = [at * dilation for at, dilation in zip(tap, dilations, strict=True)]
        stop = [low + (count - 1) * stride + 1 for low, count, stride in zip(start, steps, strides, strict=True)]
        window = jax.lax.slice(padded, (0, *start, 0), (len(images), *stop, images.shape[-1]), (1, *strides, 1))
        slices.append(window.reshape(len(images), -1, images.shape[-1]))
    return jnp.stack(slices, axis=2)
