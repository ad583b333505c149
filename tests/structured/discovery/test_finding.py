"""What is found in programs is removed for real, and is what zeros do: values and gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured import Declared, account, compact, criteria, gated, ones, remove, verify
from jaxprune.structured.discovery import discover
from jaxprune.structured.gates import outputs
from jaxprune.structured.removal import kept
from tests.structured import networks
from tests.structured.discovery import plain
from tests.structured.discovery.programs import program

CLOSE = 1e-12


def vgg_images(name):
    size = {"vgg": 8}.get(name, 4)
    return np.random.default_rng(1).normal(size=(3, size, size, 3))


@pytest.mark.parametrize("name", plain.NETWORKS)
def test_discover_finds_the_groups_of_plain_networks(name):
    found = discover(plain.network(name), vgg_images(name))
    assert {group.name: group.size for group in found} == plain.NETWORKS[name].groups


def _zeroed(values, groups, gates):
    """The leaves with zeros in all that the units that are gone own."""

    def zero(name, leaf):
        result = np.zeros(np.shape(leaf))
        places = np.ix_(*kept(name, np.shape(leaf), groups, gates)) if np.ndim(leaf) else ()
        result[places] = np.asarray(leaf)[places]
        return result

    return jp.tree.map_named(zero, values)


def _sliced(values, groups, gates):
    return jp.tree.map_named(
        lambda name, leaf: np.asarray(leaf)[np.ix_(*kept(name, np.shape(leaf), groups, gates))], values
    )


@pytest.mark.parametrize("name", plain.NETWORKS)
def test_discover_means_what_removing_does(name):
    net, images = plain.network(name), vgg_images(name)
    groups, rng = discover(net, images).groups, np.random.default_rng(2)
    gates = {group.name: rng.permutation(group.size) < max(2, group.size // 2) for group in groups}
    smaller, params, state = remove(Declared(net.apply, groups), net.params, net.state, gates)
    readout = np.random.default_rng(3).normal(size=jax.eval_shape(net, images).shape)

    @jax.jit
    def measured(network):
        def read(params):
            outputs = network.replace(params=params)(images)
            return jnp.sum(jnp.sin(outputs) * readout), outputs

        return jax.grad(read, has_aux=True)(network.params)

    slopes, want = measured(smaller.network(params, state))
    assert want.dtype == np.float64
    zeroed = net.replace(params=_zeroed(net.params, groups, gates), state=_zeroed(net.state, groups, gates))
    by_gates, outputs = measured(gated(net, groups, gates))
    for other in (outputs, measured(zeroed)[1]):
        np.testing.assert_allclose(other, want, rtol=CLOSE, atol=CLOSE)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=CLOSE, atol=CLOSE),
        _sliced(by_gates, groups, gates),
        slopes,
    )
    assert smaller.groups() == discover(smaller.network(params, state), images).groups


@pytest.mark.parametrize("seed", range(10))
def test_discover_claims_of_random_programs_what_cutting_them_shows(seed):
    net, images = program(seed)
    found = discover(net, images, inner=True)
    groups, rng = found.groups, np.random.default_rng(seed)
    for chosen in (groups, groups[:1]):
        gates = ones(groups) | {one.name: rng.permutation(one.size) < max(1, one.size // 2) for one in chosen}
        want = np.asarray(outputs(compact(net, found, gates), images))
        scale = max(1e-3, np.abs(want).max())
        others = [gated(net, groups, gates)]
        if all(any(member.reads for member in group.members) for group in chosen):  # zeros in leaves are its end too
            others.append(net.replace(params=_zeroed(net.params, groups, gates)))
        for other in others:
            np.testing.assert_allclose(np.asarray(outputs(other, images)) / scale, want / scale, rtol=0, atol=CLOSE)


def _units(group):
    """What each unit owns, as (leaf, axis, index), in no order."""
    found = [set() for _ in range(group.size)]
    for member in group.members:
        for unit, places in enumerate(member.places(group.size)):
            found[unit] |= {(member.leaf, member.axis, int(place)) for place in places}
    return set(map(frozenset, found))


@pytest.mark.parametrize("name", ["bottleneck", "branches", "windows", "inverted"])
def test_discover_finds_what_our_own_models_declare(name):
    found = {frozenset(_units(group)): group for group in discover(networks.network(name), networks.images(name))}
    declared = [group for group in networks.build(name)[0].groups() if not group.is_layer and group.size > 1]
    for group in declared:
        twin = found[frozenset(_units(group))]
        assert {member.leaf for member in twin.members if member.reads} == {
            member.leaf for member in group.members if member.reads
        }


@pytest.mark.parametrize("name", ["vgg", "densenet", "attention", "grouped"])
def test_discover_lists_groups_that_verify_passes_and_accounts_know(name):
    net, images = plain.network(name), vgg_images(name)
    groups = discover(net, images).groups
    verify(net, groups, images)
    shape = Declared(net.apply, groups)
    book = account(shape, net.params, net.state, images.shape[1:])
    gates = {group.name: np.arange(group.size) >= group.size // 2 for group in groups}
    smaller, params, state = remove(shape, net.params, net.state, gates)
    assert book.parameters(gates) == jp.tree.size(params)
    assert book.macs(gates) == jp.cost.macs(smaller.network(params, state), images.shape[1:])
    assert Declared.described(jax.tree.map(lambda leaf: leaf, smaller.describe()), net.apply) == smaller


def test_discover_inner_groups_overlap_and_are_accounted_for():
    """Heads and the dimensions in them share every index of a merged axis."""

    def apply(p, s, x):
        heads = jnp.tanh((x[:, 0, 0] @ p["in"]).reshape(len(x), p["scale"].shape[0], -1))
        return (heads * p["scale"][:, None] * p["shift"]).reshape(len(x), -1) @ p["out"]

    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(3, 12)), "scale": np.ones(3), "shift": np.ones(4), "out": rng.normal(size=(12, 2))}
    net, images = jp.Network(apply, params), rng.normal(size=(5, 1, 1, 3))
    assert [group.size for group in discover(net, images)] == [3]
    groups = discover(net, images, inner=True).groups
    assert sorted(group.size for group in groups) == [3, 4]
    gates = {group.name: np.arange(group.size) != 1 for group in groups}
    shape = Declared(apply, groups)
    smaller, left, _ = remove(shape, params, {}, gates)
    assert left["in"].shape == (3, 6)
    assert account(shape, params, {}, (1, 1, 3)).parameters(gates) == jp.tree.size(left)
    np.testing.assert_allclose(gated(net, groups, gates)(images), smaller.network(left, {})(images), atol=CLOSE)
    verify(net, groups, images)


def test_discover_keeps_the_two_factors_of_a_square_apart():
    """Rows and columns own as much of the same leaves, and share an index: they are two groups."""

    def apply(p, s, x):
        table = jnp.tanh(x @ p["in"]).reshape(len(x), 3, 3)
        return table.swapaxes(1, 2).reshape(len(x), -1) @ p["out"]

    rng = np.random.default_rng(0)
    net, images = (
        jp.Network(apply, {"in": rng.normal(size=(3, 9)), "out": rng.normal(size=(9, 2))}),
        rng.normal(size=(5, 3)),
    )
    found = discover(net, images, inner=True)
    assert [group.size for group in found] == [3, 3]
    for group in found:
        for member in group.members:
            places = member.places(3)
            assert np.unique(places).size == places.size == 9
    gates = {group.name: np.arange(3) != number for number, group in enumerate(found)}
    np.testing.assert_allclose(compact(net, found, gates)(images), gated(net, found, gates)(images), atol=CLOSE)


def test_discover_lists_groups_that_criteria_rate():
    """The l1 norm of what makes a unit, wherever it lies in its leaves."""
    net, images = plain.network("densenet"), vgg_images("densenet")
    groups = discover(net, images).groups
    rated = criteria.l1()(net, groups, ones(groups), [])
    kernel = np.abs(np.asarray(net.params["grow0"])).sum((0, 1, 2))
    np.testing.assert_allclose(rated["grow0"], kernel, rtol=1e-6)


def test_discovered_is_printed():
    found = discover(plain.network("attention"), vgg_images("attention"))
    lines = str(found).splitlines()
    assert lines[0].split() == ["group", "units", "parameters", "products", "made", "by", "read", "by"]
    qkv = next(line for line in lines if line.startswith("qkv"))
    assert qkv.split()[:4] == ["qkv", "3", str(6 * 12 + 12 + 4 * 6), f"{16 * (6 * 12 + 4 * 6):,}"]
    assert "qkv[1] 3x4" in qkv
    assert qkv.endswith("out[0] x4")


def test_discovered_is_a_sequence_of_groups():
    found = discover(plain.network("glu"), vgg_images("glu"))
    assert (len(found), found[0], list(found)) == (1, found.groups[0], list(found.groups))
    assert jp.structured.discover is discover


def test_discover_lists_groups_that_are_gated_in_training():
    """A step's outputs and statistics are those of the smaller network, and the state stays whole."""
    plain_net, images = plain.network("residual"), vgg_images("residual")

    def train_apply(p, s, x, rngs):
        batch = {name: {"mean": one["mean"] + x.mean(), "var": one["var"] * 0.9} for name, one in s.items()}
        return plain.residual(p, batch, x), batch

    net = plain_net.replace(train_apply=train_apply)
    groups, rng = discover(net, images).groups, np.random.default_rng(0)
    gates = {group.name: rng.permutation(group.size) < 3 for group in groups}
    switched = gated(net, groups, gates)
    outputs, state = switched.train_apply(net.params, switched.state, images, {})
    smaller, params, small_state = remove(Declared(net.apply, groups, train_apply), net.params, net.state, gates)
    want, left = smaller.network(params, small_state).train_apply(params, small_state, images, {})
    np.testing.assert_allclose(outputs, want, rtol=CLOSE, atol=CLOSE)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=CLOSE),
        _sliced(state["network"], groups, gates),
        left,
    )


