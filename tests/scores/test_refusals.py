"""A score that says nothing is refused, or right, before ties by position make a mask of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

LOSS = jp.losses.cross_entropy
FIRST_ORDER = {"snip": jp.scores.snip, "grasp": jp.scores.grasp, "fisher": jp.scores.fisher}
every_first_order = pytest.mark.parametrize("kind", FIRST_ORDER)


def perceptron(dtype=jnp.float32):
    draw = np.random.default_rng(0)
    params = {"w1": jnp.asarray(draw.normal(size=(5, 6)), dtype), "w2": jnp.asarray(draw.normal(size=(6, 3)), dtype)}
    network = jp.Network(lambda p, s, x: jnp.maximum(x @ p["w1"], 0) @ p["w2"], params)
    return network, draw.normal(size=(8, 5)).astype(dtype)


def to_teacher(outputs, batch):
    return jnp.sum((outputs - batch["teacher"]) ** 2, -1)


def divergence(outputs, batch):
    p, q = jax.nn.log_softmax(batch["teacher"]), jax.nn.log_softmax(outputs)
    return jnp.sum(jnp.exp(p) * (p - q), -1)


def own_teacher(moved=0.0, dtype=jnp.float32):
    """The outputs of the network, computed by another program: they differ by rounding.  One example is moved."""
    network, images = perceptron(dtype)
    params = {name: np.asarray(leaf, np.float64) for name, leaf in network.params.items()}
    teacher = np.array(np.maximum(images.astype(np.float64) @ params["w1"], 0) @ params["w2"])
    teacher[3, 0] += moved
    return network, {"image": images, "label": np.zeros(8, int), "teacher": teacher.astype(dtype)}


@pytest.mark.parametrize("loss", [to_teacher, divergence])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@every_first_order
def test_first_order_scores_refuse_where_the_gradient_is_zero(kind, dtype, loss):
    network, batch = own_teacher(dtype=dtype)
    with pytest.raises(ValueError, match=r"(?s)loss: expected one with a gradient .* use a second-order score"):
        FIRST_ORDER[kind](loss)(network, [batch, batch])
    assert jp.scores.diagonal_hessian(loss)(network, [batch])["w1"].any()


@every_first_order
def test_first_order_scores_rank_where_one_example_has_a_gradient(kind):
    network, batch = own_teacher(moved=1e-3)
    assert FIRST_ORDER[kind](to_teacher)(network, [batch])["w1"].any()
    padded = {**batch, "weight": (np.arange(8) != 3).astype(float)}  # that one does not count
    with pytest.raises(ValueError, match="loss: expected one with a gradient"):
        FIRST_ORDER[kind](to_teacher)(network, [padded])


@every_first_order
def test_first_order_scores_know_that_a_network_computes_in_half_precision(kind):
    network, images = perceptron()
    run = network.apply

    def half(params, state, images):
        params, images = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, images))
        return run(params, state, images).astype(jnp.float32)

    network, images = network.replace(apply=half), jnp.asarray(images)
    teacher = np.asarray(network(images)) * (1 + 2**-8 * np.sign(images[:, :3]))  # its last digit
    with pytest.raises(ValueError, match="loss: expected one with a gradient"):
        FIRST_ORDER[kind](to_teacher)(
            network, [{"image": images, "label": np.zeros(8, int), "teacher": teacher.astype(np.float32)}]
        )


def test_fisher_of_a_network_that_mixes_its_batch_is_that_of_the_whole():
    network, images = perceptron(jnp.float64)

    def apply(params, state, images):
        hidden = images @ params["w1"]
        hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 1e-5)
        return jnp.maximum(hidden + 0.1, 0) @ params["w2"]

    network, batch = network.replace(apply=apply), {"image": images, "label": np.arange(8) % 3}
    each = jax.jit(jax.jacrev(lambda params: LOSS(apply(params, {}, images), batch)))(network.params)
    found = jp.scores.fisher(LOSS)(network, [batch])
    for name, leaf in network.params.items():
        np.testing.assert_allclose(found[name], leaf**2 * np.mean(np.square(each[name]), 0) / 2, rtol=1e-12)
    plan = jp.curvature.plan(network, LOSS, batch, "diagonal", matrix="empirical_fisher")
    assert {leg.paths: leg.route for leg in plan.legs}[("w1",)] == "one gradient for each example and column"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_block_hessian_and_its_update_take_half_precision(dtype):
    network, images = perceptron(dtype)
    batch = {"image": images, "label": np.arange(8) % 3}
    score = jp.scores.block_hessian(LOSS, form="greedy", matrix="ggn")
    assert score(network, [batch])["w1"].dtype == jnp.float32
    mask = jp.masks.unstructured(0.5)(score(network, [batch]), jp.tree.prunable(network.params))
    updated = jp.scores.surgeon_update(LOSS, matrix="ggn")(network, [batch], mask)
    assert updated["w1"].dtype == dtype


# SynFlow
def synflow(network, images):
    return jp.scores.synflow()(network, [{"image": images, "label": np.zeros(len(images), int)}])


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)])
def test_synflow_of_a_network_with_its_normalisation_is_that_of_the_network(images):
    draw = np.random.default_rng(0)
    params = {"w1": draw.normal(size=(48, 5)), "w2": draw.normal(size=(5, 3))}
    network = jp.Network(lambda p, s, x: jax.nn.relu(x.reshape(len(x), -1) @ p["w1"]) @ p["w2"], params)
    expected = synflow(network, images.astype(np.float64))
    normalised = jp.models.normalised(network, jp.types.Preprocess())
    for name, leaf in synflow(normalised, images).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6)


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "a gate": lambda x: x + x * jax.nn.hard_sigmoid(x.mean(1, keepdims=True)),
    "relu6 beside": lambda x: x + jax.nn.relu6(x),
}


@pytest.mark.parametrize(("activation", "size"), [*((name, 1e5) for name in ACTIVATIONS), ("relu", 1e-6)])
def test_synflow_of_a_deep_network_ranks_as_in_float64(activation, size):
    draw = np.random.default_rng(0)
    layers = [{"w": size * draw.random((4, 4)) / 2, "b": 0.1 * draw.random(4) * (size > 1)} for _ in range(9)]

    def deep(p, s, x):
        for layer in p:
            x = ACTIVATIONS[activation](x @ layer["w"]) + layer["b"]
        return x

    float32 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), layers)
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), float32)
    found = synflow(jp.Network(deep, float32), np.ones((1, 4), np.float32))
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(deep(params, {}, jnp.ones((1, 4))))))(wide)
    expected = jax.tree.map(lambda w, g: np.abs(w * g), wide, gradient)
    largest, highest = (max(float(leaf.max()) for leaf in jax.tree.leaves(each)) for each in (expected, found))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        # Below the range of float32 (the biases at the end) there is no more than zero.
        np.testing.assert_allclose(np.asarray(one, np.float64) / highest, other / largest, rtol=2e-6, atol=2.0**-125)


def test_synflow_of_a_network_that_looks_something_up_takes_whole_numbers():
    network = jp.Network(
        lambda p, s, x: p["table"][x[:, 0]] @ p["w"], {"table": jnp.ones((3, 4)), "w": jnp.ones((4, 2))}
    )
    assert synflow(network, np.zeros((2, 1), np.int32))["table"].sum(1).tolist() == [0, 8, 0]


def test_synflow_refuses_what_nothing_flows_through():
    network, images = perceptron()
    cut = network.replace(params={**network.params, "w2": jnp.zeros((6, 3))})
    with pytest.raises(ValueError, match=r"network: expected a synaptic flow, but .* is 0\. Is everything pruned"):
        synflow(cut, images)
    behind = network.replace(apply=lambda p, s, x: jax.nn.softmax(network.apply(p, s, x)))
    with pytest.raises(ValueError, match=r"does not depend on its weights\. Are the outputs behind a softmax"):
        synflow(behind, images)
    huge = network.replace(params=jax.tree.map(lambda leaf: 1e300 * leaf.astype(jnp.float64), network.params))
    with pytest.raises(ValueError, match="expected a synaptic flow that float64 can hold"):
        synflow(huge, images)
