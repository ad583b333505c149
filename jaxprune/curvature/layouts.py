"""How the inputs and the signals of a site are laid out: static and equal by value, so that leaves share programs."""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.sites import Site, Survey, windows
from jaxprune.sites.axes import Along


@dataclass(frozen=True)
class Convolution:
    """How a convolution reads its input.

    Attributes:
      order: the axes of the input, (examples, *space, channels).
      sizes: the extent of the kernel along every axis of space.
      window: in which it slides.
      groups: that share no channels.
    """

    order: tuple[int, ...]
    sizes: tuple[int, ...]
    window: windows.Window
    groups: int


@dataclass(frozen=True)
class Layout:
    """Where inputs, signals and weights of one site stand.

    Attributes:
      shape: of the leaf.
      examples: where the examples of z lie.
      axes: the axes of a z with its examples first (see ``unfolded``) that make up g, t and o, in this order.
      weights: the axes of the leaf that make up g, d and o, in this order.
      operand: of a dense site: the axes of the other input, its examples first, that make up g, t and d.
      folded: where the examples of the other input lie.
      convolution: None: it is none.
    """

    shape: tuple[int, ...]
    examples: Along
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    weights: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    operand: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    folded: Along | None = None
    convolution: Convolution | None = None

    @cached_property
    def index(self) -> np.ndarray:
        """The flat position in the leaf of every weight, [g, d, o]; d in the order of the leaf."""
        return self._unordered[:, self._order]

    def prepared(self, operand: Any) -> Any:
        """Puts the examples of the other input of the operation first."""
        assert self.folded is not None
        if self.convolution is not None:
            operand = jnp.transpose(operand, self.convolution.order)
        return unfolded(operand, self.folded)

    def inputs(self, operand: Any) -> Any:
        """The inputs of one example, [g, t, d], from its part of the other input; of a scale, 1."""
        if self.convolution is None and self.operand is None:
            return jnp.ones((1, 1, 1), operand.dtype)
        cut = self._dense(operand) if self.convolution is None else self._windows(operand)
        # The order of the leaf, so that runs of inputs are those of ``partition``.
        return cut if np.array_equal(self._order, np.arange(self._order.size)) else cut[..., self._order]

    def signals(self, operand: Any, signals: list[Any]) -> Any:
        """The signals of one example, each of the shape of its z, in order: [g, t, k, o]."""
        return jnp.stack([self._ordered(operand, signal) for signal in signals], axis=2)

    def _ordered(self, operand: Any, signal: Any) -> Any:
        groups, positions, units = (tuple(axis - 1 for axis in axes) for axes in self.axes)
        count, outputs = self.index.shape[0], self.index.shape[2]
        if self.convolution is None and self.operand is None:
            along = signal if operand is None else signal * operand
            summed = jnp.sum(along, axis=positions, keepdims=True)
            return jnp.transpose(summed, (*positions, *units)).reshape(1, 1, outputs)
        ordered = jnp.transpose(signal, (*groups, *positions, *units))
        if groups or count == 1:
            return ordered.reshape(count, -1, outputs)
        # The groups of a convolution are runs of its filters.
        return jnp.moveaxis(ordered.reshape(-1, count, outputs), 1, 0)

    def _dense(self, example: Any) -> Any:
        assert self.operand is not None
        parts = [tuple(axis - 1 for axis in axes) for axes in self.operand]
        sizes = [int(np.prod([example.shape[axis] for axis in axes], dtype=np.int64)) for axes in parts]
        return jnp.transpose(example, tuple(itertools.chain(*parts))).reshape(sizes)

    def _windows(self, example: Any) -> Any:
        """[before, after, *space, c] -> what every position sees, [g, t, d]."""
        assert self.convolution is not None
        groups = self.convolution.groups
        images = example.reshape(-1, *example.shape[2:])
        seen = windows.taps(images, self.convolution.sizes, self.convolution.window)
        patches = jnp.stack([each.reshape(-1, each.shape[-1]) for _, each in seen], axis=1)  # [m t, taps, c]
        split = patches.reshape(*patches.shape[:2], groups, -1)
        return jnp.moveaxis(split, 2, 0).reshape(groups, len(patches), -1)

    @cached_property
    def _unordered(self) -> np.ndarray:
        flat = _positions(self.shape, *self.weights)
        if self.convolution is None:
            return flat
        # [1, taps x channels, filters]: the groups of a convolution are runs of its filters.
        return np.moveaxis(flat[0].reshape(flat.shape[1], self.convolution.groups, -1), 1, 0)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._unordered[0, :, 0], kind="stable")


