"""A loss of one's own gets what softmax cross-entropy gets: the fast route, and every weight right, in float32 too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.curvature import columns, routes
from tests.curvature import networks
from tests.curvature.networks import close, compiled, flat

COUNTS = np.arange(1, 301) % 7 + 1.0


def smoothing(values, batch):
    targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], values.shape[1]), 0.1)
    return optax.softmax_cross_entropy(values, targets)


def weighted(values, batch):
    weights = jnp.asarray(COUNTS, values.dtype)[batch["label"]]
    return weights * optax.softmax_cross_entropy_with_integer_labels(values, batch["label"])


def scaled(values, batch, temperature):
    return temperature**2 * jp.losses.cross_entropy(values / temperature, batch)


wrapped = lambda values, batch: jp.losses.cross_entropy(values, batch)  # noqa: E731
warm = functools.partial(scaled, temperature=2.0)


# Logits far apart: most probabilities are tiny beside the largest.
def linear(classes):
    draw = np.random.default_rng(1)
    weights = jnp.asarray(3 * draw.normal(size=(10, classes)), jnp.float32)
    batch = {"image": draw.normal(size=(16, 10)).astype(np.float32), "label": np.arange(16) % classes}
    return jp.Network(lambda p, s, x: x @ p["w"], {"w": weights}), batch


# One probability is 1 - 3e-4: float32 leaves of 1 - p no more than 2e-4, to products too.
@pytest.mark.parametrize(
    ("loss", "classes"),
    [(smoothing, 10), (smoothing, 100), (smoothing, 300), (weighted, 100), (warm, 100), (wrapped, 100)],
)
def test_diagonal_of_an_own_loss_is_right_for_every_single_weight_in_float32(loss, classes):
    network, batch = linear(classes)
    found = jp.curvature.diagonal(network, loss, batch)["w"]
    assert found.dtype == jnp.float32
    exact = {"w": jnp.asarray(network.params["w"], jnp.float64)}
    batch = {**batch, "image": batch["image"].astype(np.float64)}

    @compiled
    def by_products(indices):
        def one(index):
            direction = jax.nn.one_hot(index, 10 * classes).reshape(10, classes)
            return jp.curvature.hvp(network.replace(params=exact), loss, batch, {"w": direction})["w"].ravel()[index]

        return jax.vmap(one)(indices)

    expected = np.asarray(by_products(jnp.arange(10 * classes))).reshape(10, classes)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def focal(values, batch):
    return optax.sigmoid_focal_loss(values, jax.nn.one_hot(batch["label"], values.shape[1]), alpha=0.3).sum(-1)


def binary(values, batch):
    return optax.sigmoid_binary_cross_entropy(values, jax.nn.one_hot(batch["label"], values.shape[1])).sum(-1)


def hinge(values, batch):
    return optax.hinge_loss(values, 2 * jax.nn.one_hot(batch["label"], values.shape[1]) - 1).sum(-1) ** 2


@pytest.mark.parametrize("loss", [focal, binary, hinge, smoothing])
def test_curvature_serves_losses_with_softplus_or_relu_inside_by_signals(loss):
    net = networks.build("perceptron")
    dense, vector = networks.Dense(net.network, net.batch, loss), networks.vector(net.network.params)
    request = jp.curvature.blocks.request(net.network, loss, net.batch, "hessian", "unit", None)
    assert {task.route for task in routes.diagonal_tasks(request)} == {routes.SIGNALS, routes.NOTHING}
    close(flat(jp.curvature.diagonal(net.network, loss, net.batch)), np.diag(dense.matrices["hessian"]), 1e-10)
    product = jp.curvature.block_product(net.network, loss, net.batch, vector)
    close(flat(product), dense.inside(net.leaves, "unit", "hessian") @ flat(vector), 1e-10)


@pytest.mark.parametrize("blocks", ["unit", "layer", 2])
def test_block_factors_of_an_own_convex_loss_multiply_to_its_blocks(blocks):
    net = networks.build("perceptron")
    factors = jp.curvature.block_factors(net.network, smoothing, net.batch, "w2", blocks)
    block = jp.curvature.block(net.network, smoothing, net.batch, "w2", blocks)
    assert factors is not None
    close(factors.mT @ factors, block.reshape(len(factors), *block.shape[-2:]), 1e-10)


def test_block_factors_of_a_loss_that_is_not_convex_are_none():
    net = networks.build("perceptron")
    assert jp.curvature.block_factors(net.network, networks.bumpy, net.batch, "w2") is None

    def saddle(values, batch):  # no factorisation without pivots: zero on the diagonal, one beside it
        return values[:, 0] * values[:, 1]

    assert jp.curvature.block_factors(net.network, saddle, net.batch, "w2") is None


def test_roots_keep_small_pivots_beside_large_ones():
    values = jnp.asarray([[0.0, -10.0, -45.0], [1.0, 2.0, -45.0]])
    batch = {"label": np.array([0, 1])}
    factors = networks.compiled(lambda values: columns.roots(wrapped, values, batch, jnp.full(2, 0.5)))
    lower, pivots = factors(values)
    p = np.asarray(jax.nn.softmax(values))
    exact = np.stack([np.diag(row) - np.outer(row, row) for row in p]) / 2
    found = np.einsum("nik,nk,njk->nij", lower, pivots, lower)
    np.testing.assert_allclose(found, exact, rtol=1e-8)  # entry by entry, not beside the largest
    assert (pivots >= 0).all()
    # Where rounding leaves nothing of 1 - p there are no such factors, and it says so.
    _, pivots = factors(jnp.asarray([[0.0, -40.0, -80.0], [-80.0, 0.0, -40.0]]))
    assert np.isnan(pivots).all()


@jax.custom_jvp
def _as_it_is(values):
    return values


# The derivative is independent, linear even; what it says of the second is not.
_as_it_is.defjvp(lambda primals, tangents: (_as_it_is(*primals), tangents[0] * (1 + jnp.sum(primals[0]))))


def test_diagonal_sees_a_rule_of_a_loss_whose_second_derivative_mixes_the_examples():
    net = networks.build("perceptron")
    loss = lambda values, batch: jnp.sum(_as_it_is(values) ** 2, -1)  # noqa: E731
    request = jp.curvature.blocks.request(net.network, loss, net.batch, "hessian", "unit", None)
    assert not request.per_example
    direction = jax.tree.map(jnp.zeros_like, net.network.params)
    direction["b1"] = direction["b1"].at[1].set(1)
    expected = jp.curvature.hvp(net.network, loss, net.batch, direction)["b1"][1]
    close(jp.curvature.diagonal(net.network, loss, net.batch)["b1"][1], expected, 1e-12)


@jax.custom_vjp
def _with_own_backward(values):
    return values


_with_own_backward.defvjp(lambda values: (values, values), lambda values, u: (u * (1 + jnp.sum(values)),))


def test_diagonal_sees_a_backward_pass_in_a_loss_whose_derivative_mixes_the_examples():
    net = networks.build("perceptron")
    loss = lambda values, batch: jnp.sum(_with_own_backward(values) ** 2, -1)  # noqa: E731
    request = jp.curvature.blocks.request(net.network, loss, net.batch, "hessian", "unit", None)
    assert not request.per_example


def test_plan_of_an_own_loss_costs_at_most_twice_that_of_cross_entropy():
    params = {"w1": jnp.asarray(networks.normal(1, 4, 3)), "w2": jnp.asarray(networks.normal(2, 3, 40))}
    network = jp.Network(lambda p, s, x: jnp.maximum(x @ p["w1"], 0) @ p["w2"], params)
    batch = {"image": networks.normal(3, 5, 4), "label": np.array([0, 39, 20, 7, 7])}
    own, known = (jp.curvature.plan(network, loss, batch, "diagonal") for loss in (smoothing, jp.losses.cross_entropy))
    assert {leg.route for leg in own.legs} == {routes.SIGNALS}
    assert own.gradients * jp.curvature.products.gradient_cost(network, smoothing, batch) <= 2.2 * (
        known.gradients * jp.curvature.products.gradient_cost(network, jp.losses.cross_entropy, batch)
    )


# Targets that sum to less than zero turn the Hessian by the outputs over; three columns at the head stand for five.
@pytest.mark.parametrize("total", [-1.0, 2.0])
def test_curvature_before_a_narrow_head_is_right_for_targets_of_any_sum(total):
    network = jp.Network(
        lambda p, s, x: jnp.abs(x @ p["w"]) @ p["head"],
        {"w": jnp.asarray(networks.normal(0, 2, 3)), "head": jnp.asarray(networks.normal(1, 3, 6))},
    )
    batch = {"image": networks.normal(2, 4, 2), "label": np.full((4, 6), total / 6)}
    dense = networks.Dense(network, batch).matrices["hessian"]
    close(flat(jp.curvature.diagonal(network, jp.losses.cross_entropy, batch)), np.diag(dense))
    for path, blocks in jp.curvature.sweep(network, jp.losses.cross_entropy, [batch], ("gram",)).gram.items():
        close(blocks, networks.Dense(network, batch).blocks(path, (1,), "unit", "hessian"))
