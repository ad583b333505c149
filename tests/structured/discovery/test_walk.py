"""Every way in which a program may be written, and what must not be claimed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive

import jaxprune as jp
from jaxprune.structured.discovery import discover

RNG = np.random.default_rng(0)
PARAMS = {
    "in": RNG.normal(size=(3, 6)),
    "bias": RNG.normal(size=6),
    "scale": 1 + 0.1 * RNG.normal(size=6),
    "out": RNG.normal(size=(6, 2)),
}
IMAGES = RNG.normal(size=(5, 3))


def network(units, params=PARAMS):
    """Units are made by one kernel, and read by another."""
    return jp.Network(lambda p, s, x: units(p, x @ p["in"] + p["bias"]) @ p["out"], params)


def _scan(p, x):
    return lax.scan(lambda c, w: (jnp.tanh(c) * w, None), x, jnp.ones((2, 6)))[0]


def _while(p, x):
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1]


def _cond(p, x):
    return lax.cond(jnp.asarray(True), lambda x: jnp.tanh(x), lambda x: 2 * x, x)


@jax.custom_vjp
def _own(x):
    return jnp.tanh(x)


_own.defvjp(lambda x: (_own(x), x), lambda x, g: (g,))

FOUND = {
    "relu (a custom derivative)": lambda p, x: jax.nn.relu(x),
    "a backward pass of its own": lambda p, x: _own(x),
    "jit": lambda p, x: jax.jit(jnp.tanh)(x),
    "checkpoint": lambda p, x: jax.checkpoint(lambda x: jnp.sin(x) * p["scale"])(x),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "clip": lambda p, x: jnp.clip(x, 0, 6),
    "where": lambda p, x: jnp.where(x > 0, x, p["scale"] * x),
    "vmap": lambda p, x: jax.vmap(lambda row: row * p["scale"])(x),
    "a sort of the examples": lambda p, x: jnp.sort(x, axis=0),
    "a running sum of the examples": lambda p, x: jnp.cumsum(x, axis=0),
    "a mean of the examples": lambda p, x: x - x.mean(0),
    "a barrier": lambda p, x: lax.optimization_barrier((x, x))[1],
    "a factor for all units, read by a leaf": lambda p, x: x * jax.nn.sigmoid(x @ p["out"][:, :1]),
    "a take of another axis": lambda p, x: jnp.take(x, np.array([4, 0, 0, 1]), axis=0),
    "half precision": lambda p, x: x.astype(jnp.bfloat16).astype(x.dtype),
    "top_k of the examples": lambda p, x: lax.top_k(x.T, 2)[0].T,
    "an order of the units": lambda p, x: x[:, np.array([3, 1, 0, 2, 5, 4])],
    "a scatter of all": lambda p, x: x.at[...].multiply(p["scale"]),
    "a scatter into examples": lambda p, x: x.at[jnp.array([0, 2])].add(p["scale"]),
    "a scatter into one example": lambda p, x: x.at[1].set(p["scale"]),
    "a roll": lambda p, x: jnp.roll(x, 2, axis=1),
}


@pytest.mark.parametrize("name", FOUND)
def test_discover_follows(name):
    (group,) = discover(network(FOUND[name]), IMAGES)
    assert group.size == 6
    assert {"in", "bias", "out"} <= {member.leaf for member in group.members}
    assert [member.leaf for member in group.members if member.reads] == ["out"]


def _layernorm(p, x):
    m = x.mean(-1, keepdims=True)
    return (x - m) * lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


STATISTICS = {
    "LayerNorm": _layernorm,
    "LayerNorm by products": lambda p, x: x / (1 + (x * x) @ jnp.ones(6))[:, None],
    "RMSNorm": lambda p, x: x * lax.rsqrt((x**2).mean(-1, keepdims=True)) * p["scale"],
    "RMS by einsum": lambda p, x: x * lax.rsqrt(jnp.einsum("bi,bi->b", x, x))[:, None],
    "RMS by einsum, twice": lambda p, x: jnp.einsum("b,bi->bi", jnp.einsum("bi,bi->b", x, x), x),
    "RMS of all examples": lambda p, x: x * lax.rsqrt(jnp.einsum("bi,bi->", x, x)),
    "RMS by vdot": lambda p, x: jax.vmap(lambda row: row / jnp.vdot(row, row))(x),
    "GRN": lambda p, x: x * jnp.abs(x) / jnp.abs(x).mean(-1, keepdims=True),
    "softmax": lambda p, x: jax.nn.softmax(x),
    "a maximum": lambda p, x: x - x.max(-1, keepdims=True),
    "a maximum in a loop": lambda p, x: lax.fori_loop(0, 2, lambda i, x: x - x.max(), x),
    "a norm that a loop carries": lambda p, x: lax.scan(
        lambda c, _: ((c[0] * c[1], jnp.einsum("bi,bi->", c[0], c[0])), None), (x, jnp.ones(())), None, length=2
    )[0][0],
    "a sort of the units": lambda p, x: jnp.sort(x, axis=1),
    "top_k": lambda p, x: lax.top_k(x, 6)[0],
    "a running sum": lambda p, x: jnp.cumsum(x, axis=1),
    "the largest unit": lambda p, x: jnp.where(jnp.argmax(x, -1)[:, None] == jnp.arange(6), x, 0),
    "windows of units": lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3), (1, 1), "SAME"),
    "units looked up by others": lambda p, x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "a scatter into a unit": lambda p, x: x.at[:, jnp.array([0, 1, 2, 3, 4, 5])].add(1.0),
    "Fourier": lambda p, x: jnp.fft.fft(x).real,
    "a part that is computed": lambda p, x: jnp.tile(lax.dynamic_slice_in_dim(x, x[0, 0].astype(int), 3, 1), (1, 2)),
    "a triangular solve": lambda p, x: lax.linalg.triangular_solve(jnp.eye(6), x.T, left_side=True).T,
}


@pytest.mark.parametrize("name", STATISTICS)
def test_discover_claims_no_units_that_a_statistic_is_over(name):
    found = discover(network(STATISTICS[name]), IMAGES, inner=True)
    assert not found.groups
    assert ("in", 1) in found.fixed


def test_discover_keeps_one_unit_that_all_others_read():
    found = discover(network(lambda p, x: x + x[:, :1]), IMAGES)
    assert [group.size for group in found] == [5]
    assert found.fixed["in", 1] == "1 of 6 indices: one index serves all of another axis (add)"


def test_discover_says_why_and_on_which_way():
    found = discover(network(_layernorm), IMAGES)
    assert found.fixed["in", 1] == "a sum or mean over the units (reduce_sum)"
    assert found.fixed["out", 1] == "it reaches the outputs (the outputs)"
    assert found.fixed["in", 0].startswith("it meets the images")
    rms = discover(network(STATISTICS["RMS by einsum"]), IMAGES).fixed["out", 0]
    assert rms == "a statistic over the units returns to them by a broadcast (a statistic), by way of dot_general"


def test_discover_leaves_out_units_that_no_leaf_makes():
    net = jp.Network(lambda p, s, x: jax.nn.one_hot(jnp.argmax(x @ p["in"], -1), 6) @ p["out"], PARAMS)
    assert discover(net, IMAGES).left_out["out"][1] == "no leaf makes it"


ALONE = {
    "reshaped": lambda h: h[:, 2:3].reshape(-1),
    "squeezed": lambda h: lax.squeeze(h[:, 2:3], (1,)),
    "indexed": lambda h: h[:, 2],
    "spread": lambda h: jnp.broadcast_to(h[:, 2:3], (5, 2))[:, 0],
    "unstacked": lambda h: jnp.unstack(h[:, 2:3], axis=1)[0],
}


@pytest.mark.parametrize("name", ALONE)
def test_discover_keeps_a_unit_that_is_taken_by_itself(name):
    def apply(p, s, x):
        h = jnp.tanh(x @ p["in"])
        return h @ p["out"] + ALONE[name](h)[:, None]

    (group,) = discover(jp.Network(apply, PARAMS), IMAGES)
    assert group.members[0].places(5)[:, 0].tolist() == [0, 1, 3, 4, 5]


@jax.custom_vjp
def _rule(x, *kernels):
    product = x
    for kernel in kernels:
        product = product @ kernel
    return product


_rule.defvjp(lambda x, *kernels: (_rule(x, *kernels), (x, kernels)), lambda kept, g: (kept[0], *kept[1]))
SEALED = {
    "'in' both makes and reads it": lambda p, x: _rule(jnp.tanh(x @ p["in"]), p["in"].T, jnp.ones((3, 2))),
    "it ends in a product of values that are no leaves": lambda p, x: _rule(jnp.tanh(x @ p["in"]), p["out"] ** 2),
}


@pytest.mark.parametrize("why", SEALED)
def test_discover_leaves_out_units_that_end_inside_a_rule_and_not_in_a_leaf(why):
    """Nothing can be put into a function with a derivative of its own: only leaves can hold the zeros."""
    net = jp.Network(lambda p, s, x: SEALED[why](p, x), {**PARAMS, "other": RNG.normal(size=(3, 6))})
    assert why in discover(net, IMAGES).left_out["in"][1]


def test_discover_gates_units_inside_a_rule_by_the_leaf_that_reads_them():
    net = jp.Network(lambda p, s, x: _rule(jnp.tanh(x @ p["in"]), p["out"]), PARAMS)
    (group,) = discover(net, IMAGES)
    assert (group.by_readers, group.by_sums) == (True, False)
    alive = np.arange(6) % 2 > 0
    want = jnp.tanh(IMAGES @ PARAMS["in"][:, alive]) @ PARAMS["out"][alive]
    np.testing.assert_allclose(jp.structured.gated(net, [group], {"in": alive})(IMAGES), want, rtol=1e-12)


def product_primitive():
    """A product that JAX does not know."""
    primitive = Primitive("my_product")
    primitive.def_impl(lambda x, w: x @ w)
    primitive.def_abstract_eval(lambda x, w: ShapedArray((x.shape[0], w.shape[1]), x.dtype))
    return primitive


@pytest.mark.usefixtures("unchecked")
def test_discover_takes_descriptions_of_primitives():
    primitive = product_primitive()
    net = jp.Network(lambda p, s, x: primitive.bind(jnp.tanh(x @ p["in"]), p["out"]), PARAMS)
    found = discover(net, IMAGES)
    assert not found.groups
    assert "my_product: nothing describes this primitive" in found.fixed["in", 1]
    (group,) = discover(net, IMAGES, describe={"my_product": lambda params, *shapes: "b c, c k -> b k"})
    assert [(member.leaf, member.reads) for member in group.members] == [("in", False), ("out", True)]
    for wrong, said in (("b c -> b", "a letter for every axis"), ("b b, b k -> b k", "one index")):
        with pytest.raises(ValueError, match=said):
            discover(net, IMAGES, describe={"my_product": lambda params, *shapes, wrong=wrong: wrong})
    with pytest.raises(ValueError, match="describe: expected functions"):
        discover(net, IMAGES, describe={"my_product": "b c, c k -> b k"})  # pyright: ignore[reportArgumentType]


def test_discover_refuses_what_is_no_pure_network():
    def loud(p, s, x):
        jax.debug.print("{}", x.sum())
        return x @ p["in"]

    with pytest.raises(ValueError, match="side effects"):
        discover(jp.Network(loud, {"in": PARAMS["in"]}), IMAGES)
    with pytest.raises(ValueError, match="images: expected images that the network takes"):
        discover(jp.Network(lambda p, s, x: x @ p["in"], {"in": PARAMS["in"]}), IMAGES[:, 1:])
    with pytest.raises(ValueError, match="depend on the images"):
        discover(jp.Network(lambda p, s, x: p["in"], {"in": PARAMS["in"]}), IMAGES)
    with pytest.raises(ValueError, match="two are called 'in'"):
        discover(jp.Network(lambda p, s, x: x @ p["in"], {"in": PARAMS["in"]}, {"in": np.ones(3)}), IMAGES)


def test_discover_ties_the_state_that_a_step_returns():
    """A statistic in training mode only fixes units as well; one of each unit alone goes with it."""

    def apply(p, s, x):
        return ((x @ p["in"] - s["mean"]) * p["scale"]) @ p["out"]

    def each(p, s, x, rngs):
        return apply(p, s, x), {"mean": 0.9 * s["mean"] + 0.1 * (x @ p["in"]).mean(0)}

    def other(p, s, x, rngs):
        noise = jax.random.bernoulli(rngs["dropout"], 0.5, (5, 6))
        return jax.nn.softmax(jnp.where(noise, x @ p["in"], 0)) @ p["out"], s

    params = {name: leaf for name, leaf in PARAMS.items() if name != "bias"}
    state = {"mean": np.zeros(6)}
    (group,) = discover(jp.Network(apply, params, state, each), IMAGES)
    assert {member.leaf for member in group.members} == {"in", "mean", "scale", "out"}

    def written(p, s, x, rngs):  # and never read
        return apply(p, s, x), {**s, "last": (x @ p["in"]).max(0)}

    (group,) = discover(jp.Network(apply, params, {**state, "last": np.zeros(6)}, written), IMAGES)
    assert {member.leaf for member in group.members} == {"in", "last", "mean", "scale", "out"}
    assert not discover(jp.Network(apply, params, state, other), IMAGES).groups
    for wrong in ({"mean": IMAGES}, {"mean": np.zeros(6), "more": np.zeros(6)}, ()):
        with pytest.raises(ValueError, match="a state like the one it takes"):
            discover(jp.Network(apply, params, state, lambda p, s, x, r, w=wrong: (apply(p, s, x), w)), IMAGES)


def test_discover_looks_at_shapes_alone():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), PARAMS)
    (group,) = discover(network(FOUND["jit"], shapes), jax.ShapeDtypeStruct((5, 3), "float32"))
    assert group.size == 6


def test_discover_notes_what_counts_units():
    found = discover(network(lambda p, x: x * jnp.arange(6.0)), IMAGES)
    assert found.notes == {"in": ("the program counts its units (iota)",)}
    assert discover(network(FOUND["jit"]), IMAGES).notes == {}
