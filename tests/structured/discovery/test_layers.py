"""Residual branches: gated by their last leaves they are what leaving them out is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.groups import below
from jaxprune.structured import Declared, gated, ones, remove
from jaxprune.structured.discovery import discover
from jaxprune.structured.gates import outputs
from tests.structured import networks


def residual(p, s, x):
    """Blocks of every kind, each skipped where its leaves are not there."""
    x = x @ p["stem"]
    if "scaled" in p:
        x = x + jnp.tanh(x @ p["scaled"]["in"]) @ p["scaled"]["out"] * p["scaled"]["gamma"]
    if "biased" in p:
        x = x - (jax.nn.relu(x @ p["biased"]["in"]) @ p["biased"]["out"] + p["biased"]["bias"])
    if "plus" in p:
        x = (-(jnp.tanh(x) @ p["plus"]["w"]) + p["plus"]["bias"]) / 2 + x
    if "squashed" in p:  # zeros of the leaves are no zero of the branch
        x = x + jax.nn.sigmoid(x @ p["squashed"]["w"])
    if "squared" in p:  # twice in one product
        x = x + (x @ p["squared"]["w"]) * (x @ p["squared"]["w"])
    return x @ p["head"]


def leaf(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape) / 2


PARAMS = {
    "stem": leaf(3, 4),
    "scaled": {"in": leaf(4, 6), "out": leaf(6, 4), "gamma": leaf(4)},
    "biased": {"in": leaf(4, 5), "out": leaf(5, 4), "bias": leaf(4)},
    "plus": {"w": leaf(4, 4), "bias": leaf(4)},
    "squashed": {"w": leaf(4, 4)},
    "squared": {"w": leaf(4, 4)},
    "head": leaf(4, 2),
}
IMAGES = np.random.default_rng(0).normal(size=(5, 3))


def test_branches_are_what_is_added_to_its_own_input():
    layers = discover(jp.Network(residual, PARAMS), IMAGES).layers
    ends = {layer.name: [member.leaf for member in layer.members if member.reads] for layer in layers}
    assert list(ends) == ["scaled", "plus"] or list(ends) == ["scaled", "biased", "plus"]
    assert ends["scaled"] == ["scaled/gamma"]
    assert ends["plus"] == ["plus/bias", "plus/w"]
    for name in ends:
        layer = next(layer for layer in layers if layer.name == name)
        assert {member.leaf for member in layer.members} == {f"{name}/{key}" for key in PARAMS[name]}


def test_branches_are_removed_as_they_are_gated():
    net = jp.Network(residual, PARAMS)
    found = discover(net, IMAGES)
    groups = (*found, *found.layers)
    shape = Declared(residual, groups)
    for layer in found.layers:
        gates = {**ones(groups), layer.name: np.array([False])}
        smaller, params, state = remove(shape, net.params, net.state, gates)
        assert layer.name not in params
        want = smaller.network(params, state)(IMAGES)
        np.testing.assert_allclose(gated(net, groups, gates)(IMAGES), want, atol=1e-12)


@pytest.mark.parametrize("name", ["basic", "blocks", "windows"])
def test_branches_are_the_layers_that_our_own_models_declare(name):
    specification, params, state = networks.build(name)
    net, images = networks.network(name), networks.images(name)
    layers = discover(net, images).layers
    owned = {layer.name: {member.leaf for member in layer.members} for layer in layers}
    names = {*jp.tree.names(params), *jp.tree.names(state)}
    declared = [group for group in specification.groups() if group.is_layer]
    assert declared
    gone = {}
    for group in declared:
        wanted = {one for one in names if any(below(one, member.leaf) for member in group.members)}
        mine = [layer for layer, leaves in owned.items() if leaves <= wanted]
        assert set().union(*(owned[layer] for layer in mine)) == wanted
        gone[group.name] = mine
    off = declared[1]  # its stage has others
    smaller, *arrays = remove(specification, params, state, {off.name: np.array([False])})
    gates = {layer: np.array([False]) for layer in gone[off.name]}
    want = np.asarray(outputs(smaller.network(*arrays), images))
    got = outputs(gated(net, layers, gates), images)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
