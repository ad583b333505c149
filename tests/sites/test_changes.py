"""Gradients at places of a network, and guided ReLUs, against JAX's own derivatives and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune import sites


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def two_layers(params, state, images):
    x = checkpoint_name(jnp.tanh(images @ params["first"]["kernel"]), "hidden")
    return jnp.sin(jax.jit(lambda x: x @ params["second"]["kernel"])(x) + params["second"]["bias"])


def network():
    params = {"first": {"kernel": draw(4, 5)}, "second": {"kernel": draw(5, 3, seed=1), "bias": draw(3, seed=2)}}
    return jp.Network(two_layers, params)


def test_gradients_at_tags_and_leaves_are_those_of_what_follows():
    net, x = network(), draw(6, 4, seed=3)
    hidden = np.tanh(x @ net.params["first"]["kernel"])
    before = hidden @ net.params["second"]["kernel"]
    after = before + net.params["second"]["bias"]
    slope = np.cos(after)
    values, gradients = sites.gradients_at(net, x, ["hidden", "second/kernel", "second/bias"], jnp.sum)
    for got, expected in zip(values, (hidden, before, after), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-14)
    for got, expected in zip(gradients, (slope @ net.params["second"]["kernel"].T, slope, slope), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-14)


def test_before_lists_earlier_tags_the_nearest_first():
    def apply(params, state, images):
        x = checkpoint_name(images, "one")
        x = jax.checkpoint(lambda x: checkpoint_name(jnp.sin(x), "two"))(x)
        return checkpoint_name(checkpoint_name(x @ params["kernel"], "three"), "four")

    net, x = jp.Network(apply, {"kernel": draw(4, 2)}), draw(3, 4)
    assert sites.before(net, x, "four") == {"three": (3, 2), "two": (3, 4), "one": (3, 4)}
    assert list(sites.before(net, x, "kernel")) == ["two", "one"]
    assert sites.before(net, x, "one") == {}


def test_gradients_at_and_before_name_a_place_that_does_not_exist():
    message = (
        r"site: the network has no place 'hiden'\. Did you mean 'hidden'\? It tags: hidden\. Its kernels: "
        r"first/kernel, second/kernel\."
    )
    for ask in (sites.before, partial(sites.gradients_at, of=jnp.sum)):
        with pytest.raises(ValueError, match=message):
            ask(network(), draw(6, 4), "hiden" if ask is sites.before else ["hiden"])


# --------------------------------------------------------------------------------------------------- guided ReLUs

ZERO = np.zeros((3, 5))
RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, zero first": lambda x: jnp.maximum(0.0, x),
    "maximum with an array": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum with a constant": lambda x: jnp.maximum(x, ZERO),
    "clip": lambda x: jnp.clip(x, 0),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "under jit and remat": jax.jit(jax.checkpoint(lambda x: jax.jit(jax.nn.relu)(x))),
}


def hidden_layer(rectifier):
    def apply(params, state, images):
        return rectifier(images @ params["in"]) @ params["out"]

    return jp.Network(apply, {"in": draw(4, 5), "out": draw(5, 2, seed=1)})


@pytest.mark.parametrize("name", RELUS)
def test_guided_changes_every_form_of_a_relu(name):
    net, x = hidden_layer(RELUS[name]), draw(3, 4, seed=2)
    x[0] = 0  # every unit exactly at the kink, where the gradient is to be 0
    guided = sites.guided(net)
    np.testing.assert_allclose(guided(x), net(x), atol=1e-14)
    active = x @ net.params["in"] > 0
    expected = (np.maximum(net.params["out"].sum(axis=1), 0) * active) @ net.params["in"].T
    got = jax.jit(jax.grad(lambda x: guided(x).sum()))(x)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    assert np.max(np.abs(got - jax.grad(lambda x: net(x).sum())(x))) > 0.1


def test_guided_changes_each_relu_in_a_row_and_beside_a_shortcut():
    def apply(params, state, images):
        x = jax.nn.relu(images @ params[0])
        return jax.nn.relu(x + x @ params[1]) @ params[2]

    params, x = [draw(4, 5), draw(5, 5, seed=1), draw(5, 2, seed=2)], draw(3, 4, seed=3)
    first = np.maximum(x @ params[0], 0)
    second = first + first @ params[1]
    upper = np.maximum(params[2].sum(axis=1), 0) * (second > 0)
    lower = np.maximum(upper + upper @ params[1].T, 0) * (first > 0)
    guided = sites.guided(jp.Network(apply, params))
    np.testing.assert_allclose(jax.grad(lambda x: guided(x).sum())(x), lower @ params[0].T, atol=1e-14)


def test_guided_networks_are_equal_where_the_networks_are():
    module = jp.models.resnet_cifar(8, width=2)
    apply = [jp.Network.from_linen(module, {"params": {}}).apply for _ in range(2)]
    first, second = (sites.guided(jp.Network(each, {})) for each in apply)
    assert first.apply == second.apply
    assert hash(first.apply) == hash(second.apply)


class Normalised(nn.Module):
    """Normalisations guard their variances with max(., 0), which is no ReLU."""

    norm: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.gelu(self.norm(nn.Dense(4)(x)))


@pytest.mark.parametrize("norm", [nn.LayerNorm(), nn.GroupNorm(2), jax.nn.standardize])
def test_guided_takes_the_guard_of_a_variance_for_no_relu(norm):
    x = draw(3, 4)
    if isinstance(norm, nn.Module):
        net = jp.Network.from_linen(module := Normalised(norm), module.init(jax.random.key(0), x))
    else:
        net = jp.Network(lambda params, state, images: norm(images @ params), draw(4, 4))
    with pytest.raises(ValueError, match=r"network: guided methods .* this network has none"):
        sites.guided(net)(x)


OTHERS = {
    "gelu": jax.nn.gelu,
    "relu6": jax.nn.relu6,
    "relu6 by clip": lambda x: jnp.clip(x, 0, 6),
    "relu6 by minimum": lambda x: jnp.minimum(jax.nn.relu(x), 6),
    "relu6, limit first": lambda x: jax.nn.relu(jnp.minimum(jnp.full_like(x, 6.0), x)),
    "relu6 by where": lambda x: jnp.minimum(jnp.where(x > 0, x, 0), 6),
    "clamp": lambda x: jax.lax.clamp(0.0, x, 6.0),
    "leaky": jax.nn.leaky_relu,
    "softmax": jax.nn.softmax,
    "a floor other than 0": lambda x: jnp.maximum(x, 0.1),
    "of two values": lambda x: jnp.maximum(x, -x),
    "of the weights": lambda x: x * jax.nn.relu(jnp.arange(5.0) - 2),
}


def test_guided_changes_a_relu_beside_a_limit_or_compared_with_another():
    x = np.array([[0.5, -1.0, 2.0]])

    def gradient(function):
        return jax.grad(lambda x: sites.guided(jp.Network(lambda p, s, x: function(x), {}))(x).sum())(x).tolist()

    rectified = jax.nn.relu
    assert gradient(lambda x: jnp.minimum(rectified(x), 1) - 3 * rectified(x)) == [[1, 0, 0]]
    assert gradient(lambda x: (lambda y: jnp.minimum(y, 1) - 3 * y)(rectified(x))) == [[0, 0, 0]]
    assert gradient(lambda x: -jnp.minimum(rectified(x), rectified(3 - x))) == [[0, 0, 0]]


@pytest.mark.parametrize("name", OTHERS)
def test_guided_refuses_networks_without_a_relu(name):
    with pytest.raises(ValueError, match=r"network: guided methods .* has none\. .* attribution\.gradient\(\)"):
        sites.guided(hidden_layer(OTHERS[name]))(draw(3, 4))


def test_guided_keeps_the_gradient_of_a_relu_of_the_weights():
    def apply(params, state, images):
        return jax.nn.relu(images @ params["in"]) @ jax.nn.relu(params["out"])

    net, x = jp.Network(apply, {"in": draw(4, 5), "out": draw(5, 2, seed=1)}), draw(3, 4, seed=2)
    loss = lambda net: -jnp.sum(net(x))  # noqa: E731
    got, plain = jax.grad(loss)(sites.guided(net)), jax.grad(loss)(net)
    np.testing.assert_allclose(got.params["out"], plain.params["out"], atol=1e-14)
    assert np.any(plain.params["out"] < 0)
    np.testing.assert_array_equal(got.params["in"], 0)


LOOPS = {
    "scan": lambda x: jax.lax.scan(lambda carry, _: (jax.nn.relu(carry), None), x, length=2)[0],
    "while": lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) > 9, jax.nn.relu, x),
    "cond": lambda x: jax.lax.cond(jnp.sum(x) > 0, jax.jit(jax.nn.relu), jnp.sin, x),
}


@pytest.mark.parametrize("name", LOOPS)
def test_guided_refuses_a_relu_in_a_loop(name):
    with pytest.raises(ValueError, match=f"network: it has a ReLU inside a {name}"):
        sites.guided(hidden_layer(lambda x: jax.nn.relu(LOOPS[name](x))))(draw(3, 4))
