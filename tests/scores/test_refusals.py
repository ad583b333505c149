"""A score that says nothing is refused, or right, before ties by position make a mask of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.evaluate import attacks, transfer

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


# A distance of a network to itself has no gradient anywhere.
def units_of(network):
    return jax.tree.map(jnp.ones_like, network.params)


MEASURES = {
    "snip": lambda net, loss, batch: jp.scores.snip(loss)(net, [batch]),
    "grasp": lambda net, loss, batch: jp.scores.grasp(loss)(net, [batch]),
    "fisher": lambda net, loss, batch: jp.scores.fisher(loss)(net, [batch]),
    "diagonal": lambda net, loss, batch: jp.curvature.diagonal(net, loss, batch, matrix="empirical_fisher"),
    "block_product": lambda net, loss, batch: jp.curvature.block_product(
        net, loss, batch, net.params, matrix="empirical_fisher"
    ),
    "block": lambda net, loss, batch: jp.curvature.block(net, loss, batch, "w1", matrix="empirical_fisher"),
    "block_hessian": lambda net, loss, batch: jp.scores.block_hessian(loss, form="obs", matrix="empirical_fisher")(
        net, [batch]
    ),
    "line": lambda net, loss, batch: jp.geometry.line(net, loss, [batch], units_of(net), points=3),
    "plane": lambda net, loss, batch: jp.geometry.plane(
        net, loss, [batch], units_of(net), jax.tree.map(jnp.abs, net.params), points=3
    ),
    "barrier": lambda net, loss, batch: jp.geometry.barrier(net, loss, [batch], net, key=jax.random.key(0), points=3),
    "pruning_path": lambda net, loss, batch: jp.geometry.pruning_path(
        net, loss, [batch], jax.tree.map(lambda leaf: leaf > 0, net.params), points=3
    ),
    "mean_loss": lambda net, loss, batch: transfer.mean_loss(loss, [batch])(net),
    "fgsm": lambda net, loss, batch: attacks.fgsm(net, loss, batch, epsilon=0.1),
    "pgd": lambda net, loss, batch: attacks.pgd(net, loss, batch, epsilon=0.1, step_size=0.05, steps=1),
}


@pytest.mark.parametrize("at", [None, "hidden"])
@pytest.mark.parametrize("measure", MEASURES)
def test_demand_slope_refuses_the_distance_of_a_network_to_itself(measure, at):
    network, images = perceptron()
    network = network.replace(apply=lambda p, s, x: checkpoint_name(jnp.maximum(x @ p["w1"], 0), "hidden") @ p["w2"])
    batch = {"image": np.clip(np.abs(images), 0, 1)}
    for kind in ("squared", "kl"):
        with pytest.raises(ValueError, match=r"loss: expected one that has a gradient, for .*with_teacher"):
            MEASURES[measure](network, jp.losses.distillation(kind, at=at), batch)


@pytest.mark.parametrize("measure", sorted({*MEASURES} - {"grasp", "block_hessian", "plane", "pgd", "block"}))
def test_demand_slope_lets_another_teacher_through(measure):
    network, images = perceptron()
    batch = {"image": np.clip(np.abs(images), 0, 1), "teacher": np.ones((8, 3), images.dtype)}
    MEASURES[measure](network, jp.losses.distillation("kl"), batch)


@pytest.mark.parametrize("temperature", [0, -1, -0.0, np.nan, np.inf, True, "2", None, [1.0]])
@pytest.mark.usefixtures("unchecked")
def test_distillation_refuses_temperatures_that_are_no_finite_numbers_above_zero(temperature):
    with pytest.raises(ValueError, match=r"temperature: expected a finite number above 0, but got"):
        jp.losses.distillation("kl", temperature)


@pytest.mark.usefixtures("unchecked")
def test_distillation_refuses_an_unknown_kind_and_a_value_that_is_no_name():
    with pytest.raises(ValueError, match=r"kind: unknown value 'square'\. Did you mean 'squared'"):
        jp.losses.distillation("square")
    with pytest.raises(TypeError, match=r"at: expected the name of a tagged value, or None, but got 3"):
        jp.losses.distillation(at=3)
    with pytest.raises(ValueError, match="loss: the distance is taken at 'hidden' inside the network"):
        jp.losses.distillation(at="hidden")(jnp.ones((2, 3)), {"image": jnp.ones((2, 5))})


@pytest.mark.parametrize("quantity", [jp.curvature.diagonal, jp.curvature.gradient])
@pytest.mark.usefixtures("unchecked")
def test_distillation_refuses_a_teacher_that_is_not_of_the_outputs(quantity):
    network, images = perceptron()
    for teacher in (np.ones((8, 4)), np.ones(8)):
        with pytest.raises(ValueError, match=r"batch: expected a teacher of shape \(8, 3\), as the outputs are"):
            quantity(network, jp.losses.distillation(), {"image": images, "teacher": teacher})
    with pytest.raises(TypeError, match="batch: expected a teacher of floating-point numbers, but got int"):
        quantity(network, jp.losses.distillation(), {"image": images, "teacher": np.ones((8, 3), int)})
    with pytest.raises(ValueError, match="batch"):
        quantity(network, jp.losses.distillation(), {"image": images, "teacher": np.full((8, 3), np.nan)})
    labelled = {"image": images, "label": np.zeros(8, int), "teacher": np.ones((8, 3))}
    for loss in (jp.losses.cross_entropy, jp.losses.squared_error):
        with pytest.raises(ValueError, match="batch: it has a 'teacher', which a loss of the labels does not read"):
            quantity(network, loss, labelled)


@pytest.mark.parametrize("quantity", [jp.curvature.diagonal, jp.curvature.gradient])
def test_distillation_at_a_value_that_is_not_tagged_names_the_nearest(quantity):
    network, images = perceptron()
    network = network.replace(apply=lambda p, s, x: checkpoint_name(x @ p["w1"], "hidden") @ p["w2"])
    with pytest.raises(ValueError, match=r"at: unknown value 'hiden'\. Did you mean 'hidden'"):
        quantity(network, jp.losses.distillation(at="hiden"), {"image": images})


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
