"""Depthwise convolutions as sums of slices, and all their derivatives, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.sites import depthwise, rules, survey
from jaxprune.sites.program import trace
from jaxprune.sites.windows import Window
from tests.curvature.networks import normal

pytestmark = pytest.mark.usefixtures("same_rank")

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
LAST = {"dimension_numbers": LAYOUTS[2], "feature_group_count": 3}


def step_of(images, kernel, strides=(1, 1), padding="SAME", **options):
    """The only step of a program that convolves."""
    (step,) = trace(lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options), images, kernel).steps
    return step


CASES = [
    ((2, 5, 6, 3), (3, 3, 1, 3), (1, 1), "SAME", LAST),
    ((2, 5, 6, 3), (2, 3, 1, 3), (2, 1), "SAME", LAST),
    ((2, 7, 6, 3), (3, 2, 1, 3), (1, 2), ((2, -1), (0, 3)), LAST),
    ((2, 8, 7, 3), (3, 2, 1, 3), (2, 1), "VALID", {**LAST, "rhs_dilation": (2, 3)}),
    ((2, 3, 5, 6), (3, 1, 3, 3), (1, 1), "SAME", {"feature_group_count": 3}),  # channels first, as PyTorch has them
    ((2, 9, 3), (4, 1, 3), (3,), "SAME", {**LAST, "dimension_numbers": LAYOUTS[1]}),
    ((1, 4, 3, 5, 3), (2, 2, 3, 1, 3), (1, 2, 1), "SAME", {**LAST, "dimension_numbers": LAYOUTS[3]}),
    ((2, 2, 2, 3), (3, 3, 1, 3), (1, 1), "VALID", LAST),  # nothing is left
    ((2, 9, 8, 3), (3, 2, 1, 3), (4, 3), "VALID", LAST),  # some pixels are never seen
]


def both_sides(images, kernel, strides, padding, options):
    """The same convolution twice, as slices and as XLA has it; with an input and a direction of each."""
    given, along = (normal(0, *images), normal(1, *kernel)), (normal(2, *images), normal(3, *kernel))
    step = step_of(*given, strides, padding, **options)
    assert depthwise.slices_serve(step.params, *given)
    sides = (
        lambda x, w: depthwise.of_slices(step.params, x, w),
        lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options),
    )
    return sides, given, along


def agree(sides, found):
    """Compares what is made of either side."""
    for got, expected in zip(*(jax.tree.leaves(found(side)) for side in sides), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_of_slices_is_the_convolution_with_its_derivatives_of_every_order(case):
    sides, given, along = both_sides(*case)

    def found(side):
        def loss(x, w):
            made = side(x, w)
            return jnp.sum(jnp.sin(made) * normal(4, *made.shape))

        slope = jax.grad(loss, (0, 1))
        curve = lambda x, w: jax.jvp(slope, (x, w), along)[1]  # noqa: E731
        inner = lambda x, w: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope(x, w), along)))  # noqa: E731
        return (
            jax.jvp(side, given, along),
            slope(*given),
            curve(*given),
            jax.grad(inner, (0, 1))(*given),  # the same, backward twice
            jax.jvp(curve, given, along)[1],
        )

    agree(sides, found)


@pytest.mark.parametrize("mapped", [(1, None), (None, 1), (2, 0)])
@pytest.mark.parametrize("case", CASES[1:4])
def test_of_slices_maps_over_either_input(case, mapped):
    sides, given, along = both_sides(*case)
    many = [
        one if axis is None else jnp.stack([one, other, one * other], axis)
        for one, other, axis in zip(given, along, mapped, strict=True)
    ]

    def found(side):
        loss = lambda x, w: jnp.sum(jnp.sin(side(x, w)))  # noqa: E731
        slope = jax.grad(loss, (0, 1))
        product = lambda x, w: jax.jvp(slope, (x, w), along)[1]  # noqa: E731
        pulled = jax.vjp(side, *given)[1]
        made = side(*given)
        return (
            jax.vmap(side, mapped, -1)(*many),
            jax.vmap(slope, mapped)(*many),
            jax.grad(lambda *values: jax.vmap(loss, mapped)(*values).sum(), (0, 1))(*many),
            jax.vmap(product, mapped)(*many),
            jax.vmap(pulled, -1)(jnp.stack([made, made**2], -1)),
        )

    agree(sides, found)


@pytest.mark.parametrize("space", [(64, 32, 32), (1, 300, 300), (1, 90000), (3, 2, 700)])
def test_gradient_of_a_kernel_adds_up_few_numbers_in_a_row(space):
    images = 1 + jnp.asarray(normal(0, *space, 2), jnp.float32)
    rank = len(space) - 1
    window = Window((1,) * rank, ((1, 1),) * rank, (1,) * rank, (1,) * rank)
    kernel = jnp.zeros((3,) * rank + (2,), jnp.float32)
    found = jax.grad(lambda w: jnp.sum(depthwise.depthwise(images, w, window)))(kernel)
    padded = jnp.pad(images.astype(jnp.float64), ((0, 0), *window.padding, (0, 0)))
    ones = jnp.ones((*space[1:], 1, 1))
    layout = {1: ("CWN", "WIO", "WNC"), 2: ("CHWN", "HWIO", "HWNC")}[rank]
    expected = [
        jax.lax.conv_general_dilated(padded[..., [at]], jnp.repeat(ones, space[0], -2), (1,) * rank, "VALID",
                                     dimension_numbers=layout)[..., 0, 0]
        for at in range(2)
    ]  # fmt: skip
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=3e-7)  # one running sum is off by 1e-5
    half = jax.grad(lambda w: jnp.sum(depthwise.depthwise(images.astype(jnp.bfloat16), w, window)).astype(jnp.float32))
    np.testing.assert_allclose(half(kernel.astype(jnp.bfloat16)), found, rtol=1e-2)


def test_depthwise_of_integers_and_of_nothing():
    window = Window((1,), ((1, 1),), (1,), (1,))
    images, kernel = jnp.full((1, 5, 1), 2**24 + 1), jnp.ones((3, 1), int)
    (found,) = jax.linear_transpose(lambda w: depthwise.depthwise(images, w, window), kernel)(jnp.ones((1, 5, 1), int))
    np.testing.assert_array_equal(found[:, 0], np.array([4, 5, 4]) * (2**24 + 1))
    slopes = jax.grad(lambda w, x: depthwise.depthwise(x, w, window).sum(), (0, 1))
    none = jnp.zeros((0, 3, 1)), jnp.zeros((0, 1, 5, 1))
    for axes in ((0, 0), (None, 0), (0, None)):
        some = [one if axis == 0 else jnp.ones(one.shape[1:]) for one, axis in zip(none, axes, strict=True)]
        assert [one.shape for one in jax.vmap(slopes, axes)(*some)] == [(0, 3, 1), (0, 1, 5, 1)]


def test_gradient_of_kernels_under_strict_types():
    window = Window((1,), ((1, 1),), (1,), (1,))
    with jax.numpy_dtype_promotion("strict"):
        found = jax.grad(lambda w: depthwise.depthwise(jnp.ones((1, 4, 1)), w, window).sum())(jnp.ones((3, 1)))
    np.testing.assert_array_equal(found[:, 0], [3, 4, 3])


def test_written_out_holds_no_primitive_of_ours():
    window = Window((1,), ((1, 1),), (1,), (1,))
    network = jax.jit(lambda w, x: depthwise.depthwise(x, w, window))
    given = normal(0, 3, 2), normal(1, 1, 4, 2)
    for told in (False, True, False):  # also where jit has traced it before
        with depthwise.written_out(told):
            assert ("depthwise" in str(jax.make_jaxpr(network)(*given))) != told
    assert [step.name for step in trace(network, *given, whole=True).steps] == ["depthwise"]
    assert "depthwise" not in [step.name for step in trace(network, *given).steps]
    own = jax.custom_jvp(network)
    own.defjvp(lambda values, moves: (network(*values), network(moves[0], values[1])))
    (call,) = jax.make_jaxpr(own)(*given).eqns
    assert "depthwise" not in str(rules.forward_rule(call))
    own = jax.custom_vjp(network)
    own.defvjp(lambda *values: (network(*values), values), lambda kept, moved: jax.vjp(network, *kept)[1](moved))
    (call,) = jax.make_jaxpr(own)(*given).eqns
    assert not {"depthwise", "correlations"} & set(str(rules.backward_rule(call)).replace("[", " ").split())


def test_depthwise_that_was_traced_outside_of_a_shard_map_does_not_run_inside():
    window = Window((1,), ((1, 1),), (1,), (1,))
    given = normal(0, 3, 2), normal(1, 8, 4, 2)
    program = jax.make_jaxpr(lambda w, x: depthwise.depthwise(x, w, window))(*given)
    specs = PartitionSpec(), PartitionSpec("data")
    run = lambda *values: jax.core.eval_jaxpr(program.jaxpr, program.consts, *values)[0]  # noqa: E731
    with pytest.raises(NotImplementedError, match="traced outside of a mesh"):
        jax.shard_map(run, mesh=jp.mesh.make(), in_specs=specs, out_specs=specs[1])(*given)


def test_depthwise_of_images_on_many_devices_and_inside_a_shard_map():
    window = Window((2, 1), ((1, 0), (1, 1)), (1, 1), (1, 1))
    images, kernel = normal(0, 16, 6, 5, 3), normal(1, 3, 3, 3)
    slopes = jax.grad(lambda w, x: jnp.sum(jnp.sin(depthwise.depthwise(x, w, window))), (0, 1))
    expected = jax.jit(slopes)(kernel, images)
    mesh = jp.mesh.make()
    over, everywhere = PartitionSpec("data"), PartitionSpec()
    split = jax.device_put(images, NamedSharding(mesh, over))
    program = jax.jit(slopes).lower(kernel, split).compile()
    assert "all-gather" not in program.as_text()
    inside = jax.shard_map(slopes, mesh=mesh, in_specs=(everywhere, over), out_specs=(everywhere, over))
    for found in (program(kernel, split), jax.jit(inside)(kernel, split)):
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-12), found, expected)


@pytest.mark.parametrize(
    ("images", "kernel", "options"),
    [
        ((2, 5, 6, 3), (3, 3, 1, 6), LAST),  # two filters for each channel
        ((2, 5, 6, 6), (3, 3, 2, 3), LAST),
        ((2, 5, 6, 1), (3, 3, 1, 1), {**LAST, "feature_group_count": 1}),
        ((2, 5, 6, 3), (3, 3, 1, 3), {**LAST, "lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))}),
        ((2, 5, 6, 3), (3, 3, 1, 3), {**LAST, "preferred_element_type": jnp.float64, "kind": jnp.float32}),
        ((2, 5, 6, 3), (3, 3, 1, 3), {**LAST, "kind": jnp.bfloat16}),  # it sums in float32
        ((4, 5, 6, 3), (3, 3, 3, 2), {"dimension_numbers": LAYOUTS[2], "batch_group_count": 2}),
    ],
)
def test_slices_serve_no_other_convolution(images, kernel, options):
    kind = options.get("kind", jnp.float64)
    given = jnp.zeros(images, kind), jnp.zeros(kernel, kind)
    step = step_of(*given, **{name: each for name, each in options.items() if name != "kind"})
    assert not depthwise.slices_serve(step.params, *given)


def test_run_slices_depthwise_convolutions_where_it_may():
    given = normal(0, 2, 5, 6, 3), normal(1, 3, 3, 1, 3)
    program = trace(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", **LAST), *given)
    whole, sliced = (program.run(given, {}, sliced=sliced)[0][0] for sliced in (False, True))
    np.testing.assert_allclose(sliced, whole, rtol=0, atol=1e-13)
    made = jax.make_jaxpr(lambda *arguments: program.run(arguments, {}, sliced=True)[0])(*given)
    assert "conv_general_dilated" not in str(made)


def test_run_of_a_program_that_is_traced_again_leaves_convolutions_whole():
    def apply(params, _, images):
        numbers = jax.lax.conv_dimension_numbers(images.shape, params["deep"].shape, ("NHWC", "OIHW", "NHWC"))
        options = {"dimension_numbers": numbers, "feature_group_count": 3}
        x = jax.lax.conv_general_dilated(images, params["deep"], (1, 1), "SAME", **options)
        return checkpoint_name(jnp.abs(x), "features").mean((1, 2)) @ params["head"]

    params = {"deep": normal(0, 3, 1, 2, 2), "head": normal(1, 3, 4)}
    images = normal(2, 2, 4, 4, 3)
    network = jp.sites.outputs_at(jp.Network(apply, jax.tree.map(jnp.asarray, params)), "features")
    flat = network.replace(apply=lambda p, s, x: network.apply(p, s, x).reshape(len(x), -1))
    assert survey(flat, images).sites["deep"].unit_axes == (0,)
    loss, batch = jp.losses.distillation(), {"image": images}
    assert jp.curvature.block(flat, loss, batch, "deep", "unit").shape == (3, 4, 4)
    assert jp.curvature.sweep(flat, loss, [batch], ("gram",)).gram["deep"].shape == (3, 4, 4)
    assert jp.cost.macs(flat, (4, 4, 3)) == 4 * 4 * 3 * 4
