"""Programs at smaller sizes against the whole ones with zeros: values, gradients, training, other sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.structured import Traced, compact, discover, gated, ones, remove, verify
from jaxprune.structured.removal import kept
from tests.structured.discovery.comparing import measured, same, sliced
from tests.structured.networks import random_weights


class VGG(nn.Module):
    """As a lab has it: widths fixed, no tags, flattened before the head."""

    @nn.compact
    def __call__(self, x, train=False):
        for width in (6, 8):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(10)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Pooled(nn.Module):
    """Concatenated, grouped, gated by squeeze and excitation, of any image size."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3))(x)
        x = jnp.concatenate([x, nn.gelu(nn.Conv(4, (3, 3), feature_group_count=2)(x))], -1)
        x = nn.relu(nn.Conv(8, (1, 1))(x))
        x = x * nn.sigmoid(nn.Dense(8)(nn.silu(nn.Dense(4)(x.mean((1, 2))))))[:, None, None]
        return nn.Dense(3)(nn.Conv(8, (3, 3), feature_group_count=8)(x).mean((1, 2)))


def built(module, size=8, **more):
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    return jp.Network.from_linen(
        module, random_weights(jax.eval_shape(module.init, jax.random.key(0), image), 0), **more
    )


def images(size=8, count=4):
    return np.random.default_rng(1).normal(size=(count, size, size, 3))


def halves(groups):
    rng = np.random.default_rng(2)
    return {group.name: rng.permutation(group.size) < max(2, group.size // 2) for group in groups}


@pytest.mark.parametrize("module", [VGG(), Pooled()], ids=["vgg", "pooled"])
def test_compact_is_what_gates_are(module):
    net = built(module)
    found = discover(net, images())
    gates = halves(found)
    small, switched = compact(net, found, gates), gated(net, found, gates)
    slopes, outputs = measured(small, images())
    whole, want = measured(switched, images())
    same(outputs, want)
    same(slopes, sliced(whole, found, gates))
    assert {(one.name, one.size) for one in discover(small, images())} == {
        (one.name, int(gates[one.name].sum())) for one in found
    }
    assert jp.cost.macs(small, (8, 8, 3)) < jp.cost.macs(net, (8, 8, 3))


def test_compact_takes_images_of_any_size_and_compiles_once():
    net = built(Pooled())
    found = discover(net, images())
    gates = halves(found)
    one, other = compact(net, found, gates), compact(net, found, gates)
    assert one.apply == other.apply
    assert hash(one.apply) == hash(other.apply)
    for size, count in ((8, 1), (12, 2)):
        want = gated(net, found, gates)(images(size, count))
        same(one(images(size, count)), want)
    mapped = jax.vmap(lambda image: one(image[None])[0])(images(12, 2))
    same(mapped, want)
    traced = []
    counted = jax.jit(lambda network: traced.append(1) or network(images()))
    counted(one), counted(other)
    assert len(traced) == 1


def test_compact_computes_in_the_type_that_it_is_given():
    """Weights of half precision, made wide afterwards: the program is the one of wide weights."""
    net = built(Pooled())
    narrow = net.replace(params=jp.tree.map_named(lambda name, leaf: jnp.asarray(leaf, jnp.bfloat16), net.params))
    found = discover(narrow, images())
    small = compact(narrow, found, halves(found))
    wide = small.replace(params=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), small.params))
    whole = narrow.replace(params=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), narrow.params))
    same(wide(images()), gated(whole, found, halves(found))(images()))


