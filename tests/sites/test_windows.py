"""Depthwise convolutions as sums of slices, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.sites import survey, windows
from jaxprune.sites.program import trace
from tests.curvature.networks import normal

pytestmark = pytest.mark.usefixtures("same_rank")

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
LAST = {"dimension_numbers": LAYOUTS[2], "feature_group_count": 3}


def step_of(images, kernel, strides=(1, 1), padding="SAME", **options):
    """The only step of a program that convolves."""
    (step,) = trace(lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options), images, kernel).steps
    return step


@pytest.mark.parametrize(
    ("images", "kernel", "strides", "padding", "options"),
    [
        ((2, 5, 6, 3), (3, 3, 1, 3), (1, 1), "SAME", LAST),
        ((2, 5, 6, 3), (2, 3, 1, 3), (2, 1), "SAME", LAST),
        ((2, 7, 6, 3), (3, 2, 1, 3), (1, 2), ((2, -1), (0, 3)), LAST),
        ((2, 8, 7, 3), (3, 2, 1, 3), (2, 1), "VALID", {**LAST, "rhs_dilation": (2, 3)}),
        ((2, 3, 5, 6), (3, 1, 3, 3), (1, 1), "SAME", {"feature_group_count": 3}),  # channels first, as PyTorch has them
        ((2, 9, 3), (4, 1, 3), (3,), "SAME", {**LAST, "dimension_numbers": LAYOUTS[1]}),
        ((1, 4, 3, 5, 3), (2, 2, 3, 1, 3), (1, 2, 1), "SAME", {**LAST, "dimension_numbers": LAYOUTS[3]}),
        ((2, 2, 2, 3), (3, 3, 1, 3), (1, 1), "VALID", LAST),  # nothing is left
    ],
)
def test_of_slices_is_the_convolution_with_its_derivatives(images, kernel, strides, padding, options):
    given = normal(0, *images), normal(1, *kernel)
    step = step_of(*given, strides, padding, **options)
    assert windows.slices_serve(step.params, *given)
    sides = (
        lambda x, w: windows.of_slices(step.params, x, w),
        lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options),
    )

    def found(function):
        out, along = jax.jvp(function, given, (normal(2, *images), normal(3, *kernel)))
        return out, along, *jax.vjp(function, *given)[1](normal(4, *out.shape))

    for got, expected in zip(*map(found, sides), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


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
    assert not windows.slices_serve(step.params, *given)


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
