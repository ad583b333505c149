"""Nothing that is computed takes its type from data or half-precision weights, and no share is rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.curvature import networks
from tests.curvature.networks import close, flat

LOSS = jp.losses.cross_entropy
KEY = jax.random.key(0)

SCORES = {
    "magnitude": jp.scores.magnitude(),
    "random": jp.scores.random(KEY),
    "synflow": jp.scores.synflow(),
    "snip": jp.scores.snip(LOSS),
    "grasp": jp.scores.grasp(LOSS),
    "fisher": jp.scores.fisher(LOSS),
    "diagonal": jp.scores.diagonal_hessian(LOSS),
    "quadratic": jp.scores.block_hessian(LOSS, form="quadratic"),
    "obs": jp.scores.block_hessian(LOSS, form="obs", matrix="ggn"),
    "greedy": jp.scores.block_hessian(LOSS, form="greedy", matrix="ggn"),
}


def small(kind):
    """Images of 1e-3: what is squared of them is below the smallest number of float16."""
    params = {
        "w1": jnp.asarray(networks.normal(0, 5, 6) / 2, kind),
        "w2": jnp.asarray(networks.normal(1, 6, 3) / 2, kind),
    }
    batch = {"image": np.asarray(1e-3 * networks.normal(2, 8, 5)).astype(kind), "label": np.arange(8) % 3}
    return jp.Network(lambda p, s, x: jnp.maximum(x @ p["w1"], 0) @ p["w2"], params), batch


def as_float32(network, batch):
    """The same numbers, in float32."""
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network.params)
    return network.replace(params=widened), {**batch, "image": batch["image"].astype(np.float32)}


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", SCORES)
def test_scores_of_half_precision_weights_are_those_of_the_same_numbers_in_float32(name, kind):
    network, batch = small(kind)
    wide, wide_batch = as_float32(network, batch)
    found, expected = SCORES[name](network, [batch]), SCORES[name](wide, [wide_batch])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype == jnp.float32  # under x64 too
        np.testing.assert_array_equal(one, other)
    assert name == "random" or len(np.unique(flat(found))) > 40


def test_random_scores_of_half_precision_weights_do_not_tie():
    params = {"w": jnp.zeros((1000, 10), jnp.bfloat16)}
    assert len(np.unique(jp.scores.random(KEY)(jp.Network(lambda p, s, x: x, params), [])["w"])) > 9_990


def test_curvature_of_a_network_that_computes_in_half_precision_loses_nothing_that_is_small():
    def apply(p, s, x):
        hidden = jnp.maximum(x.astype(jnp.float16) @ p["w1"].astype(jnp.float16), 0)
        return (hidden @ p["w2"].astype(jnp.float16)).astype(jnp.float32)

    network, batch = small(jnp.float32)
    half = network.replace(apply=apply)
    for quantity in (
        lambda net: jp.curvature.diagonal(net, LOSS, batch),
        lambda net: jp.curvature.block_product(net, LOSS, batch, net.params),
    ):
        found, expected = quantity(half)["w1"], quantity(network)["w1"]
        assert np.count_nonzero(found) == np.count_nonzero(expected)
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("weight", [None, np.float32, np.float64])
def test_scores_in_float64_do_not_depend_on_the_size_of_the_batches(weight):
    network = jp.Network(lambda p, s, x: x @ p, jnp.asarray(networks.normal(1, 4, 3)))
    data = {"image": networks.normal(0, 7, 4), "label": np.arange(7) % 3}
    if weight:
        data["weight"] = np.linspace(0.1, 0.9, 7).astype(weight)
    by_hand = {**data, "weight": np.asarray(data.get("weight", np.ones(7)), np.float64)}
    dense = networks.Dense(network, by_hand)
    for size in (2, 5, 7):
        found = jp.scores.diagonal_hessian(LOSS)(network, jp.data.Batches(data, size))
        expected = flat(network.params) ** 2 * np.diag(dense.matrices["hessian"]) / 2
        close(flat(found), expected, 1e-12)
        sensitivity = jp.scores.fisher(LOSS)(network, jp.data.Batches(data, size))
        close(flat(sensitivity), flat(network.params) ** 2 * np.diag(dense.matrices["empirical_fisher"]) / 2, 1e-12)


def strict(kind):
    """A network that takes its own type only: JAX's convolutions refuse two types."""
    numbers = ("NHWC", "HWIO", "NHWC")

    def convolution(p, s, x):
        x = jax.lax.conv_general_dilated(x.astype(kind), p["k"], (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.maximum(x, 0).mean((1, 2)) @ p["w"]

    params = {
        "k": jnp.asarray(networks.normal(0, 2, 2, 2, 4) / 2, kind),
        "w": jnp.asarray(networks.normal(1, 4, 3), kind),
    }
    batch = {"image": np.asarray(networks.normal(2, 4, 3, 3, 2)).astype(kind), "label": np.arange(4) % 3}
    return jp.Network(convolution, params), batch


def test_scores_of_networks_that_take_their_own_types_only_are_float32():
    net, batch = strict(jnp.bfloat16)
    same = net.replace(
        apply=lambda p, s, x: net.apply(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p), s, x),
        params=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net.params),
    )
    for name in ("synflow", "snip", "fisher", "diagonal", "quadratic"):
        found, expected = (SCORES[name](one, [batch]) for one in (net, same))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.dtype == jnp.float32
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())
    assert jp.evaluate.attribution.gradient()(net, batch["image"]).shape == batch["image"].shape


