"""Where the examples lie, against what changes in numbers if one example does."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jaxprune.sites.axes import MIXED, Along, follow
from jaxprune.sites.program import trace
from tests.sites import oracle
from tests.sites.oracle import every_along, normal, unfolded

B = 3


def test_along_says_where_examples_lie_in_row_major_order():
    assert Along(1, before=2, after=4).examples((5, 24)) == 3
    assert Along(0).examples((7, 2)) == 7
    assert Along(1, 2, 4).is_of((5, 24), 3)
    assert not Along(1, 2, 4).is_of((5, 12), 3)
    assert not Along(1, 2, 4).is_of((24,), 3)


def numbered(shape, along, examples):
    """The number of the example of every entry."""
    numbers = np.arange(shape[along.axis]) // along.after % examples
    return np.broadcast_to(np.expand_dims(numbers, [at for at in range(len(shape)) if at != along.axis]), shape)


def followed(function, shape, along, examples, touched=False):
    """Checks what is said of every value of a program; returns what is said of its output, and of all values.

    Every value is made again with one example moved: nothing else may move than that example's entries.  ``touched``:
    these have to.
    """
    program = trace(function, jax.ShapeDtypeStruct(shape, np.float64))
    found = follow(program, {program.arguments[0]: along})
    kept = [number for number, place in found.items() if place != MIXED]
    run = oracle.compiled(lambda x: program.run([x], {}, kept)[1], np.zeros(shape))
    at = normal(1, *shape)
    values = run(at)
    for example in range(examples):
        moved = run(at + np.where(numbered(shape, along, examples) == example, normal(2, *shape), 0))
        for number in kept:
            change = np.abs(unfolded(np.subtract(moved[number], values[number], dtype=float), found[number], examples))
            size = max(1, np.abs(values[number]).max(initial=0))
            others = np.delete(change, example, axis=0)
            assert others.max(initial=0) < 1e-12 * size, (program.steps, number, found[number])
            assert change[example].any() or not touched, (program.steps, number, found[number])
    return found.get(program.outputs[0]), found


# Every step with 3 examples among 12 indices of the first axis.  Where they lie then: the axis that it becomes.
FOLDED = (12, 4, 4, 2)
INDICES = np.array([2, 0, 0])


def _pullback(function):
    """The transpose of the derivative of a function at some values."""
    return lambda z: jax.vjp(function, normal(7, *FOLDED))[1](z)[0]


def _grouped(z):
    return _convolved(z, normal(3, 3, 3, 2, 6), batch_group_count=2)


def _pooled(z):
    return _pullback(lambda values: nn.max_pool(values, (2, 2), (2, 2)))(z[:, :2, :2])


KERNEL = normal(3, 3, 3, 2, 5)


def _convolved(z, kernel=KERNEL, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return jax.lax.conv_general_dilated(z, kernel, **options)


ALIKE = {
    "sum": (lambda z: z + 2 * z - z / 3, 0),
    "constants": (lambda z: -z * normal(1, *FOLDED) / (3 + np.abs(normal(2, *FOLDED))), 0),
    "constant of the left": (lambda z: normal(1, 12, 1, 1, 1) * z, 0),
    "select": (lambda z: jnp.where(normal(1, *FOLDED) > 0, z, -z), 0),
    "cast": (lambda z: z.astype(np.float32).astype(np.float64), 0),
    "transpose": (lambda z: z.transpose(1, 3, 0, 2), 2),
    "broadcast": (lambda z: jnp.broadcast_to(z[:, None], (5, 12, 3, 4, 4, 2)), 1),
    "squeeze": (lambda z: jnp.squeeze(z[None, :, :1], (0, 2)), 0),
    "sums": (lambda z: z.transpose(1, 2, 0, 3).sum(axis=(0, 3)), 1),
    "reshape of others": (lambda z: z.reshape(12, 2, 16).swapaxes(0, 1).reshape(2, 12, 4, 4), 1),
    "new axes": (lambda z: z.reshape(1, 12, 1, 32), 1),
    "cumsum": (lambda z: jnp.cumsum(z, axis=1), 0),
    "split": (lambda z: jnp.split(z, 2, axis=1)[1], 0),
    "concatenate": (lambda z: jnp.concatenate([z[:, 1:], normal(1, *FOLDED), z[:, :1]], axis=1), 0),
    "roll": (lambda z: jnp.roll(z, (1, -2), axis=(1, 2)), 0),
    "stack": (lambda z: jnp.stack([z, 2 * z]), 1),
    "stack behind": (lambda z: jnp.stack([z, 2 * z], axis=2), 0),
    "unstack": (lambda z: jnp.unstack(z.swapaxes(0, 1))[1], 0),
    "slice": (lambda z: z[:, 1:3, ::2], 0),
    "reverse": (lambda z: z[:, ::-1], 0),
    "pad": (lambda z: jnp.pad(z, ((0, 0), (1, 0), (0, 2), (0, 0))), 0),
    "dynamic slice": (lambda z: jax.lax.dynamic_slice_in_dim(z, jnp.argmax(normal(1, 3)), 2, axis=1), 0),
    "update": (lambda z: jax.lax.dynamic_update_slice_in_dim(z, z[:, :2] * 2, 1, axis=1), 0),
    "update a constant": (lambda z: jax.lax.dynamic_update_slice_in_dim(normal(1, 12, 9, 4, 2), z, 1, axis=1), 0),
    "product": (lambda z: jnp.einsum("ahwc,ck->ahwk", z, normal(1, 2, 3)), 0),
    "product from the left": (lambda z: jnp.einsum("hk,ahwc->kwac", normal(1, 4, 3), z), 2),
    "product on the right": (lambda z: jnp.tensordot(normal(1, 3, 4), z, axes=(1, 1)), 1),
    "products of each": (lambda z: jnp.einsum("ahwc,akc->ahwk", z, normal(1, 12, 3, 2)), 0),
    "products of each row of each": (lambda z: jnp.einsum("ahwc,hakc->hawk", z, normal(1, 4, 12, 3, 2)), 1),
    "products of each from the left": (lambda z: jnp.einsum("kac,ahwc->kahw", normal(1, 3, 12, 2), z), 1),
    "convolution": (_convolved, 0),
    "convolution transposed": (lambda z: _pullback(lambda at: _convolved(at)[..., :2])(z), 0),
    "depthwise": (lambda z: _convolved(z, normal(3, 3, 3, 1, 6), feature_group_count=2, rhs_dilation=(2, 2)), 0),
    "average pool": (lambda z: nn.avg_pool(z, (2, 2), (2, 2)), 0),
    "max pool": (_pooled, 0),
    "take": (lambda z: z[:, INDICES], 0),
    "take in the middle": (lambda z: z.swapaxes(0, 1)[:, :, INDICES], 1),
    "take for each": (
        lambda z: jax.vmap(lambda row, at: jax.lax.dynamic_index_in_dim(row, at))(z, np.arange(12) % 4),
        0,
    ),
    "add at": (lambda z: jnp.zeros((12, 7, 4, 2)).at[:, np.array([0, 2, 2, 6])].add(z), 0),
    "add at, for each": (
        lambda z: jax.vmap(lambda row, at: jnp.zeros((7, 4, 2)).at[at].add(row[0]))(z, np.arange(12) % 7),
        0,
    ),
    "set at": (lambda z: z.at[:, 1].set(0.5), 0),
    "nested": (jax.jit(jax.checkpoint(lambda z: 2 * z)), 0),
}
PLACES = [Along(0, after=4), Along(0, before=4), Along(0, before=2, after=2)]


@pytest.mark.parametrize("name", ALIKE)
def test_follow_keeps_what_is_merged_through_steps_that_work_alike_on_it(name):
    function, axis = ALIKE[name]
    for along in PLACES:
        got, found = followed(function, FOLDED, along, B, touched=True)
        assert got == replace(along, axis=axis), along
        assert MIXED not in found.values()


# Steps inside the axis that holds the examples.
INSIDE = {
    "first": lambda z: z[:1],
    "most": lambda z: z[1:],
    "strided": lambda z: z[::2],
    "reversed": lambda z: z[::-1],
    "rolled": lambda z: jnp.roll(z, 1, axis=0),
    "mean": lambda z: z.mean(axis=0),
    "centred": lambda z: z - z.mean(axis=0),
    "centred by tokens and examples": lambda z: z - z.reshape(12, 16, 2).mean(axis=(0, 1)),
    "summed up": lambda z: jnp.cumsum(z, axis=0),
    "concatenated": lambda z: jnp.concatenate([z, z]),
    "parts concatenated": lambda z: jnp.concatenate([z[1:], z[:1]]),
    "padded": lambda z: jnp.pad(z, ((1, 0), (0, 0), (0, 0), (0, 0)))[:-1],
    "shifted by padding": lambda z: jax.lax.pad(z, 0.5, [(1, -1, 0)] + 3 * [(0, 0, 0)]),
    "some of every group": _grouped,
    "window of rows": lambda z: jax.lax.dynamic_index_in_dim(z, jnp.argmax(normal(1, 3)), keepdims=False),
    "split": lambda z: jnp.split(z, 2)[0],
    "unstacked": lambda z: jnp.unstack(z)[0],
    "taken": lambda z: z[np.array([2, 0, 1] * 4)],
    "dynamic slice": lambda z: jax.lax.dynamic_slice_in_dim(z, jnp.argmax(normal(1, 3)), 6, axis=0),
    "updated": lambda z: jax.lax.dynamic_update_slice_in_dim(z, z[:1] * 2, 1, axis=0),
    "update of a larger": lambda z: jax.lax.dynamic_update_slice_in_dim(normal(1, 13, 4, 4, 2), z, 1, axis=0),
    "added at": lambda z: jnp.zeros((13, 4, 4, 2)).at[np.array([2, 0, 1] * 4)].add(z),
    "contracted": lambda z: jnp.einsum("ahwc,ab->bhwc", z, normal(1, 12, 12)),
    "contracted from the left": lambda z: jnp.einsum("ab,ahwc->bhwc", normal(1, 12, 12), z),
    "pooled": lambda z: nn.avg_pool(z.transpose(1, 0, 2, 3), (2, 1), padding="SAME"),
    "convolved": lambda z: _convolved(z.transpose(1, 0, 2, 3)),
    "batch for channels": lambda z: jax.lax.conv_general_dilated(
        z, normal(1, 5, 12, 1, 1), (1, 1), "SAME", dimension_numbers=("CHWN", "OIHW", "NHWC")
    ),
    "product with itself": lambda z: z * z,
    "condition": lambda z: jax.lax.select(
        jax.lax.convert_element_type_p.bind(z, new_dtype=np.dtype(bool), weak_type=False, sharding=None), z, z
    ),
    "divisor": lambda z: 1 / z,
    "cut through": lambda z: z.reshape(8, -1),
    "merged in two ways": lambda z: z + z.reshape(4, 3, *FOLDED[1:]).swapaxes(0, 1).reshape(FOLDED),
    "loop": lambda z: jax.lax.scan(lambda _, row: (None, 2 * row), None, z)[1],
}


@pytest.mark.parametrize("name", INSIDE)
def test_follow_gives_up_on_steps_inside_the_axis_of_the_examples(name):
    for along in PLACES:
        assert followed(INSIDE[name], FOLDED, along, B)[0] == MIXED, along


def _shapes(size, rank):
    if rank == 0:
        return [()] if size == 1 else []
    return [
        (first, *rest) for first in range(1, size + 1) if size % first == 0 for rest in _shapes(size // first, rank - 1)
    ]


@pytest.mark.parametrize("examples", [2, 3, 4])
def test_follow_finds_the_examples_in_every_reshape_that_leaves_them_whole(examples):
    shapes = [shape for rank in (1, 2, 3) for shape in _shapes(24, rank)]
    lost = 0
    for shape in shapes:
        program = trace(lambda x: [x.reshape(other) for other in shapes], jax.ShapeDtypeStruct(shape, np.float32))
        for along in every_along(shape, examples):
            found = follow(program, {program.arguments[0]: along})
            numbers = numbered(shape, along, examples)
            for atom, other in zip(program.outputs, shapes, strict=True):
                true = [
                    place
                    for place in every_along(other, examples)
                    if (numbered(other, place, examples) == numbers.reshape(other)).all()
                ]
                assert found[atom] in (true or [MIXED]), (shape, along, other)
                assert len(true) < 2
                lost += not true
    assert lost


def test_follow_tells_a_single_example_by_its_axis_and_never_loses_it():
    def output(function, shape, axis=0):
        return followed(function, shape, Along(axis), 1)[0]

    assert output(lambda z: z.reshape(4, 2), (1, 4, 2)) == Along(0, after=4)
    assert output(lambda z: z.reshape(4, 2).reshape(1, 4, 2) + z, (1, 4, 2)) == Along(0)
    assert output(lambda z: z.reshape(4, 2).reshape(4, 1, 2) + z, (4, 1, 2), 1) == Along(1)
    # Derivatives sum over axes of extent 1, to undo a broadcast.
    assert output(lambda z: z + z.sum(axis=(0, 2)).reshape(1, 4, 1), (1, 4, 2)) == Along(0)
    assert output(lambda z: z.sum(axis=0), (1, 4, 2)) == Along(0, before=4)
    assert output(lambda z: jnp.tanh(z @ z.swapaxes(1, 2)), (1, 4, 2)) == Along(0)
    assert output(jnp.sum, (1, 4, 2)) == MIXED
    assert output(lambda z: z + z.sum(), (1, 4, 2)) == Along(0)


def test_follow_takes_as_many_examples_from_every_input():
    program = trace(lambda y, z: y[:, None] + z, np.ones((6, 2)), np.ones((6, 4, 2)))
    one, other = program.arguments
    assert follow(program, {one: Along(0, 2), other: Along(0, 2)})[program.outputs[0]] == Along(0, 2)
    assert follow(program, {one: Along(0, 2), other: Along(0, 1, 2)})[program.outputs[0]] == MIXED
    assert follow(program, {other: Along(1)})[program.outputs[0]] == Along(1)
    assert follow(program, {}) == {}
    empty = trace(lambda z: z.reshape(0, 2), np.ones((3, 0)))
    assert follow(empty, {empty.arguments[0]: Along(0)})[empty.outputs[0]] == MIXED
    with pytest.raises(ValueError, match=r"as many examples in every input, but got \[3, 6\]"):
        follow(program, {one: Along(0), other: Along(0, after=2)})
    with pytest.raises(ValueError, match=r"as many examples"):
        follow(program, {one: Along(0, after=4)})


# Random programs of 24 numbers, of 2 examples: no axis can be told from another by its extent.
SHAPES = [shape for rank in (2, 3, 4) for shape in _shapes(24, rank) if 1 not in shape]
STEPS = {
    "reshape": lambda y, z, at: y.reshape(SHAPES[at % len(SHAPES)]) if y.size == 24 else y,
    "back": lambda y, z, at: y.reshape(z.shape) if y.size == z.size else y,
    "transpose": lambda y, z, at: y.transpose(list(itertools.permutations(range(y.ndim)))[at % math.factorial(y.ndim)]),
    "scale": lambda y, z, at: y * normal(at, *y.shape),
    "add": lambda y, z, at: y + z if y.shape == z.shape else y,
    "select": lambda y, z, at: jnp.where(normal(at, *y.shape) > 0, y, z) if y.shape == z.shape else -y,
    "concatenate": lambda y, z, at: jnp.concatenate([y, z if y.shape == z.shape else y], axis=at % y.ndim),
    "halve": lambda y, z, at: jax.lax.slice_in_dim(y, 0, (y.shape[at % y.ndim] + 1) // 2, axis=at % y.ndim),
    "roll": lambda y, z, at: jnp.roll(y, 1, axis=at % y.ndim),
    "reverse": lambda y, z, at: jnp.flip(y, axis=at % y.ndim),
    "cumsum": lambda y, z, at: jnp.cumsum(y, axis=at % y.ndim),
    "centre": lambda y, z, at: y - y.mean(axis=at % y.ndim, keepdims=True),
    "sum": lambda y, z, at: y.sum(axis=at % y.ndim) if y.ndim > 1 else y,
    "spread": lambda y, z, at: (
        jnp.broadcast_to(jnp.expand_dims(y, at % y.ndim), (*y.shape[: at % y.ndim], 2, *y.shape[at % y.ndim :]))
        if y.size < 30
        else y
    ),
    "take": lambda y, z, at: jnp.take(y, np.arange(y.shape[at % y.ndim])[::-1] // 2, axis=at % y.ndim),
    "matrix": lambda y, z, at: jnp.tensordot(y, normal(at, y.shape[at % y.ndim], 2), axes=(at % y.ndim, 0)),
    "matrices": lambda y, z, at: (
        jax.vmap(lambda row, matrix: row @ matrix)(y, normal(at, y.shape[0], y.shape[-1], 2)) if y.ndim > 1 else y
    ),
    "square": lambda y, z, at: y * z if y.shape == z.shape else y,
}
OFTEN = ["reshape", "reshape", "back", "transpose", "transpose", "add"]
PROGRAMS = st.lists(
    st.tuples(st.sampled_from(OFTEN + sorted(STEPS)), st.integers(0, 1), st.integers(0, 3), st.integers(0, 1000)),
    min_size=3,
    max_size=9,
)


def test_follow_says_nothing_false_of_a_random_program():
    seen = {"values": 0, "mixed": 0, "folded": 0}

    @settings(max_examples=120, phases=[Phase.generate])
    @given(PROGRAMS, st.sampled_from(SHAPES), st.integers(0, 1000))
    def check(steps, shape, place):
        def function(z):
            values = [z]
            for name, one, other, at in steps:
                values.append(STEPS[name](values[-1 - one % len(values)], values[-1 - other % len(values)], at))
            return values[-1]

        places = list(every_along(shape, 2))
        _, found = followed(function, shape, places[place % len(places)], 2)
        seen["values"] += len(found)
        seen["mixed"] += sum(along == MIXED for along in found.values())
        seen["folded"] += sum(along != MIXED and along.before * along.after > 1 for along in found.values())

    check()
    # Neither everything nor nothing.
    assert seen["folded"] > 0.1 * seen["values"], seen
    assert 0.1 * seen["values"] < seen["mixed"] < 0.7 * seen["values"], seen
