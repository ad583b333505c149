"""Proof by cutting: what is right is proven, and what a wrong rule claims is found and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured import Traced, compact, discover, gated, prune_jointly, verify
from jaxprune.structured.discovery import arithmetic, compacting, proving, walk
from tests.structured.discovery import plain

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 1, 1, 4))
PARAMS = {name: RNG.normal(size=shape) for name, shape in {"a": (4, 6), "b": (6, 5), "c": (5, 4), "d": (4, 3)}.items()}


def summed(p, s, x):
    """A running sum along the units of ``b``, of which a wrong rule says that it keeps them apart."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ p["a"])
    return jax.nn.sigmoid(jnp.cumsum(hidden @ p["b"], 1) @ p["c"]) @ p["d"]


@pytest.fixture
def wrong(monkeypatch):
    monkeypatch.setitem(walk.RULES, "cumsum", arithmetic.identity)
    return jp.Network(summed, PARAMS)


def test_proven_are_groups_inside_of_others_too():
    net = plain.network("attention")
    found = discover(net, plain.images(), prove=True, inner=True)
    assert [layer.name for layer in found.layers] == ["out", "down"]
    assert found.proof == dict.fromkeys((one.name for one in (*found, *found.layers)), "")
    assert (found.unproven, found.proven.groups, found.proven.layers) == ({}, found.groups, found.layers)
    assert " proven " in str(found).splitlines()[0]
    assert str(found).count(" yes ") == len(found) + 2


def test_proven_is_in_float64_whatever_the_weights_are():
    """Of shapes alone, and of float32: the proof does not read weights."""
    net = plain.network("glu")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), net)
    jax.config.update("jax_enable_x64", False)
    found = discover(shapes, jax.ShapeDtypeStruct((3, 4, 4, 3), np.float32), prove=True)
    assert found.proof == {"in": ""}
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_proven_finds_by_halves_what_a_wrong_rule_claims(wrong):
    found = discover(wrong, IMAGES, prove=True)
    assert {name: bool(why) for name, why in (found.proof or {}).items()} == {"a": False, "b": True, "c": False}
    lines = str(found).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [["a", "6", "yes"], ["b", "5", "no"], ["c", "4", "yes"]]
    assert lines[4].startswith("b is not proven: cut, the outputs differ by 0.")
    assert [group.name for group in found.proven] == ["a", "c"]
    assert found.proven.proof == {"a": "", "c": ""}
    gates = {"a": np.arange(6) > 2, "c": np.arange(4) > 1}
    np.testing.assert_allclose(compact(wrong, found.proven, gates)(IMAGES), gated(wrong, found, gates)(IMAGES))


@pytest.mark.parametrize(
    "use",
    [
        lambda net, found: compact(net, found, {}),
        Traced.of,
        lambda net, found: verify(net, found, IMAGES),
        lambda net, found: prune_jointly(net, found, [{"image": IMAGES}], 0.3),
    ],
    ids=["compact", "Traced", "verify", "prune_jointly"],
)
def test_proven_alone_can_be_removed(wrong, use):
    with pytest.raises(ValueError, match=r"expected groups that are proven, but b is not \(b: cut, the outputs differ"):
        use(wrong, discover(wrong, IMAGES, prove=True))


def test_prune_jointly_refuses_what_was_not_proven_and_is_wrong(wrong):
    with pytest.raises(ValueError, match="to remove units of 'b' is not to gate them off"):
        prune_jointly(wrong, discover(wrong, IMAGES), [{"image": IMAGES}], 0.3)


def test_proven_asks_for_a_proof():
    found = discover(plain.network("glu"), plain.images())
    assert (found.proof, found.unproven) == (None, {})
    with pytest.raises(ValueError, match=r"Call discover\(\.\.\., prove=True\)"):
        _ = found.proven


def test_proven_says_where_nothing_can_be_compared(monkeypatch):
    """Outputs that are not finite, that do not move, and programs that cannot be evaluated."""

    def dense(p, x):
        return jnp.tanh(x.reshape(len(x), -1) @ p["a"]) @ p["b"]

    endless = jp.Network(lambda p, s, x: jnp.log(-jnp.exp(dense(p, x))), PARAMS)
    assert "outputs are not finite" in discover(endless, IMAGES, prove=True).unproven["a"]
    still = jp.Network(lambda p, s, x: dense(p, x) * 1e-30 + jnp.sum(p["d"]), PARAMS)
    assert discover(still, IMAGES, prove=True).unproven == {"a": "nothing of it acts on the outputs"}

    def broken(*given):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(proving, "cut", broken)
    found = discover(plain.network("glu"), plain.images(), prove=True)
    assert found.unproven == {"in": "cut, it raises RuntimeError: no such luck"}


def _stepped(p, s, x, rngs):
    """In training, and nowhere else, a running sum along the units of ``b``."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ p["a"])
    units = jnp.cumsum(hidden @ p["b"], 1) if "sum" in s else hidden @ p["b"]
    state = {name: leaf + jnp.cumsum(units, 1).mean(0) for name, leaf in s.items()}
    return jax.nn.sigmoid(units @ p["c"]) @ p["d"], state


@pytest.mark.parametrize(("name", "what"), [("sum", "the outputs in training"), ("kept", "the state 'kept' of a step")])
def test_proven_is_of_a_training_step_and_its_state_too(name, what, monkeypatch):
    monkeypatch.setitem(walk.RULES, "cumsum", arithmetic.identity)
    right = lambda p, s, x: _stepped(p, {}, x, {})[0]  # noqa: E731
    net = jp.Network(right, PARAMS, {name: np.ones(5)}, _stepped)
    found = discover(net, IMAGES, prove=True)
    assert {one: bool(why) for one, why in (found.proof or {}).items()} == {"a": False, "b": True, "c": False}
    assert found.unproven["b"].startswith(f"cut, {what} differ")
    assert not discover(jp.Network(right, PARAMS), IMAGES, prove=True).unproven


def test_proven_are_residual_branches(monkeypatch):
    """One that is left out where another stream goes on is found, alone, and cannot be removed."""
    net = plain.network("residual")
    honest = compacting.left_out

    def forgetful(function, gone, names, tied):
        made = honest(function, gone, names, tied)
        return (lambda *given: jax.tree.map(lambda one: 2 * one, made(*given))) if "a1" in gone else made

    monkeypatch.setattr(compacting, "left_out", forgetful)
    found = discover(net, plain.images(), prove=True)
    assert {name: why[:17] for name, why in found.unproven.items()} == {"b1": "cut, the outputs "}
    assert "b1 is not proven" in str(found)
    assert [layer.name for layer in found.proven.layers] == ["b0#layer"]
    with pytest.raises(ValueError, match="expected groups that are proven, but b1 is not"):
        compact(net, found, {})