def test_block_products_of_a_network_in_half_precision_keep_what_is_small():
    """Weights of 3e-4: their products with small signals are below the smallest number of float16."""

    def apply(p, s, x):
        hidden = jnp.maximum(x.astype(jnp.float16) @ p["w1"].astype(jnp.float16), 0)
        return (hidden @ p["w2"].astype(jnp.float16)).astype(jnp.float32)

    network, batch = small(jnp.float32)
    network = network.replace(params=jax.tree.map(lambda leaf: 6e-4 * leaf, network.params))
    found, expected = (
        jp.curvature.block_product(one, LOSS, batch, network.params)["w1"]
        for one in (network.replace(apply=apply), network)
    )
    assert np.count_nonzero(found) == np.count_nonzero(expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_scores_in_float64_do_not_depend_on_batches_whose_weights_are_arrays_of_jax(kind):
    network = jp.Network(lambda p, s, x: x @ p, jnp.asarray(networks.normal(1, 4, 3)))
    weight = jnp.asarray(np.linspace(0.1, 0.9, 7), kind)
    data = {"image": networks.normal(0, 7, 4), "label": np.arange(7) % 3, "weight": weight}
    parts = [{name: entry[start:end] for name, entry in data.items()} for start, end in ((0, 2), (2, 7))]
    whole, split = (jp.scores.snip(LOSS)(network, batches) for batches in ([data], parts))
    close(flat(split), flat(whole), 1e-12)


@pytest.mark.parametrize("scale", [400.0, 1e-4])
def test_diagonal_of_a_kernel_that_is_scaled_in_half_precision_is_finite_and_not_zero(scale):
    """The square of the scale is beyond the largest number of float16, or below the smallest."""

    def apply(p, _, x):
        kernel = p["w"].astype(jnp.float16) * jnp.float16(scale)
        return jnp.abs(x.astype(jnp.float16) @ kernel).astype(jnp.float32) / scale

    weights = jnp.asarray(np.round(4 * networks.normal(0, 5, 3)) / 4, jnp.float32)
    batch = {"image": np.round(2 * networks.normal(1, 6, 5)).astype(np.float32) / 2, "label": np.arange(6) % 3}
    found = jp.curvature.diagonal(jp.Network(apply, {"w": weights}), LOSS, batch)["w"]
    wide = jp.Network(lambda p, s, x: jnp.abs(x @ p["w"]), {"w": weights})
    np.testing.assert_allclose(found, jp.curvature.diagonal(wide, LOSS, batch)["w"], rtol=0.02)
