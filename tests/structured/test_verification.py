"""Verifying a declaration: ours pass, and every way to get one wrong is found and named."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import verify
from tests.structured import networks


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_verify_finds_our_networks_declared_right(name):
    with jax.enable_x64(False):
        verify(jax.tree.map(np.float32, networks.network(name)), networks.build(name)[0].groups())


def test_verify_finds_groups_of_our_networks_that_lack_a_member():
    network, groups = networks.network("resnet"), networks.build("resnet")[0].groups()
    units = next(group for group in groups if group.name == "stage1_block1/units1")
    for number, member in enumerate(units.members):
        fewer = dataclasses.replace(units, members=units.members[:number] + units.members[number + 1 :])
        with pytest.raises(ValueError, match=rf"'stage1_block1/units1': forgot '{member.leaf}': it acts through unit"):
            verify(network, [fewer if group is units else group for group in groups], networks.images("resnet"))


def apply(params, state, images):
    """Convolution, normalisation, ReLU, convolution: beside it a layer."""
    x = convolution(images, params["stem"])
    if "conv" not in params:
        return x.mean((1, 2)) @ params["head"]
    y = convolution(x, params["conv"]["kernel"]) + params["conv"]["bias"]
    y = (y - state["mean"]) / jax.numpy.sqrt(state["var"]) * params["norm"]["scale"] + params["norm"]["bias"]
    y = checkpoint_name(jax.nn.relu(y), "units")
    x = x + checkpoint_name(convolution(y, params["read"]["kernel"]), "layer")
    return x.mean((1, 2)) @ params["head"]


def convolution(images, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)


SHAPES = {
    "stem": (3, 3, 3, 2),
    "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "norm": {"scale": (4,), "bias": (4,)},
    "read": {"kernel": (3, 3, 4, 2)},
    "head": (2, 3),
}


def hand_written(function=apply):
    params = jax.tree.map(np.zeros, SHAPES, is_leaf=lambda value: isinstance(value, tuple))
    return jp.Network(function, params, {"mean": np.zeros(4), "var": np.ones(4)})


MADE = {"conv/kernel": 3, "conv/bias": 0, "norm/scale": 0, "norm/bias": 0, "mean": 0, "var": 0}
MEMBERS = (*(Member(leaf, axis) for leaf, axis in MADE.items()), Member("read/kernel", 2, reads=True))
UNITS = Group("units", 4, MEMBERS, ("units",))
# Of the layer, the statistics are members too: they act through it alone.
OWNED = tuple(Member(leaf) for leaf in ("conv", "norm", "read", "mean", "var"))
LAYER = Group("layer", 1, OWNED, ("layer",), floor=0)
# Axis by axis an image of its own, and small: one compilation of the gates serves all that share them.
IMAGES = np.random.default_rng(0).normal(size=(16, 4, 4, 3))


def test_verify_takes_a_network_by_hand_and_finds_images_of_its_own():
    verify(hand_written(), (UNITS, LAYER))


@pytest.mark.parametrize("leaf", [member.leaf for member in MEMBERS])
def test_verify_finds_every_forgotten_member_of_a_unit(leaf):
    members = tuple(member for member in MEMBERS if member.leaf != leaf)
    with pytest.raises(ValueError, match=rf"groups: 'units': forgot '{leaf}': it acts through unit 0 alone, at \[0"):
        verify(hand_written(), (dataclasses.replace(UNITS, members=members),), IMAGES)


@pytest.mark.parametrize("leaf", ["conv", "norm", "read", "mean"])
def test_verify_finds_every_forgotten_part_of_a_layer(leaf):
    members = tuple(member for member in OWNED if member.leaf != leaf)
    with pytest.raises(ValueError, match=rf"'layer': forgot '{leaf}.*it acts through this layer alone"):
        verify(hand_written(), (dataclasses.replace(LAYER, members=members),), IMAGES)


def test_verify_finds_the_leak_of_a_unit_read_before_its_site():
    def leaking(params, state, images):
        x = convolution(images, params["stem"])
        y = convolution(x, params["conv"]["kernel"])
        return apply(params, state, images) + y.mean((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match=r"'units': 'conv/kernel' leaks: unit 0 owns it, but with unit 0 gated off"):
        verify(hand_written(leaking), (UNITS,), IMAGES)


def test_verify_finds_the_leak_of_a_layer_that_owns_what_others_use():
    layer = dataclasses.replace(LAYER, members=(*OWNED, Member("stem")))
    with pytest.raises(ValueError, match=r"'layer': 'stem' leaks: this layer owns it") as raised:
        verify(hand_written(), (layer,), IMAGES)
    assert "forgot" not in str(raised.value)


def test_verify_finds_the_leak_of_units_of_another_axis():
    # stem's outputs, as many as there would be units: the gate is on the wrong value.
    shifted = Group("units", 2, (Member("conv/kernel", 2),), ("layer",))
    with pytest.raises(ValueError, match=r"'conv/kernel' leaks"):
        verify(hand_written(), (shifted,), IMAGES)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (dataclasses.replace(UNITS, members=(Member("conv/weight", 3),)), r"'conv/weight', but no leaf is called so"),
        (dataclasses.replace(UNITS, size=5), r"5 units of 1 need a length of 5, but its shape is \(3, 3, 2, 4\)"),
        (dataclasses.replace(UNITS, members=(Member("conv/kernel", 0),)), r"'conv/kernel' along axis 0"),
        (dataclasses.replace(UNITS, members=(Member("conv/kernel", 4),)), r"'conv/kernel' along axis 4"),
        (dataclasses.replace(UNITS, sites=("relu",)), r"'units' is gated at 'relu', which the network does not tag"),
    ],
)
def test_verify_names_members_and_sites_that_do_not_exist(group, message):
    with pytest.raises(ValueError, match=message):
        verify(hand_written(), (group,), IMAGES)


def test_verify_names_a_name_given_twice():
    with pytest.raises(ValueError, match=r"groups: 'units' is there 2 times"):
        verify(hand_written(), (UNITS, UNITS), IMAGES)


def test_verify_asks_for_images_of_a_network_that_takes_no_square_ones():
    network = jp.Network(lambda params, state, images: images @ params, np.ones((7, 2)))
    with pytest.raises(ValueError, match=r"images: expected a network that takes \[b, n, n, 1 or 3\].*it says.*pass i"):
        verify(network, (Group("", 7, (Member("", 0),), ("units",)),))


def test_verify_finds_units_in_the_middle_that_are_read_in_another_order():
    def mixed(params, state, images):
        del state
        units = checkpoint_name(jax.nn.relu(images.reshape(len(images), -1) @ params["in"]), "units")
        return units[:, np.array([0, 2, 1, 3])] @ params["out"]

    network = jp.Network(mixed, {"in": np.zeros((48, 4)), "out": np.zeros((4, 3))})
    units = Group("units", 4, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    with pytest.raises(ValueError, match=r"'out' leaks"):
        verify(network, (units,), IMAGES)


def test_verify_names_a_tag_that_is_given_twice():
    def twice(params, state, images):
        del state
        units = checkpoint_name(images.reshape(len(images), -1) @ params["in"], "units")
        return checkpoint_name(jax.nn.relu(units), "units") @ params["out"]

    network = jp.Network(twice, {"in": np.zeros((48, 4)), "out": np.zeros((4, 3))})
    units = Group("units", 4, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    with pytest.raises(ValueError, match=r"gated at 'units', but the network tags several values so"):
        verify(network, (units,), IMAGES)


def test_verify_wants_members_that_read_to_be_marked():
    members = tuple(dataclasses.replace(member, reads=False) for member in MEMBERS)
    with pytest.raises(ValueError, match=r"groups: no member of 'units' reads its units"):
        verify(hand_written(), (dataclasses.replace(UNITS, members=members),), IMAGES)
