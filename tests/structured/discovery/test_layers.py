"""Residual branches: gated by their last leaves they are what leaving them out is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.groups import below
from jaxprune.sites.program import trace
from jaxprune.structured import Declared, Traced, compact, gated, ones, remove
from jaxprune.structured.discovery import discover
from jaxprune.structured.gates import outputs
from tests.structured import networks
from tests.structured.discovery.comparing import measured, same, sliced


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
    # Where the stream that they are added to has the name of one, that one is called a layer.
    layers = {layer.name.removesuffix("#layer"): layer for layer in layers}
    ends = {name: [member.leaf for member in layer.members if member.reads] for name, layer in layers.items()}
    assert list(ends) == ["scaled", "plus"] or list(ends) == ["scaled", "biased", "plus"]
    assert ends["scaled"] == ["scaled/gamma"]
    assert ends["plus"] == ["plus/bias", "plus/w"]
    for name in ends:
        assert {member.leaf for member in layers[name].members} == {f"{name}/{key}" for key in PARAMS[name]}


def test_branches_are_removed_as_they_are_gated():
    net = jp.Network(residual, PARAMS)
    found = discover(net, IMAGES)
    groups = (*found, *found.layers)
    shape = Declared(residual, groups)
    for layer in found.layers:
        gates = {**ones(groups), layer.name: np.array([False])}
        smaller, params, state = remove(shape, net.params, net.state, gates)
        assert layer.name.removesuffix("#layer") not in params
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


def test_compact_leaves_branches_out():
    """Values, gradients and operations, beside units of the stream and of other branches; and in two steps."""

    def apply(p, s, x):  # skips nothing by itself
        x = x @ p["stem"]
        for name in ("first", "second"):
            x = x + jax.checkpoint(jax.nn.relu)(x @ p[name]["in"]) @ p[name]["out"] * s[name]["size"]
        return x @ p["head"]

    block = lambda: {"in": leaf(4, 6), "out": leaf(6, 4)}  # noqa: E731
    params = {"stem": leaf(3, 4), "first": block(), "second": block(), "head": leaf(4, 2)}
    state = {"first": {"size": np.ones(())}, "second": {"size": np.full((), 2.0)}}
    net = jp.Network(apply, params, state)
    found = discover(net, IMAGES)
    groups = (*found, *found.layers)
    assert [layer.name for layer in found.layers] == ["first", "second"]
    gates = {layer.name: np.array([layer.name == "second"]) for layer in found.layers}
    gates |= {group.name: np.arange(group.size) > 0 for group in found}
    small = compact(net, found, gates)
    assert set(small.params) == {"stem", "second", "head"}
    assert set(small.state) == {"second"}
    slopes, outputs_ = measured(small, IMAGES)
    whole, want = measured(gated(net, groups, gates), IMAGES)
    same(outputs_, want)
    del whole["first"]
    same(slopes, sliced(whole, found, gates))
    assert [step.name for step in trace(small, IMAGES).steps].count("dot_general") == 4
    again = discover(small, IMAGES)
    assert [layer.name for layer in again.layers] == ["second"]
    shape, left, rest = remove(Traced.of(net, found, layers=True), params, state, {"first": np.array([False])})
    shape, left, rest = remove(
        shape,
        left,
        rest,
        {name: gates[name] for name in gates if name != "first" and name in {group.name for group in shape.groups()}},
    )
    same(shape.network(left, rest)(IMAGES), want)
    with pytest.raises(ValueError, match="below its floor of 1"):
        compact(net, found, {layer.name: np.array([False]) for layer in found.layers})
    with pytest.raises(ValueError, match="the parameters and the state that were left"):
        small.replace(params=params)(IMAGES)


class Blocks(nn.Module):
    """Pre-activation residual blocks with BatchNorm, of fixed widths."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        for number in range(2):
            norm = nn.BatchNorm(use_running_average=not train, name=f"norm{number}")
            y = nn.Conv(4, (3, 3), name=f"conv{number}")(nn.relu(norm(x)))
            x = x + nn.Dropout(0.3, deterministic=not train)(y)
        return nn.Dense(3)(x.mean((1, 2)))


def test_compact_trains_without_a_branch():
    module, images = Blocks(), np.random.default_rng(1).normal(size=(4, 4, 4, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32))
    net = jp.Network.from_linen(module, networks.random_weights(variables, 0), train={"train": True})
    found = discover(net, images)
    (first, second), groups = found.layers, (*found, *found.layers)
    gates = {first.name: np.array([False])}
    small, switched = compact(net, found, gates), gated(net, groups, gates)
    same(small(images), switched(images))

    @jax.jit
    def step(network):
        def read(params):
            outputs, state = network.train_apply(params, network.state, images, {"dropout": jax.random.key(1)})
            return jnp.sum(jnp.sin(outputs)), state

        return jax.value_and_grad(read, has_aux=True)(network.params)

    (loss, state), slopes = step(small)
    (want, whole), gradients = step(switched)
    same(loss, want)
    kept = jp.tree.by_name(slopes)
    assert kept.keys() == jp.tree.by_name(net.params).keys() - {member.leaf for member in first.members}
    same(kept, {name: jp.tree.by_name(gradients)[name] for name in kept})
    kept = jp.tree.by_name(state)
    same(kept, {name: jp.tree.by_name(whole["network"])[name] for name in kept})
    assert second.name in {layer.name for layer in discover(small, images).layers}
