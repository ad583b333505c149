"""Groups by regular expressions: which are left alone, how many units go, and in what numbers."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import (
    Compaction,
    Search,
    Traced,
    budgets,
    choosers,
    compact,
    criteria,
    discover,
    drop_shares,
    limited,
    ones,
    prune_jointly,
)
from jaxprune.structured.aims import Aim
from jaxprune.structured.limits import bounded
from tests.structured import networks
from tests.structured.discovery import plain

GROUPS = [
    Group("stem", 8, (Member("stem/kernel", 3),), ("stem",)),
    Group("block1/conv", 12, (Member("block1/conv/kernel", 3), Member("block2/conv/kernel", 2, reads=True)), ("b",)),
    Group("block2/conv", 20, (Member("block2/conv/kernel", 3),), ("c",), floor=15),
    Group("block2", 1, (Member("block2"),), ("d",)),
]


def floors(groups):
    return {group.name: group.floor for group in groups}


def test_limited_leaves_groups_out_by_their_names_and_those_of_their_leaves():
    assert list(floors(limited(GROUPS, ignored=["stem", "block2/conv/kernel"]))) == ["block1/conv", "block2"]
    assert list(floors(limited(GROUPS, ignored=["block.*"]))) == ["stem"]
    # Not by those that read its units.
    assert list(floors(limited(GROUPS, ignored=["block2/conv/kernel", "block2"]))) == ["stem", "block1/conv"]
    assert limited(GROUPS) == GROUPS
    assert limited(tuple(GROUPS)) == tuple(GROUPS)


def test_limited_raises_floors_and_lowers_none():
    got = floors(limited(GROUPS, shares={"stem": 0.3, "block1.*": 0.0, "block2/conv": 0.5, "block2": 0.0}))
    assert got == {"stem": 6, "block1/conv": 12, "block2/conv": 15, "block2": 1}
    assert floors(limited(GROUPS[:2], shares=0.25)) == {"stem": 6, "block1/conv": 9}
    # The first pattern that matches counts; 0.3 of 10 units are 3, whatever 1 - 0.3 is in binary.
    assert floors(limited(GROUPS[:1], shares={"st.*": 0.5, ".*": 0.0})) == {"stem": 4}
    assert floors(limited([replace(GROUPS[0], size=10)], shares=0.3)) == {"stem": 7}


def test_bounded_is_what_limited_made_of_larger_groups():
    want = limited(GROUPS, ignored=["block.*"], shares=0.25)
    smaller = [replace(GROUPS[0], size=7), GROUPS[1]]
    assert bounded(smaller, floors(want)) == (replace(GROUPS[0], size=7, floor=6),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignored": ["tail"]}, "ignored: expected patterns of groups, but 'tail' matches none as a whole"),
        ({"ignored": "stem"}, "ignored: expected patterns in a list, but got 'stem'"),
        ({"ignored": ["("]}, "ignored: expected regular expressions, but '\\(' is none"),
        ({"shares": 1.5}, "shares: expected the share of its units that a group loses, in \\[0, 1\\], but got 1.5"),
        ({"shares": {"tail": 0.5}}, "shares: expected patterns of groups, but 'tail' matches none"),
        ({"shares": {"stem": "half"}}, "but got 'half'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_limited_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        limited(GROUPS, **options)


def test_drop_shares_gives_widths_that_are_known_beforehand():
    rng = np.random.default_rng(0)
    ratings = {group.name: rng.permutation(group.size).astype(float) for group in GROUPS}
    found = drop_shares(GROUPS, ones(GROUPS), ratings, {"stem": 0.5, "block1.*": 0.3, "block2/conv": 0.9})
    assert {name: int(value.sum()) for name, value in found.items()} == {
        "stem": 4,
        "block1/conv": 9,
        "block2/conv": 15,
        "block2": 1,
    }
    for group in GROUPS[:3]:
        gone, left = ratings[group.name][~found[group.name]], ratings[group.name][found[group.name]]
        assert gone.max() < left.min()
    rounded = drop_shares(GROUPS, ones(GROUPS), ratings, 0.5, multiple=4)
    assert [int(rounded[group.name].sum()) for group in GROUPS] == [4, 8, 16, 1]


def test_limited_is_of_what_was_discovered_too():
    """Left out by name, it stays; and what is left is still the program's own, which can be removed."""
    net, images = plain.network("densenet"), plain.images()
    found = limited(discover(net, images, prove=True), ignored=["grow0"], shares={"stem": 0.5})
    assert {one.name: one.floor for one in found} == {"stem": 2, "grow1": 1}
    assert found.left_out["grow0"][1] == "it was left out by name"
    with pytest.raises(ValueError, match="below its floor of 2"):
        compact(net, found, {"stem": np.arange(4) < 1})
    rated = criteria.l1()(net, found, ones(found), [])
    small = compact(net, found, drop_shares(found, ones(found), rated, 0.5))
    assert small.params["stem"].shape[-1] == small.params["grow1"].shape[-1] == 2
    assert small.params["grow0"].shape == (3, 3, 2, 6)