def test_discover_lists_groups_whose_readers_in_the_state_stay_whole():
    """A frozen head in the state reads the units: gates hide a part of it from the step, and take nothing away."""

    def apply(p, s, x):
        return jax.nn.relu(x @ p["in"]) @ s["head"]

    params, state = {"in": np.ones((3, 4))}, {"head": np.arange(8.0).reshape(4, 2)}
    net = jp.Network(apply, params, state, lambda p, s, x, r: (apply(p, s, x), s))
    groups = discover(net, np.ones((2, 3))).groups
    switched = gated(net, groups, {"in": np.array([True, False, True, False])})
    outputs, after = switched.train_apply(params, switched.state, np.ones((2, 3)), {})
    np.testing.assert_array_equal(after["network"]["head"], state["head"])
    np.testing.assert_array_equal(outputs, 3 * state["head"][[0, 2]].sum(0) * np.ones((2, 1)))


@pytest.mark.parametrize("blocks", ["all", "group"])
def test_discover_lists_groups_that_have_a_hessian(blocks):
    net, images = plain.network("glu"), vgg_images("glu")
    groups = discover(net, images).groups
    batch = {"image": images, "label": np.array([0, 1, 2])}
    loss = jp.losses.cross_entropy
    got = jp.structured.gate_hessian(net, groups, [batch], loss=loss, blocks=blocks)

    def mean(factors):
        params = {**net.params, "out": net.params["out"] * factors[:, None]}
        return jnp.mean(loss(net.replace(params=params)(images), batch))

    want = jax.hessian(mean)(jnp.ones(6))
    np.testing.assert_allclose(got["in"] if blocks == "group" else got, want, rtol=1e-9, atol=1e-12)


def test_discover_lists_groups_without_sites_which_activation_rates():
    net, images = plain.network("glu"), vgg_images("glu")
    groups = discover(net, images).groups
    rated = criteria.activation()(net, groups, ones(groups), [{"image": images}])
    a, b = np.split(images.reshape(3, -1) @ net.params["in"] + net.params["bias"], 2, 1)
    np.testing.assert_allclose(rated["in"], np.abs(jax.nn.silu(a) * b).mean(0), rtol=1e-6)


def test_discover_lists_groups_that_another_network_refuses():
    """Where the leaves that read the units are not there, nothing would be gated."""
    net, images = plain.network("glu"), vgg_images("glu")
    groups = discover(net, images).groups
    gates = {"in": np.arange(6) > 0}
    other = jp.Network(lambda p, s, x: net.apply(p["inner"], s, x), {"inner": net.params})
    with pytest.raises(ValueError, match="owns a part of 'bias', but the network has no leaf of that name"):
        gated(other, groups, gates)(images)
    short = jp.Network(
        lambda p, s, x: x.reshape(3, -1)[:, :6] @ p["out"], {**net.params, "bias": net.params["bias"][:5]}
    )
    with pytest.raises(ValueError, match="too short for its units"):
        gated(short, groups, gates)(images)
