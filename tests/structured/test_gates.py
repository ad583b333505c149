"""Gates: a unit that is switched off passes zero, in evaluation and training, in one program for every choice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import criteria, factored, gated, ones, verify
from tests.structured import networks


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_gated_off_a_unit_is_one_that_nobody_reads(name):
    module, _, state = networks.build(name)
    images = networks.images(name)
    gates = networks.random_gates(module.groups(), seed=1)
    got = networks.evaluate(gated(networks.network(name), module.groups(), gates), images)
    want = networks.evaluate(module.network(networks.scaled(name, gates), state), images)
    assert networks.distance(got, want) < 1e-12
    whole = networks.evaluate(networks.network(name), images)
    assert networks.distance(got, whole) > 1e-3
    assert networks.distance(
        networks.evaluate(gated(networks.network(name), module.groups(), {}), images), whole
    ) < 1e-14  # fmt: skip


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_factored_scales_what_lives(name):
    module, _, state = networks.build(name)
    rng = np.random.default_rng(2)
    gates = networks.random_gates(module.groups(), seed=3)
    factors = {group.name: rng.normal(size=group.size) for group in module.groups()}
    both = {group: factors[group] * gates[group] for group in gates}
    network = factored(networks.network(name), module.groups(), gates)
    assert {group: values.shape for group, values in network.params.items()} == {
        group: values.shape for group, values in gates.items()
    }
    got = networks.evaluate(network.replace(params=factors), networks.images(name))
    want = networks.evaluate(module.network(networks.scaled(name, both), state), networks.images(name))
    assert networks.distance(got, want) < 1e-12


def test_gated_units_are_not_those_of_a_masked_kernel():
    module, params, state = networks.build("basic")
    norm, statistics = params["stage1_block1"]["norm1"], state["batch_stats"]["stage1_block1"]["norm1"]
    # relu((0 - mean) / sd * scale + bias) still flows.
    flow = norm["bias"] - statistics["mean"] / np.sqrt(statistics["var"] + 1e-5) * norm["scale"]
    unit = int(np.argmax(flow))
    assert flow[unit] > 0.1
    kernel = params["stage1_block1"]["conv1"]["kernel"].copy()
    kernel[..., unit] = 0
    masked = module.network(jp.tree.replace(params, "stage1_block1/conv1/kernel", kernel), state)
    removed = gated(networks.network("basic"), module.groups(), {"stage1_block1/units1": np.arange(4) != unit})
    images = networks.images("basic")
    assert networks.distance(networks.evaluate(masked, images), networks.evaluate(removed, images)) > 1e-3


def test_gated_lets_nothing_through_of_a_unit_that_is_not_finite():
    module, params, state = networks.build("basic")
    kernel = params["stage1_block1"]["conv1"]["kernel"].copy()
    kernel[..., 0] = np.nan
    broken = module.network(jp.tree.replace(params, "stage1_block1/conv1/kernel", kernel), state)
    gate = {"stage1_block1/units1": np.arange(4) != 0}
    images = networks.images("basic")
    got = networks.evaluate(gated(broken, module.groups(), gate), images)
    want = networks.evaluate(gated(networks.network("basic"), module.groups(), gate), images)
    np.testing.assert_array_equal(got, want)


def test_gated_networks_of_equal_groups_share_one_program():
    traced = []

    def apply(params, state, images):
        traced.append(True)
        return checkpoint_name(images, "units") @ params

    network = jp.Network(apply, np.ones((3, 2)))

    def groups():
        return (Group("units", 3, (Member("", 0),), ("units",)),)

    for gates in ([True, True, True], [True, False, True], [False, False, True]):
        got = networks.evaluate(gated(network, groups(), {"units": np.array(gates)}), np.array([[1.0, 2.0, 4.0]]))
        np.testing.assert_array_equal(got, np.full((1, 2), np.dot(gates, [1, 2, 4])))
    assert len(traced) == 1


def test_gated_training_keeps_the_gates_and_cuts_the_gradient():
    module = networks.build("resnet")[0]
    gates = networks.random_gates(module.groups(), seed=0)
    network = gated(networks.network("resnet"), module.groups(), gates)

    @jax.jit
    def gradient(network):
        def total(params):
            outputs, state = network.train_apply(params, network.state, networks.images("resnet"), {})
            return jnp.sum(outputs**2), state

        return jax.grad(total, has_aux=True)(network.params)

    slopes, state = gradient(network)
    jax.tree.map(np.testing.assert_array_equal, state["gates"], gates)
    found = jp.tree.by_name(slopes)
    for group in module.groups():
        for member in group.members:
            if group.is_layer and not gates[group.name][0]:
                assert all(np.all(leaf == 0) for name, leaf in found.items() if name.startswith(f"{member.leaf}/"))
            elif not group.is_layer and member.leaf in found:
                rows = np.moveaxis(np.asarray(found[member.leaf]), member.axis, 0)
                assert np.all(rows[~gates[group.name]] == 0)
    assert any(np.any(leaf != 0) for leaf in found.values())


def test_gated_switches_units_of_two_groups_at_one_site():
    network = jp.Network(lambda p, s, x: checkpoint_name(x, "here") @ p, np.eye(2))
    pair = (Group("units", 2, (Member("", 0),), ("here",)), Group("layer", 1, (Member("x"),), ("here",)))
    images = np.array([[3.0, 5.0]])
    first = gated(network, pair, {"units": np.array([False, True])})
    np.testing.assert_array_equal(first(images), [[0, 5]])
    np.testing.assert_array_equal(gated(network, pair, {"layer": np.array([False])})(images), [[0, 0]])


def test_ones_let_every_unit_live():
    got = ones(networks.build("vit")[0].groups())
    assert got["block0/heads"].tolist() == [True] * 2
    assert got["block1/mlp"].tolist() == [True]
    assert set(got) == {group.name for group in networks.build("vit")[0].groups()}


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"other": np.ones(5, bool)}, r"gates: no group is called 'other'\. The groups are: units, extra"),
        ({"units": np.ones(4, bool)}, r"gates: expected bool \[5\] for 'units'.*but got bool \[4\].*ones\(groups\)"),
        ({"units": np.ones(5)}, r"gates: expected bool \[5\] for 'units'.*but got float64 \[5\]"),
    ],
)
def test_gated_names_gates_that_do_not_fit(gates, message):
    with pytest.raises(ValueError, match=message):
        gated(networks.MLP.network(networks.mlp_params(), {}), networks.MLP.groups(), gates)


def test_gated_names_a_site_that_is_not_tagged():
    groups = (Group("units", 5, networks.MLP_UNITS.members, ("hidden",)),)
    network = gated(networks.MLP.network(networks.mlp_params(), {}), groups, {})
    with pytest.raises(ValueError, match=r"'units' is gated at 'hidden', which the network does not tag.*It tags: uni"):
        network(np.ones((2, 4)))


EACH = (Member("in", 1, each=2), Member("out", 0, each=2, reads=True))
SIDE_BY_SIDE = Group("units", 3, EACH, ("units",))
APART = Group("units", 3, EACH, ("units",), axis=-2)


def pairs(shape):
    """Two dense layers; between them the values of three units, two of each, laid out in this shape."""

    def apply(params, state, images):
        del state
        units = checkpoint_name(jax.nn.relu(images @ params["in"]).reshape(len(images), *shape), "units")
        return units.reshape(len(images), -1) @ params["out"]

    rng = np.random.default_rng(0)
    return jp.Network(apply, {"in": rng.normal(size=(4, 6)), "out": rng.normal(size=(6, 2))})


def test_gated_each_site_is_gated_unit_by_unit_where_neighbours_lie_side_by_side():
    gates = {"units": np.array([True, False, True])}
    images = np.random.default_rng(1).normal(size=(8, 4))
    batch = {"image": images, "label": np.arange(8) % 2}
    flat, apart = pairs((-1,)), pairs((-1, 2))
    verify(flat, (SIDE_BY_SIDE,), images)
    got = gated(flat, (SIDE_BY_SIDE,), gates)(images)
    hidden = np.maximum(images @ flat.params["in"], 0) * [1, 1, 0, 0, 1, 1]
    np.testing.assert_allclose(got, hidden @ flat.params["out"], rtol=1e-12)
    factors = {"units": np.array([2.0, 3.0, 5.0])}
    got = factored(flat, (SIDE_BY_SIDE,), gates).replace(params=factors)(images)
    np.testing.assert_allclose(got, hidden * [2, 2, 3, 3, 5, 5] @ flat.params["out"], rtol=1e-12)
    for criterion in (criteria.activation(), jp.structured.effects.second_order(jp.losses.cross_entropy)):
        left = criterion(flat, (SIDE_BY_SIDE,), gates, [batch])["units"]
        right = criterion(apart, (APART,), gates, [batch])["units"]
        np.testing.assert_allclose(left, right, rtol=1e-10)


@pytest.mark.parametrize(
    ("shape", "change"),
    [((5,), {}), ((1,), {}), ((6,), {"axis": -3}), ((6,), {"axis": 2}), ((6,), {"axis": 0}), ((6,), {"size": 2})],
)
def test_gated_each_site_of_another_length_is_named(shape, change):
    group = dataclasses.replace(SIDE_BY_SIDE, **change)

    def apply(params, state, images):
        del state
        return checkpoint_name((images @ params["in"])[:, : shape[0]], "units") @ params["out"][: shape[0]]

    network = pairs((-1,)).replace(apply=apply)
    needed = f"{group.size} or {2 * group.size}"
    match = rf"'units' is gated at 'units', where its {group.size} units need a length of {needed} along axis"
    for switched in (gated(network, (group,), {}), factored(network, (group,), {})):
        with pytest.raises(
            ValueError, match=rf"{match} {group.axis}, but the shape of that value is \(8, {shape[0]}\)"
        ):
            switched(np.ones((8, 4)))
