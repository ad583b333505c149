"""Programs of every kind evaluated with smaller arrays, against the whole ones with gates: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.sites.program import with_inner
from jaxprune.structured import compact, discover, gated
from tests.structured.discovery.comparing import measured, same, sliced
from tests.structured.discovery.plain import ruled_product


@jax.custom_vjp
def _clipped(x):
    return jnp.tanh(x)


_clipped.defvjp(lambda x: (_clipped(x), x), lambda x, g: (jnp.clip(g, -0.1, 0.1),))


def _looped(p, x):
    x = lax.scan(lambda c, w: (jax.nn.relu(c) * w, None), x, p["turns"], reverse=True)[0]
    x = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.sin(c[1]) * p["scale"]), (0, x))[1]
    return lax.cond(jnp.asarray(False), lambda x: x, lambda x: 2 * x + p["scale"], x)


WAYS = {
    "a derivative rule at its tie": lambda p, x: jax.nn.relu(p["scale"] - lax.stop_gradient(p["scale"])) + x,
    "relu6 and gelu": lambda p, x: jax.nn.relu6(x) + jax.nn.gelu(x),
    "logaddexp": lambda p, x: jnp.logaddexp(x, p["scale"]),
    "a backward pass of its own": lambda p, x: _clipped(x),
    "checkpoint": lambda p, x: jax.checkpoint(lambda x: jax.nn.silu(x) * p["scale"])(x),
    "counts and constants": lambda p, x: x * jnp.arange(6.0) + np.arange(6.0)[::-1],
    "an order": lambda p, x: x[:, np.array([3, 1, 0, 2, 5, 4])],
    "parts": lambda p, x: jnp.concatenate([x[:, 3:], x[:, :3], x[:, ::2]], -1)[:, :6],
    "padded": lambda p, x: jnp.pad(x, ((0, 0), (2, 0)))[:, 1:7] * p["scale"],
    "looked up": lambda p, x: x + p["turns"].at[0].set(1.0)[jnp.argmax(x[:, :1] * 0, 1)],
    "sorted, and the first": lambda p, x: jnp.sort(x, 0) + lax.top_k(x.T, 1)[0][:, 0],
    "tiled": lambda p, x: jnp.tile(x[:, :3], (1, 2)) * p["scale"],
    "updated": lambda p, x: lax.dynamic_update_slice(x, p["turns"][:2], (1, 0)),
    "sums over an axis by name": lambda p, x: jax.vmap(lambda x: x - lax.pmean(x, "b"), axis_name="b")(x) * p["scale"],
    "heads": lambda p, x: jnp.tanh(x.reshape(-1, 2, 3) * p["scale"][:2, None]).reshape(-1, 6),
}


@pytest.mark.parametrize("name", WAYS)
def test_compact_rewrites(name):
    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(3, 6)),
        "scale": 1 + 0.1 * rng.normal(size=6),
        "turns": rng.normal(size=(3, 6)),
        "out": rng.normal(size=(6, 2)),
    }
    net, given = jp.Network(lambda p, s, x: WAYS[name](p, x @ p["in"]) @ p["out"], params), rng.normal(size=(5, 3))
    found = discover(net, given, inner=True)
    assert len(found) > 0
    gates = {group.name: np.arange(group.size) % 2 == 0 for group in found}
    slopes, outputs = measured(compact(net, found, gates), given)
    whole, want = measured(gated(net, found, gates), given)
    same(outputs, want)
    same(slopes, sliced(whole, found, gates))


def test_compact_follows_loops():
    """Loops have forward derivatives only where they are ``while``: values, and a tangent."""
    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(3, 6)),
        "scale": rng.normal(size=6),
        "turns": rng.normal(size=(3, 6)),
        "out": rng.normal(size=(6, 2)),
    }
    net, given = jp.Network(lambda p, s, x: _looped(p, x @ p["in"]) @ p["out"], params), rng.normal(size=(5, 3))
    found = discover(net, given)
    gates = {"in": np.arange(6) % 3 > 0}
    pairs = [(one, jax.jvp(one, (given,), (given,))) for one in (compact(net, found, gates), gated(net, found, gates))]
    same(pairs[0][1], pairs[1][1])


@jax.custom_vjp
def _own_product(x, w):
    return jnp.tanh(x) @ w


_own_product.defvjp(lambda x, w: (_own_product(x, w), (x, w)), lambda kept, g: (0.1 * g @ kept[1].T, kept[0].T @ g))


@pytest.mark.parametrize("product", [_own_product, ruled_product], ids=["custom_vjp", "custom_jvp"])
def test_compact_rewrites_rules_that_make_units_and_rules_that_sum_over_them(product):
    """The rules are not the derivatives of the functions: what is compared are theirs."""
    rng = np.random.default_rng(0)
    params, given = {"in": rng.normal(size=(3, 6)), "out": rng.normal(size=(6, 2))}, rng.normal(size=(5, 3))
    gates = {"in": np.arange(6) % 2 > 0}
    makes = jp.Network(lambda p, s, x: product(x, p["in"]) @ p["out"], params)
    reads = jp.Network(lambda p, s, x: product(x @ p["in"], p["out"]), params)
    inside = jp.Network(lambda p, s, x: jax.checkpoint(product)(jnp.tanh(product(x, p["in"])), p["out"]), params)
    for net in (makes, reads, inside):
        found = discover(net, given)
        small = compact(net, found, gates)
        slopes, outputs = measured(small, given)
        whole, want = measured(gated(net, found, gates), given)
        same(outputs, want)
        same(slopes, sliced(whole, found, gates))
        shapes = [
            equation.outvars[0].aval.shape for equation in _equations(jax.make_jaxpr(jax.grad(_read(small)))(given))
        ]
        assert not [shape for shape in shapes if 6 in shape]  # nothing is of the full size, its derivative neither


def _read(network):
    return lambda images: jnp.sum(jnp.sin(network(images)))


def _equations(closed):
    return [inner for equation in closed.eqns for inner in with_inner(equation)]


def test_compact_rewrites_the_rule_of_a_rule():
    """Products with the Hessian, through a rule that calls the function itself."""
    rng = np.random.default_rng(0)
    params, given = {"in": rng.normal(size=(3, 6)), "out": rng.normal(size=(6, 2))}, rng.normal(size=(5, 3))
    net = jp.Network(lambda p, s, x: ruled_product(jax.nn.relu(x @ p["in"]), p["out"]), params)
    found = discover(net, given)
    gates = {"in": np.arange(6) % 2 > 0}
    small, switched = compact(net, found, gates), gated(net, found, gates)
    pairs = [
        jax.jvp(lambda x, one=one: jax.grad(_read(one))(x), (given,), (np.cos(given),)) for one in (small, switched)
    ]
    same(*pairs)
    third = jax.grad(lambda x: jnp.sum(jax.jvp(jax.grad(_read(small)), (x,), (np.cos(given),))[1]))
    with pytest.raises(ValueError, match="expected derivatives up to the second"):
        jax.jvp(third, (given,), (given,))


def test_compact_asks_rules_beyond_second_derivatives_at_the_full_size():
    rng = np.random.default_rng(0)
    params, given = {"in": rng.normal(size=(3, 6)), "out": rng.normal(size=(6, 2))}, rng.normal(size=(2, 3))
    net = jp.Network(lambda p, s, x: jnp.logaddexp(x @ p["in"], jnp.ones(6)) @ p["out"], params)
    found = discover(net, given)
    gates = {"in": np.arange(6) % 2 > 0}
    fourth = [
        jax.jvp(lambda x, one=one: jax.hessian(_read(one))(x), (given,), (given,))
        for one in (compact(net, found, gates), gated(net, found, gates))
    ]
    same(*fourth)


@jax.custom_vjp
def _centred_backwards(x):
    return jnp.tanh(x)


_centred_backwards.defvjp(lambda x: (_centred_backwards(x), x), lambda x, g: (g - g.mean(-1, keepdims=True) + 0 * x,))


def test_discover_follows_derivative_rules():
    """A backward pass that takes a mean over the units: it is not that of fewer units."""
    params = {"in": np.ones((3, 6)), "out": np.ones((6, 2))}
    found = discover(jp.Network(lambda p, s, x: _centred_backwards(x @ p["in"]) @ p["out"], params), np.ones((5, 3)))
    assert not found.groups
    assert "a sum or mean over the units" in found.fixed["in", 1]