@pytest.mark.parametrize("name", ["residual", "unet"])
def test_activation_reads_what_is_summed_over_units(name):
    """The mean of the absolute values, of two weighted batches, at the values that kernels read."""
    net, images = plain.network(name), plain.images()
    found = discover(net, images)
    weight = np.array([1.0, 0.0, 2.0])
    batches = [{"image": images, "weight": weight}, {"image": images[::-1], "weight": weight}]
    group = {"residual": "a1", "unet": "down"}[name]
    units = int(next(one.size for one in found if one.name == group))
    alive = np.arange(units) > 0
    got = criteria.activation()(net, found, {**ones(found), group: alive}, batches)[group]
    p, s, x = net.params, net.state, images
    if name == "residual":
        hidden = plain.conv(x, p["stem"])
        first = jp.Network(lambda p, s, x: x, p)(hidden)
        inner = np.maximum(plain.norm(p, s, "bn0", plain.conv(first, p["a0"])), 0)
        hidden = np.maximum(hidden + plain.conv(inner, p["b0"]), 0)
        hidden = np.maximum(plain.norm(p, s, "bn1", plain.conv(hidden, p["a1"])), 0)
    else:
        hidden = np.maximum(plain.conv(x, p["down"], stride=2), 0)
    each = np.abs(hidden).mean((1, 2))
    both = weight @ each + weight @ each[::-1]
    np.testing.assert_allclose(got, np.where(alive, both / 6, 0), rtol=1e-6)


def test_activation_refuses_values_inside_of_loops():
    net = plain.network("scanned")
    found = discover(net, plain.images())
    with pytest.raises(ValueError, match="activation reads values where the program sums over units, but some of them"):
        criteria.activation()(net, found, ones(found), [{"image": plain.images()}])


def test_prune_jointly_gives_widths_that_are_multiples():
    net, images = plain.network("residual"), plain.images()
    found = discover(net, images)
    pruned = prune_jointly(net, limited(found, ignored=["b0"]), [{"image": images}], 0.2, multiple=2, damping=1e-3)
    widths = {name: int(value.sum()) for name, value in pruned.gates.items()}
    assert all(width % 2 == 0 for width in widths.values())
    assert pruned.removed >= 0.2
    assert pruned.smaller.params["head"].shape == (4, 3)


@pytest.mark.usefixtures("unchecked")
def test_aim_finishes_a_width_before_it_begins_another():
    class Book:
        groups = GROUPS[:2]

        def macs(self, gates):
            return float(sum(gates[group.name].sum() for group in self.groups))

        parameters = macs

    aim = Aim(Book(), GROUPS[:2], "operations", 0.1, multiple=8)  # pyright: ignore[reportArgumentType]
    prices = np.concatenate([np.linspace(1, 2, 8), np.linspace(0.5, 3, 12)])
    went = []
    while not aim.met():
        went.append(aim.remove(aim.next(prices)))
    assert went == [("block1/conv", unit) for unit in range(4)]
    assert not aim.gates["block1/conv"][:4].any()


def searched(specification, net, shape, share=0.15, **options):
    """The steps of a search that trains nothing."""
    return list(
        Search(
            criteria={"neurons": criteria.l2()},
            chooser=choosers.always("neurons"),
            tune=lambda network, parent, step, stage: network,
            scoring=[{"image": np.ones((2, *shape)), "label": np.zeros(2, int)}],
            image_shape=shape,
            budget=budgets.macs(share),
            **options,
        )(specification, net)
    )


def sizes(specification):
    return {group.name: group.size for group in specification.groups()}


def test_limited_is_what_a_search_keeps_to_in_our_own_models():
    """By floors of the dense network, also when the base was made smaller on the way."""
    module, net = networks.build("bottleneck")[0], networks.network("bottleneck")
    groups = [group for group in module.groups() if not group.is_layer]
    shape = networks.images("bottleneck").shape[1:]
    options = {"ignored": [groups[0].name], "shares": {groups[1].name: 0.25}, "target": 0.3}
    for compaction in (None, Compaction(1.0, 1000)):
        last = sizes(searched(module, net, shape, **options, compaction=compaction)[-1].specification)
        assert last[groups[0].name] == groups[0].size
        assert last[groups[1].name] == groups[1].size - groups[1].size // 4
        assert sum(last.values()) < sum(group.size for group in module.groups())


@pytest.mark.parametrize("name", ["vgg", "attention"])
def test_limited_is_what_a_search_keeps_to_in_any_program(name):
    """Widths of multiples, one group left alone, and the base made smaller on the way: what is left computes itself."""
    net, size = plain.network(name), {"vgg": 8}.get(name, 4)
    shape = (size, size, 3)
    first = {"vgg": "conv0", "attention": "qkv"}[name]
    found = limited(discover(net, np.ones((2, *shape))), ignored=[first])
    target = {"vgg": 0.2, "attention": 0.1}[name]
    options = {"target": target, "share": target / 2, "multiple": 2, "compaction": Compaction(1.0, 1000)}
    steps = searched(Traced.of(net, found), net, shape, **options)
    assert steps[-1].macs <= (1 - target) * steps[0].macs
    assert len(steps) > 2
    widths, whole = sizes(steps[-1].specification), sizes(steps[0].specification)
    assert all(width % 2 == 0 or width == whole[group] for group, width in widths.items())
    assert first not in sizes(steps[-1].specification)
    assert steps[-1].macs == jp.cost.macs(steps[-1].network, shape)
    images = np.random.default_rng(0).normal(size=(2, *shape))
    for step in steps[1:]:
        reopened = jp.structured.reopen(Traced.of(net, found), net, step)
        np.testing.assert_allclose(reopened(images), step.network(images), rtol=1e-9, atol=1e-9)
