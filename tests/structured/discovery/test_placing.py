"""Gates and factors of units without tags, against networks that were written with them by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.structured import compact, criteria, discover, effects, gated, ones, prune_jointly
from jaxprune.structured.discovery.placing import placed
from jaxprune.structured.gates import factored

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 3))
PARAMS = {
    "in": RNG.normal(size=(3, 6)),
    "bias": RNG.normal(size=6),
    "other": RNG.normal(size=(3, 6)),
    "out": RNG.normal(size=(6, 2)),
    "more": RNG.normal(size=(6, 2)),
    "turns": RNG.normal(size=(4, 6, 2)),
    "spread": RNG.normal(size=(12, 2)),
    "low": RNG.normal(size=(6, 3)),
}
BATCH = {"image": IMAGES, "label": np.array([0, 1, 1, 0, 1])}


def _hidden(p, x):
    return jnp.tanh(x @ p["in"] + p["bias"])


def _looped(p, x, v):
    a = _hidden(p, x)
    return lax.scan(lambda c, w: (jnp.tanh(c + (a * v) @ w), None), jnp.zeros((len(x), 2)), p["turns"])[0]


def _branched(p, x, v):
    a = _hidden(p, x) * v
    return lax.cond(jnp.sum(x) > -100, lambda: a @ p["out"], lambda: a @ p["more"])


def _pooled(p, x, v):
    a = jnp.tanh(x @ p["in"])
    return (jnp.concatenate([x[:, :2], a * v], 1) @ jnp.concatenate([p["low"][:2, :2], p["out"]]))[:, :2]


# Each with the factors where the program sums over units, after whatever makes no zero of zero.
NETWORKS = {
    "sigmoid": lambda p, x, v: (jax.nn.sigmoid(_hidden(p, x)) * v) @ p["out"],
    "two sums": lambda p, x, v: (a := _hidden(p, x)) @ p["out"] * 0 + jnp.sin((a * v) @ p["out"]) + (a * v) @ p["more"],
    "a product of values": lambda p, x, v: (
        (_hidden(p, x) * v) @ jax.nn.sigmoid(x @ p["other"]).T @ jnp.arange(10.0).reshape(5, 2)
    ),
    "tied": lambda p, x, v: (_hidden(p, x) * v) @ p["in"].T,
    "repeated": lambda p, x, v: (
        jnp.stack([(a := _hidden(p, x)) * v, jnp.cos(a) * v], 1).reshape(len(x), -1) @ p["spread"]
    ),
    "neighbours": lambda p, x, v: (
        jnp.stack([(a := _hidden(p, x)) * v, jnp.cos(a) * v], 2).reshape(len(x), -1) @ p["spread"]
    ),
    "a loop": _looped,
    "a branch": _branched,
    "a part of an axis": _pooled,
    "checkpoint": lambda p, x, v: jax.checkpoint(lambda p, x: (jax.jit(_hidden)(p, x) * v) @ p["out"])(p, x),
}


def _network(name):
    return jp.Network(lambda p, s, x: NETWORKS[name](p, x, jnp.ones(6)), PARAMS)


def _group(net):
    found = discover(net, IMAGES)
    group = next(one for one in found if any(member.leaf == "in" for member in one.members))
    assert group.by_sums
    return found, group


@pytest.mark.parametrize("name", NETWORKS)
def test_factored_is_what_factors_by_hand_are(name):
    """Outputs for any factors, the gradient by them, and their whole Hessian."""
    net = _network(name)
    _, group = _group(net)
    scaled = factored(net, [group], {})
    loss = jp.losses.cross_entropy
    values = RNG.normal(size=6)

    def by_hand(v):
        return jnp.mean(loss(NETWORKS[name](PARAMS, IMAGES, v), BATCH))

    got = scaled.replace(params={group.name: jnp.asarray(values)})(IMAGES)
    np.testing.assert_allclose(got, NETWORKS[name](PARAMS, IMAGES, values), rtol=1e-12, atol=1e-12)
    slope = jp.curvature.gradient(scaled, loss, BATCH)[group.name]
    np.testing.assert_allclose(slope, jax.grad(by_hand)(jnp.ones(6)), rtol=1e-9, atol=1e-12)
    want = jax.hessian(by_hand)(jnp.ones(6))
    np.testing.assert_allclose(jp.curvature.diagonal(scaled, loss, BATCH)[group.name], jnp.diagonal(want), atol=1e-10)
    found = jp.structured.gate_hessian(net, [group], [BATCH], loss=loss)
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_gated_is_what_removing_is(name):
    net = _network(name)
    found, group = _group(net)
    gates = {group.name: RNG.permutation(6) < 3}
    want = NETWORKS[name](PARAMS, IMAGES, gates[group.name] * 1.0)
    np.testing.assert_allclose(gated(net, [group], gates)(IMAGES), want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(compact(net, found, gates)(IMAGES), want, rtol=1e-12, atol=1e-12)
    mapped = jax.vmap(lambda image: gated(net, [group], gates)(image[None])[0])
    if name != "a product of values":  # of the examples with each other
        np.testing.assert_allclose(mapped(IMAGES), want, rtol=1e-12, atol=1e-12)


def test_placed_follows_a_program_once_for_each_shape():
    net = _network("sigmoid")
    _, group = _group(net)
    structs = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, (net.params, net.state)))
    one, two, three = (
        placed(net.apply, (group,), *structs, jax.ShapeDtypeStruct((count, 3), np.float64)) for count in (2, 2, 4)
    )
    assert one is two
    assert one is not three
    ((_, operand), spots) = next(iter(one.spots.items()))
    assert operand == 0
    assert [(spot.axis, spot.units.tolist()) for spot in spots] == [(1, list(range(6)))]


def test_placed_refuses_units_that_do_not_go_together():
    """A network that does something else with more images, as no honest one does."""

    def apply(p, s, x):
        h = jnp.tanh(x @ p["in"])
        return (h[:, ::-1] * h if len(x) > 5 else h) @ p["out"]

    net = jp.Network(apply, {"in": PARAMS["in"], "out": PARAMS["out"]})
    found = discover(net, IMAGES)
    with pytest.raises(ValueError, match="those of 'in' do not in the program for images of this shape"):
        gated(net, found, ones(found))(np.ones((6, 3)))


def test_criteria_of_what_removing_does_rate_units_without_tags():
    """Of the Kullback-Leibler divergence and of the second order, unit by unit, against the network by hand."""
    net = _network("sigmoid")
    found, group = _group(net)
    rated = effects.kl()(net, [group], ones(found), [BATCH])[group.name]
    whole = jax.nn.log_softmax(net(IMAGES))
    for unit in range(6):
        less = jax.nn.log_softmax(NETWORKS["sigmoid"](PARAMS, IMAGES, jnp.ones(6).at[unit].set(0)))
        np.testing.assert_allclose(rated[unit], jnp.sum(jnp.exp(less) * (less - whole), 1).mean(), rtol=1e-6)
    second = effects.second_order(jp.losses.cross_entropy)(net, [group], ones(found), [BATCH])[group.name]
    assert second.shape == (6,)
    for criterion in (criteria.l1(), criteria.l2(), effects.kernel_block(jp.losses.cross_entropy)):
        assert criterion(net, [group], ones(found), [BATCH])[group.name].shape == (6,)


def test_prune_jointly_takes_units_without_tags():
    """Two units that are the same: one goes, and the other does the work of both."""

    def apply(p, s, x):
        return jnp.tanh(x.reshape(len(x), -1) @ p["in"]) @ p["out"]

    same = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    net = jp.Network(apply, {"in": same, "out": np.ones((3, 1))})
    batch = {"image": RNG.normal(size=(8, 2, 1, 1))}
    found = prune_jointly(net, discover(net, batch["image"]), [batch], 0.3, damping=1e-5)
    np.testing.assert_allclose(np.sort(found.factors["in"]), [0, 1, 2], atol=1e-2)
    np.testing.assert_allclose(found.smaller(batch["image"]), found.network(batch["image"]), rtol=1e-6)