def unfolded(values: Any, along: Along) -> Any:
    """Puts the examples first, and splits what was folded into their axis: [b, ..., before, after, ...]."""
    count = along.examples(values.shape)
    before, after = values.shape[: along.axis], values.shape[along.axis + 1 :]
    return jnp.moveaxis(values.reshape(*before, along.before, count, along.after, *after), along.axis + 1, 0)


def folded(values: Any, along: Along, shape: tuple[int, ...]) -> Any:
    """Undoes ``unfolded`` of values of this shape."""
    return jnp.moveaxis(values, 0, along.axis + 1).reshape(shape)


def _moved(axis: int, along: Along) -> tuple[int, ...]:
    """Where an axis stands after ``unfolded``; that of the examples leaves what was folded into it."""
    if axis == along.axis:
        return axis + 1, axis + 2
    return (axis + 1,) if axis < along.axis else (axis + 2,)


def layout(found: Survey, site: Site) -> Layout:
    """Says how the inputs and the signals of a site are laid out; its examples must be proven independent."""
    program, examples = found.program, found.proofs[site.path].examples
    assert examples is not None
    shape, rank = program.avals[site.leaf].shape, len(program.avals[site.output].shape)

    def moved(axes: Any) -> tuple[int, ...]:
        return tuple(itertools.chain.from_iterable(_moved(axis, examples) for axis in axes))

    if site.kind in ("add", "multiply"):
        rest = moved(axis for axis in range(rank) if axis not in site.output_axes)
        return Layout(shape, examples, ((), rest, moved(site.output_axes)), ((), (), site.unit_axes))
    params = site.operation(program).params
    if site.kind == "dense":
        return _dense(site, params, len(program.aval(_other(found, site)).shape), examples, shape)
    numbers = params["dimension_numbers"]
    convolution = Convolution(
        (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]),
        tuple(_extent(site, shape, axis) for axis in numbers.rhs_spec[2:]),
        windows.of(params),
        params["feature_group_count"],
    )
    axes = ((), moved((numbers.out_spec[0], *numbers.out_spec[2:])), moved((numbers.out_spec[1],)))
    taps = (*numbers.rhs_spec[2:], numbers.rhs_spec[1])
    weights = ((), _leaf_axes(site, taps), _leaf_axes(site, numbers.rhs_spec[:1]))
    folded = Along(0, examples.before, examples.after)
    return Layout(shape, examples, axes, weights, folded=folded, convolution=convolution)


def _other(found: Survey, site: Site) -> Any:
    return site.operation(found.program).inputs[1 - site.position]


def _dense(site: Site, params: dict[str, Any], rank: int, examples: Along, shape: tuple[int, ...]) -> Layout:
    contracted, batched = params["dimension_numbers"]
    mine, other = site.position, 1 - site.position
    free = [axis for axis in range(rank) if axis not in (*contracted[other], *batched[other])]
    own = [axis for axis in range(len(site.axes)) if axis not in (*contracted[mine], *batched[mine])]
    # z has the batch axes first, then the free ones of the left side, then those of the right side.
    groups = tuple(range(len(batched[0])))
    start = {mine: len(groups) + (len(free) if mine else 0), other: len(groups) + (0 if mine else len(own))}
    here = dict(zip(range(start[other], start[other] + len(free)), free, strict=True))
    folded = Along(here[examples.axis], examples.before, examples.after)

    def moved(axes: Any, along: Along) -> tuple[int, ...]:
        return tuple(itertools.chain.from_iterable(_moved(axis, along) for axis in axes))

    units = range(start[mine], start[mine] + len(own))
    axes = (moved(groups, examples), moved(here, examples), moved(units, examples))
    operand = (moved(batched[other], folded), moved(here.values(), folded), moved(contracted[other], folded))
    weights = (_leaf_axes(site, batched[mine]), _leaf_axes(site, contracted[mine]), _leaf_axes(site, own))
    return Layout(shape, examples, axes, weights, operand, folded)


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


def _extent(site: Site, shape: tuple[int, ...], axis: int) -> int:
    return int(np.prod([shape[each] for each in site.axes[axis] or ()], dtype=np.int64))
