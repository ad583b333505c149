"""Blocks of several leaves at once, held against dense second derivatives by all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.curvature import joint, joint_block


def smooth(params, state, images):
    """A tied kernel, a smooth activation, a convolution, and a leaf that does nothing."""
    x = jax.lax.conv_general_dilated(images, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jnp.tanh(x + params["bias"]).mean((1, 2)) * params["scale"]
    return jnp.tanh(x @ params["dense"]) @ params["dense"].T @ params["head"] + 0 * state["shift"]


def rectified(params, state, images):
    return jax.nn.relu(images.reshape(len(images), -1) @ params["in"]) @ params["out"] + params["bias"]


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


SMOOTH = {
    "bias": draw(0, 3),
    "conv": draw(1, 2, 2, 1, 3),
    "dense": draw(2, 3, 2),
    "head": draw(3, 3, 3),
    "idle": draw(4, 2),
    "scale": draw(5, 3),
}
RECTIFIED = {"bias": draw(6, 3), "in": draw(7, 9, 2), "out": draw(8, 2, 3)}
BATCH = {
    "image": draw(9, 5, 3, 3, 1),
    "label": np.array([0, 1, 2, 0, 1]),
    "weight": np.array([1.0, 0.5, 0.0, 2.0, 1.5]),
}


def network(apply, params):
    return jp.Network(apply, jax.tree.map(jnp.asarray, params), {"shift": jnp.zeros(())})


def dense(net, mean, names):
    """The Hessian of a function of the outputs by the leaves of these names."""
    start, unravel = ravel_pytree({name: net.params[name] for name in names})

    def value(flat):
        return mean(net.apply({**net.params, **unravel(flat)}, net.state, BATCH["image"]))

    return jax.jit(jax.hessian(value))(start)


def mean_of(loss, net):
    """The weighted mean of a distance to the outputs, written out, or of softmax cross-entropy."""
    share, target = BATCH["weight"] / BATCH["weight"].sum(), net(BATCH["image"])
    if loss == "squared":
        return lambda outputs: share @ jnp.sum((outputs - target) ** 2, 1)
    q = np.eye(3)[BATCH["label"]] if loss == "labels" else jax.nn.softmax(target / 2)
    scale = 1 if loss == "labels" else 2
    return lambda outputs: -(scale**2) * share @ jnp.sum(q * jax.nn.log_softmax(outputs / scale), 1)


LOSSES = {
    "squared": jp.losses.distillation(),
    "kl": jp.losses.distillation("kl", 2),
    "labels": jp.losses.cross_entropy,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("apply", "params"), [(smooth, SMOOTH), (rectified, RECTIFIED)])
def test_joint_block_is_the_hessian_by_all_leaves(apply, params, loss):
    """Of labels also between leaves of a network that is piecewise linear, where it is not the Gauss-Newton matrix."""
    net = network(apply, params)
    want = dense(net, mean_of(loss, net), list(net.params))
    got = joint_block(net, LOSSES[loss], BATCH)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    ggn = joint_block(net, LOSSES[loss], BATCH, "ggn")
    assert (np.abs(ggn - want).max() > 1e-3) == (loss == "labels")


def own(outputs, batch):
    """Not symmetric in the classes, and of no root in closed form."""
    return jnp.sum(jnp.exp(outputs * jnp.arange(1.0, 4.0) / 4), 1) + outputs[:, 0] * 0 * batch["label"]


@pytest.mark.parametrize("paths", [("in", "out"), ("bias", "out")])
def test_joint_block_of_some_leaves_and_of_a_loss_of_ones_own(paths):
    net = network(rectified, RECTIFIED)
    scope = {name: name in paths for name in net.params}
    got = joint_block(net, own, BATCH, "ggn", scope)
    flat, unravel = ravel_pytree({name: net.params[name] for name in paths})
    outputs = lambda flat: net.apply({**net.params, **unravel(flat)}, net.state, BATCH["image"])  # noqa: E731
    slopes = jax.jacobian(outputs)(flat)
    share = BATCH["weight"] / BATCH["weight"].sum()
    bend = jax.vmap(jax.hessian(lambda row: own(row[None], {"label": np.zeros(1)})[0]))(outputs(flat))
    np.testing.assert_allclose(got, np.einsum("n,nci,ncd,ndj->ij", share, slopes, bend, slopes), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", ["squared", "kl"])
def test_joint_block_before_a_narrow_head(loss):
    """Two columns at the inputs of the head stand for six or seven at the outputs."""

    def narrow(params, state, images):
        return jnp.tanh(jnp.tanh(images.reshape(len(images), -1) @ params["in"]) @ params["mid"]) @ params["out"]

    net = network(narrow, {"in": draw(10, 9, 2), "mid": draw(11, 2, 2), "out": draw(12, 2, 7)})
    want = dense(net, mean_of(loss, net), ["in", "mid"])
    got = joint_block(net, LOSSES[loss], BATCH, scope={"in": True, "mid": True, "out": False})
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_joint_block_of_the_empirical_fisher_matrix():
    net = network(rectified, RECTIFIED)
    got = joint_block(net, jp.losses.cross_entropy, BATCH, "empirical_fisher")
    flat, unravel = ravel_pytree(net.params)

    def each(flat):
        outputs = net.apply(unravel(flat), net.state, BATCH["image"])
        return jp.losses.cross_entropy(outputs, BATCH)

    slopes, share = jax.jacobian(each)(flat), BATCH["weight"] / BATCH["weight"].sum()
    np.testing.assert_allclose(got, np.einsum("n,ni,nj->ij", share, slopes, slopes), rtol=1e-10, atol=1e-13)


def test_joint_block_of_leaves_that_do_nothing_is_zero():
    net = network(smooth, SMOOTH)
    only = {name: name == "idle" for name in net.params}
    np.testing.assert_array_equal(joint_block(net, LOSSES["kl"], BATCH, scope=only), np.zeros((2, 2)))


def test_joint_block_takes_signals_where_they_are_exact(monkeypatch):
    """One set of backward passes, rather than a product for every weight."""
    monkeypatch.setattr(joint, "block", None)
    joint_block(network(rectified, RECTIFIED), LOSSES["kl"], BATCH)
    with pytest.raises(TypeError, match="NoneType"):
        joint_block(network(rectified, RECTIFIED), LOSSES["labels"], BATCH)


def test_joint_block_refuses_what_does_not_fit_and_tracing():
    net = network(rectified, RECTIFIED)
    with pytest.raises(MemoryError, match=r"the joint block of 27 weights: needs .* Choose fewer leaves \(scope\)"):
        joint_block(net, LOSSES["kl"], BATCH, memory=1000)
    with pytest.raises(TypeError, match="network, batch: expected arrays"):
        jax.jit(lambda net: joint_block(net, LOSSES["kl"], BATCH))(net)


def test_joint_block_of_examples_on_several_devices():
    """The same numbers wherever the examples lie: columns are summed over devices, never rows taken apart."""
    mesh, net = jp.mesh.make(), network(rectified, RECTIFIED)
    batch = {"image": draw(13, 16, 3, 3, 1), "weight": np.arange(16) % 3.0}
    split = joint_block(jp.mesh.replicate(mesh, net), LOSSES["kl"], jp.mesh.shard_batch(mesh, batch))
    np.testing.assert_allclose(split, joint_block(net, LOSSES["kl"], batch), rtol=1e-12, atol=1e-14)
