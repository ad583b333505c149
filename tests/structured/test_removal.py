"""Removing: the smaller network computes what the gated one does, and nothing of what is gone is left."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.groups import Group, Member, inside, living
from jaxprune.models.resnet import ResNet
from jaxprune.structured import Declared, gated, remove, restore
from tests.structured import networks


def removed(name, gates):
    specification, params, state = remove(*networks.build(name), gates)
    return specification.network(params, state)


def check(name, gates, bound=1e-12, cast=np.float64):
    """Gates and removes, and compares outputs in both modes and the statistics of what lives."""
    module = networks.build(name)[0]
    whole = gated(networks.network(name), module.groups(), gates)
    smaller = removed(name, gates)
    whole, smaller, images = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == bool else np.asarray(leaf, cast), (whole, smaller, networks.images(name))
    )
    *outputs, state = networks.everything(whole, images)
    *outputs_after, state_after = networks.everything(smaller, images)
    assert outputs[0].dtype == outputs_after[0].dtype == cast
    assert networks.distance(outputs, outputs_after) < bound
    left = remove(*networks.build(name)[:2], state["network"], gates)[2]
    assert networks.distance(left, state_after) < bound
    return smaller


KINDS = [*((name, "mixed", 4) for name in networks.FAMILIES), *((name, "mixed", 5) for name in ("basic", "branches"))]
KINDS += [(name, what, 6) for name in ("basic", "branches") for what in ("units", "layers")]


@pytest.mark.parametrize(("name", "what", "seed"), KINDS)
def test_remove_is_gating(name, what, seed):
    module = networks.build(name)[0]
    smaller = check(name, networks.random_gates(module.groups(), seed, what))
    assert jp.cost.parameters(smaller) < jp.cost.parameters(networks.network(name))


@pytest.mark.parametrize("name", ["basic", "branches"])
def test_remove_is_gating_in_single_precision(name):
    module = networks.build(name)[0]
    with jax.enable_x64(False):
        check(name, networks.random_gates(module.groups(), seed=5), 1e-6, np.float32)


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_remove_leaves_a_shape_that_counts_what_lives(name):
    module, params, state = networks.build(name)
    for seed in range(5):
        gates = networks.random_gates(module.groups(), seed)
        specification, small, statistics = remove(module, params, state, gates)
        alive = {group: int(values.sum()) for group, values in living(module.groups(), gates).items()}
        assert {group.name: group.size for group in specification.groups()} == {
            group: count for group, count in alive.items() if count
        }
        # The tree is the one that the smaller module makes for itself.
        image = jax.ShapeDtypeStruct((1, *networks.FAMILIES[name][1]), np.float32)
        fresh = jax.eval_shape(specification.init, jax.random.key(0), image)
        assert jax.tree.map(np.shape, {"params": small, **statistics}) == jax.tree.map(np.shape, fresh)


def test_remove_takes_biases_and_normalisation_of_a_branch_along():
    module, params, state = networks.build("branches")
    gates = {"block1/attention": np.array([False]), "block2/mlp": np.array([False])}
    _, small, _ = remove(module, params, state, gates)
    assert set(small["block0"]) == {"attention", "mlp", "norm1", "norm2"}
    assert set(small["block1"]) == {"mlp", "norm2"}
    assert set(small["block2"]) == {"attention", "norm1"}
    both = {"block1/attention": np.array([False]), "block1/mlp": np.array([False])}
    specification, small, _ = remove(module, params, state, both)
    assert "block1" not in small
    assert [shape.number for shape in specification.blocks] == [0, 2]
    module, params, state = networks.build("basic")
    _, small, statistics = remove(module, params, state, {"stage2_block1": np.array([False])})
    assert "stage2_block1" not in small
    assert "stage2_block1" not in statistics["batch_stats"]


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_restore_puts_back_what_gates_to_the_same_function(name):
    module, params, state = networks.build(name)
    gates = networks.random_gates(module.groups(), seed=4)
    _, *small = remove(module, params, state, gates)
    back = restore(module, *small, gates, (params, state))
    assert jax.tree.structure(back) == jax.tree.structure((params, state))
    images = networks.images(name)
    got = networks.everything(gated(module.network(*back), module.groups(), gates), images)[0]
    want = networks.everything(gated(networks.network(name), module.groups(), gates), images)[0]
    np.testing.assert_array_equal(got, want)
    # And out once more, bit for bit.
    again = remove(module, *back, gates)[1:]
    jax.tree.map(np.testing.assert_array_equal, again, tuple(small))


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_remove_twice_is_remove_once(name):
    module, params, state = networks.build(name)
    first = networks.random_gates(module.groups(), seed=6, what="units")
    once, *arrays = remove(module, params, state, first)
    second = networks.random_gates(once.groups(), seed=7)
    twice, *arrays = remove(once, *arrays, second)
    together = {}
    for group in module.groups():
        together[group.name] = first[group.name].copy()
        together[group.name][first[group.name]] = second[group.name]
    want, *expected = remove(module, params, state, together)
    assert twice == want
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert jax.tree.structure(arrays) == jax.tree.structure(expected)


def test_remove_cuts_shapes_alone():
    module, params, state = networks.build("bottleneck")
    gates = networks.random_gates(module.groups(), seed=2)
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
    specification, *shapes = remove(module, *structs, gates)
    want, *arrays = remove(module, params, state, gates)
    assert specification == want
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), arrays
    )


@pytest.mark.parametrize("extra", [True, False])
def test_remove_takes_units_and_a_branch_of_a_network_by_hand(extra):
    params, gate = networks.mlp_params(), np.array([True, False, True, True, False])
    specification, small, state = remove(networks.MLP, params, {}, {"units": gate, "extra": np.array([extra])})
    images = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
    hidden = images.reshape(3, 4) @ params["in"]["kernel"][:, gate] + params["in"]["bias"][gate]
    want = np.maximum(hidden, 0) @ params["out"]["kernel"][gate] + params["out"]["bias"]
    want = want + np.tanh(want) @ params["extra"]["kernel"] if extra else want
    np.testing.assert_allclose(specification.network(small, state)(images), want, rtol=1e-13)
    assert specification.groups()[0].size == 3
    assert [group.name for group in specification.groups()] == ["units", "extra"][: 1 + extra]
    assert ("extra" in small) == extra
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(small))


def test_inside_a_layer_a_group_goes_with_it():
    kernel = Group("block/units", 2, (Member("block/kernel", 1),), ("units",))
    other = Group("blocks/units", 2, (Member("blocks/kernel", 1),), ("others",))
    layer = Group("block", 1, (Member("block"),), ("block",), floor=0)
    groups = (kernel, other, layer)
    assert inside(groups) == {"block": ("block/units",)}
    gates = {"block/units": np.array([True, False]), "blocks/units": np.ones(2, bool), "block": np.array([False])}
    assert {name: values.tolist() for name, values in living(groups, gates).items()} == {
        "block/units": [False, False],
        "blocks/units": [True, True],
        "block": [False],
    }
    shape = Declared(lambda p, s, x: x, groups)
    assert [group.name for group in shape.without(gates).groups()] == ["blocks/units"]


def declared(**changes):
    values = {"members": networks.MLP_UNITS.members, "size": 5, "name": "units"} | changes
    return Declared(networks.mlp_apply, (Group(values["name"], values["size"], values["members"], ("units",)),))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (declared(members=(Member("in/weight", 1),)), r"has the member 'in/weight', but no leaf is called so.*extra/k"),
        (
            declared(members=(Member("inn"),), size=1),
            r"has the member 'inn', but no leaf is called so or lies below it",
        ),
        (
            declared(members=(Member("in"),)),
            r"owns whole leaves, so it is a layer: expected a size of 1 .* got the size 5",
        ),
        (
            declared(members=(Member("in"), Member("out/kernel", 0)), size=1),
            r"owns whole leaves, .* and 1 members with an",
        ),
        (declared(members=(Member("in/kernel", 0),)), r"'in/kernel' along axis 0.*need a length of 5.*is \(4, 5\)"),
        (declared(members=(Member("in/kernel", 2),)), r"'in/kernel' along axis 2.*its shape is \(4, 5\)"),
        (declared(members=(Member("in/kernel", 1, 2),)), r"where 5 units of 2 need a length of 10"),
        (declared(size=4), r"where 4 units of 1 need a length of 4, but its shape is \(4, 5\)"),
        (Declared(networks.mlp_apply, (networks.MLP_UNITS,) * 2), r"groups: 'units' is there 2 times"),
    ],
)
def test_remove_names_members_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        remove(shape, networks.mlp_params(), {}, {})


def test_remove_keeps_floors():
    with pytest.raises(ValueError, match=r"'units' keeps 0 of 5 units, below its floor of 1\. Keep more"):
        remove(networks.MLP, networks.mlp_params(), {}, {"units": np.zeros(5, bool)})
    module, params, state = networks.build("basic")
    gates = {f"stage2_block{number}": np.array([False]) for number in (1, 2)}
    with pytest.raises(ValueError, match=r"gates: stage2 keeps 0 of the 2 layers that can go, below its floor of 1"):
        remove(module, params, state, gates)
    with pytest.raises(ValueError, match=r"gates: no group is called 'stage9'"):
        remove(module, params, state, {"stage9": np.array([False])})


def test_remove_refuses_a_layer_in_a_list():
    def apply(params, state, images):
        return jax.ad_checkpoint.checkpoint_name(images @ params["layers"][0], "layer")

    shape = Declared(apply, (Group("layer", 1, (Member("layers/0"),), ("layer",), floor=0),))
    params = {"layers": [np.ones((2, 2)), np.ones((2, 2))]}
    with pytest.raises(ValueError, match=r"'layers/0' belongs to a layer that is removed, but lies in a list"):
        remove(shape, params, {}, {"layer": np.array([False])})
    # Its units can.
    units = Declared(apply, (Group("units", 2, (Member("layers/0", 1), Member("layers/1", 0)), ("layer",)),))
    _, small, _ = remove(units, params, {}, {"units": np.array([True, False])})
    assert isinstance(small["layers"], list)
    assert [leaf.shape for leaf in small["layers"]] == [(2, 1), (1, 2)]


def test_without_keeps_the_names_of_blocks():
    module = networks.build("basic")[0]
    left = module.without({"stage1_block1": np.array([False])})
    assert isinstance(left, ResNet)
    assert [shape.name for shape in left.blocks][:2] == ["stage1_block0", "stage1_block2"]
    assert left.depths == (2, 3)