def test_compact_keeps_exact_second_order():
    """Products with the Hessian of both, in the same direction."""
    net = built(Pooled())
    found = discover(net, images())
    gates = halves(found)
    small, switched = compact(net, found, gates), gated(net, found, gates)
    batch = {"image": images(), "label": np.array([0, 1, 2, 0])}
    vector = jp.tree.map_named(
        lambda name, leaf: jnp.asarray(np.random.default_rng(len(name)).normal(size=leaf.shape)), net.params
    )
    hidden = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape).astype(leaf.dtype), net.params)
    places = jp.tree.map_named(lambda name, leaf: np.ix_(*kept(name, leaf.shape, found, gates)), net.params)
    names, flat = jp.tree.names(net.params), jp.tree.by_name(vector)
    inside = {
        name: hidden_leaf.at[place].set(flat[name][place])
        for name, hidden_leaf, place in zip(
            names, jax.tree.leaves(hidden), jax.tree.leaves(places, is_leaf=lambda x: isinstance(x, tuple)), strict=True
        )
    }
    direction = jp.tree.map_named(lambda name, leaf: inside[name], net.params)
    got = jp.curvature.hvp(
        small, jp.losses.cross_entropy, batch, jax.tree.map(jnp.asarray, sliced(direction, found, gates))
    )
    want = jp.curvature.hvp(switched, jp.losses.cross_entropy, batch, direction)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), got, sliced(want, found, gates))


def test_compact_can_be_compacted_again():
    net = built(VGG())
    found = discover(net, images())
    first = compact(net, found, halves(found))
    again = discover(first, images())
    gates = {group.name: np.arange(group.size) > 0 for group in again}
    want = gated(first, again, gates)(images())
    same(compact(first, again, gates)(images()), want)


@pytest.mark.usefixtures("unchecked")
def test_compact_refuses_what_does_not_fit():
    net = built(VGG())
    found = discover(net, images())
    with pytest.raises(ValueError, match=r"expected what jp.structured.discover returned, but got a tuple"):
        compact(net, found.groups, {})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="leaves of other shapes"):
        compact(built(Pooled()), found, {})
    with pytest.raises(ValueError, match="no group is called 'nothing'"):
        compact(net, found, {"nothing": np.ones(3, bool)})
    with pytest.raises(ValueError, match=r"gates: expected bool .* by the name of each group, but got a list"):
        compact(net, found, [True])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the parameters and the state that were left"):
        compact(net, found, halves(found)).replace(params=net.params)(images())
    with pytest.raises(ValueError, match="below its floor of 1"):
        compact(net, found, {"Conv_0": np.zeros(6, bool)})


def test_compact_says_where_units_go_otherwise_at_another_size():
    """A network that does something else with large images, as no honest one does."""

    def apply(p, s, x):
        h = jnp.tanh(x @ p["in"])
        return (jax.nn.softmax(h) if len(x) > 2 else h) @ p["out"]

    net = jp.Network(apply, {"in": np.ones((3, 4)), "out": np.ones((4, 2))})
    small = compact(net, discover(net, np.ones((2, 3))), {"in": np.array([True, False, True, True])})
    assert small(np.ones((1, 3))).shape == (1, 2)
    with pytest.raises(ValueError, match="axis 1 of 'in' is of others"):
        small(np.ones((4, 3)))


def test_traced_is_the_specification_of_a_network_of_fixed_widths(tmp_path):
    """Verified, accounted for, removed in two steps, saved and opened with the function that its owner has."""
    net = built(VGG(), train={"train": True})
    found = discover(net, images())
    verify(net, found, images().astype(np.float32))
    shape = Traced.of(net, found)
    book = jp.structured.account(shape, net.params, net.state, (8, 8, 3))
    gates = halves(found)
    smaller, params, state = remove(shape, net.params, net.state, gates)
    small = smaller.network(params, state)
    assert book.macs(ones(found) | gates) == jp.cost.macs(small, (8, 8, 3))
    more = {group.name: np.arange(group.size) > 0 for group in smaller.groups()}
    least, left, rest = remove(smaller, params, state, more)
    same(least.network(left, rest)(images()), gated(small, smaller.groups(), more)(images()))
    jp.structured.save(tmp_path, least, left, rest, (8, 8, 3))
    opened = jp.structured.load(tmp_path, lambda values: Traced.described(values, net))
    assert opened[0] == least
    with pytest.raises(ValueError, match="the whole network that was made smaller"):
        Traced.described(least.describe(), built(Pooled()))


def test_compact_refuses_primitives_that_were_described():
    net = built(Pooled())
    found = discover(net, images(), describe={"mystery": lambda params, *shapes: "b c -> b c"})
    with pytest.raises(ValueError, match="but mystery was described"):
        compact(net, found, {})
