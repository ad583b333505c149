"""Twelve networks with nothing declared: discovered, proven, searched to half the operations, tuned a step or two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured import Search, Traced, budgets, choosers, criteria, discover, gated
from tests.structured.discovery import twelve

LABELS = np.array([0, 1, 2, 0])


@jax.jit
def stepped(network):
    """One step of gradient descent in training mode, and the loss before it."""

    def loss(params):
        train = network.train_apply or (
            lambda params, state, images, rngs: (network.apply(params, state, images), state)
        )
        outputs, state = train(params, network.state, twelve.images(), {"dropout": jax.random.key(0)})
        return jnp.mean(jp.losses.cross_entropy(outputs, {"label": LABELS})), state

    (value, state), slopes = jax.value_and_grad(loss, has_aux=True)(network.params)
    params = jax.tree.map(lambda weight, slope: weight - 0.01 * slope, network.params, slopes)
    return value, network.replace(params=params, state=state)


@pytest.mark.parametrize("name", twelve.NAMES)
def test_discover_serves_a_search_of_any_network(name):
    net, images = twelve.network(name), twelve.images()
    found = discover(net, images, prove=True)
    assert len(found) > 1
    assert found.proof == {group.name: "" for group in found}
    search = Search(
        criteria={"neurons": criteria.l2()},
        chooser=choosers.always("neurons"),
        tune=lambda network, parent, step, stage: network,
        scoring=[{"image": images, "label": LABELS}],
        image_shape=twelve.IMAGE,
        target=0.5,
        budget=budgets.macs(0.6),
    )
    dense, last = search(Traced.of(net, found), net)
    assert last.macs <= 0.5 * dense.macs
    small = last.network
    assert last.parameters == jp.tree.size(small.params)
    switched = gated(net, found, last.gates)
    np.testing.assert_allclose(small(images), switched(images), rtol=1e-10, atol=1e-10)
    first, small = stepped(small)
    want, switched = stepped(switched)
    np.testing.assert_allclose(first, want, rtol=1e-10)
    second, _ = stepped(small)
    np.testing.assert_allclose(second, stepped(switched)[0], rtol=1e-10)
    assert second < first
