"""Widths for owners who rebuild: their own module, built at what is told, takes the compacted leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.structured import Declared, compact, discover, ones, widths
from tests.structured import networks
from tests.structured.discovery import plain
from tests.structured.discovery.comparing import measured, same


class Owners(nn.Module):
    """A grouped convolution between two others, flattened before the head: widths are arguments."""

    first: int = 6
    grouped: int = 8
    groups: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(self.first, (3, 3))(x)))
        x = nn.relu(nn.Conv(self.grouped, (1, 1))(x))
        x = nn.relu(nn.Conv(self.grouped, (3, 3), feature_group_count=self.groups)(x))
        return nn.Dense(3)(nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1))))


IMAGES = np.random.default_rng(1).normal(size=(3, 4, 4, 3))


def owners():
    image = jax.ShapeDtypeStruct(IMAGES.shape, np.float32)
    module = Owners()
    variables = networks.random_weights(jax.eval_shape(module.init, jax.random.key(0), image), 0)
    return jp.Network.from_linen(module, variables, train={"train": True})


def test_widths_build_the_owners_module():
    net = owners()
    found = discover(net, IMAGES)
    gates = {group.name: np.arange(group.size) % 2 == 0 for group in found}
    told, small = widths(net, found, gates), compact(net, found, gates)
    out = {name: shape[-1] for name, (_, shape) in told.shapes.items()}
    groups = next(group for group in found if group.size == 4)
    module = Owners(out["Conv_0/kernel"], out["Conv_2/kernel"], told.units[groups.name][0], out["Dense_0/kernel"])
    assert (module.first, module.grouped, module.groups, module.hidden) == (3, 4, 2, 3)
    rebuilt = jp.Network.from_linen(module, {"params": small.params, **small.state})
    same(measured(rebuilt, IMAGES), measured(small, IMAGES))


@pytest.mark.parametrize("name", plain.NETWORKS)
def test_widths_are_those_of_the_compacted_network(name):
    net = plain.network(name)
    found = discover(net, np.ones((1, 8, 8, 3)) if name == "vgg" else plain.images())
    gates = ones((*found, *found.layers))
    for number, group in enumerate(found):
        gates[group.name][number % 2 :: 2] = group.size == 1
    for layer in found.layers[:1]:
        gates[layer.name][:] = False
    told, small = widths(net, found, gates), compact(net, found, gates)
    left = {leaf: shape for leaf, (_, shape) in told.shapes.items() if shape is not None}
    leaves = {**jp.tree.by_name(small.params), **jp.tree.by_name(small.state)}
    assert left == {leaf: np.shape(value) for leaf, value in leaves.items()}
    assert told.units.keys() == gates.keys()
    assert set(told.notes) <= {group for group, (kept, size) in told.units.items() if kept < size}


def test_widths_need_shapes_alone_and_know_declared_layers():
    """A block that is gone takes its units with it, whatever their gates say."""
    module, params, state = networks.build("basic")
    net = module.network(*jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state)))
    gates = ones(module.groups()) | {"stage1_block1": np.array([False])}
    told = widths(net, module.groups(), gates)
    assert told.units["stage1_block1"] == (0, 1)
    assert told.units["stage1_block1/units1"] == (0, 4)
    gone = {name for name, (_, left) in told.shapes.items() if left is None}
    assert gone == {name for name in told.shapes if "stage1_block1/" in name} != set()
    assert all(left in (whole, None) for whole, left in told.shapes.values())


def test_widths_of_a_layer_that_is_gone_are_printed():
    def apply(params, state, x):
        x = x @ params["stem"]
        for name in ("one", "two"):
            x = x + jnp.tanh(x @ params[name]["in"]) @ params[name]["out"]
        return jax.nn.relu(x @ params["up"]) @ params["head"]

    branch = {"in": np.ones((4, 6)), "out": np.ones((6, 4))}
    params = {"stem": np.ones((3, 4)), "one": branch, "two": branch, "up": np.ones((4, 8)), "head": np.ones((8, 2))}
    net = jp.Network(apply, params)
    found = discover(net, np.ones((2, 3)))
    lines = str(widths(net, found, {"one": np.array([False]), "up": np.arange(8) < 3})).splitlines()
    assert [line.split() for line in lines] == [
        ["group", "units"],
        ["up", "3", "of", "8"],
        ["one/in", "0", "of", "6"],
        ["one", "0", "of", "1"],
        ["leaf", "before", "after"],
        ["head", "8", "x", "2", "3", "x", "2"],
        ["one/in", "4", "x", "6", "gone"],
        ["one/out", "6", "x", "4", "gone"],
        ["up", "4", "x", "8", "4", "x", "3"],
    ]


def test_widths_say_which_numbers_the_program_keeps():
    def apply(params, state, x):
        places = jnp.arange(4.0)
        return (jax.nn.relu(x @ params["in"]) + places) @ params["out"]

    net = jp.Network(apply, {"in": np.ones((3, 4)), "out": np.ones((4, 2))})
    found = discover(net, np.ones((2, 3)))
    (name,) = found.notes
    assert widths(net, found, {}).notes == {}
    told = widths(net, found, {name: np.arange(4) < 2})
    assert str(told).endswith(f"{name}: {found.notes[name][0]}.")


def test_widths_refuse_what_does_not_fit():
    net = owners()
    found = discover(net, IMAGES)
    with pytest.raises(ValueError, match="gates: no group is called 'none'"):
        widths(net, found, {"none": np.array([True])})
    with pytest.raises(ValueError, match=r"groups: .* but no leaf is called so"):
        widths(net.replace(params={"other": np.ones((2, 2))}), found, {})
    with pytest.raises(ValueError, match="below its floor"):
        widths(net, found, {found[0].name: np.zeros(found[0].size, bool)})
    twice = jp.Network(lambda p, s, x: x @ p["w"], {"w": np.ones((2, 2))}, {"w": np.ones(2)})
    with pytest.raises(ValueError, match="two are called 'w'"):
        widths(twice, Declared(twice.apply, ()).groups(), {})
