"""What removing a unit does: held against networks that are really smaller, and against dense second derivatives."""

import jax
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import Declared, effects, ones, remove
from tests.structured import networks

LOSS = jp.losses.cross_entropy


def softmax(values):
    exponentials = np.exp(values - values.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def divergence(with_it, without, weights, times):
    for _ in range(times):
        with_it, without = softmax(with_it), softmax(without)
    return np.average(np.sum(without * (np.log(without) - np.log(with_it)), -1), weights=weights)


def debiased_cka(left, right):
    """By Gram matrices centred as Song et al. (2012) do it."""

    def centred(values):
        gram, n = values @ values.T, len(values)
        np.fill_diagonal(gram, 0)
        means = gram.sum(0) / (n - 2)
        gram = gram - means[:, None] - means[None] + means.sum() / (n - 1)
        np.fill_diagonal(gram, 0)
        return gram

    one, two = centred(left), centred(right)
    return np.sum(one * two) / np.sqrt(np.sum(one * one) * np.sum(two * two))


def one_less(name, gates, head=None):
    """{(group, unit): the outputs of the network that is smaller by that unit}; with another head, if one is given."""
    module, params, state = networks.build(name)
    found = {}
    for group in module.groups():
        for unit in np.flatnonzero(gates[group.name]):
            less = gates | {group.name: gates[group.name] & (np.arange(group.size) != unit)}
            specification, small, statistics = remove(module, params, state, less)
            small = small if head is None else small | {"head": head}
            found[group.name, int(unit)] = networks.evaluate(
                specification.network(small, statistics), networks.images(name, 10)
            )
    specification, small, statistics = remove(module, params, state, gates)
    small = small if head is None else small | {"head": head}
    return np.asarray(
        networks.evaluate(specification.network(small, statistics), networks.images(name, 10))
    ), jax.tree.map(np.asarray, found)


GATES = {"stage1_block0/units1": np.array([True, False, True])}


@pytest.mark.parametrize("twice", [False, True])
def test_kl_is_that_of_networks_that_are_really_smaller(twice):
    module, params, state = networks.build("resnet")
    batch, gates = networks.batch("resnet", 10), ones(module.groups()) | GATES
    got = effects.kl(softmax_twice=twice)(module.network(params, state), module.groups(), gates, [batch])
    whole, smaller = one_less("resnet", gates)
    assert len(smaller) == 2 + 3 + 3 + 2
    for (group, unit), outputs in smaller.items():
        want = divergence(whole, outputs, batch["weight"], 1 + twice)
        assert got[group][unit] == pytest.approx(want, rel=1e-9, abs=1e-14)
    assert sum(int(np.sum(values > 1e-6)) for values in got.values()) > 5
    assert got["stage1_block0/units1"][1] == 0


def test_cka_is_that_of_networks_that_are_really_smaller():
    module, params, state = networks.build("resnet")
    batch, gates = networks.batch("resnet", 10), ones(module.groups()) | GATES
    got = effects.cka()(module.network(params, state), module.groups(), gates, [batch])
    # With an identity as its head the network returns its features.
    whole, smaller = one_less("resnet", gates, {"kernel": np.eye(3), "bias": np.zeros(3)})
    counts = batch["weight"] > 0
    for (group, unit), features in smaller.items():
        want = 1 - debiased_cka(whole[counts], features[counts])
        assert got[group][unit] == pytest.approx(want, rel=1e-8, abs=1e-12)
    # Ratings differ, and so say something.
    assert np.ptp(got["stage1_block2/units1"]) > 1e-6


def test_cka_rates_highest_what_leaves_nothing_of_the_features():
    """The class token of a ViT without attention is the same for every image."""
    module, params, state = networks.build("one_block")
    batch = networks.batch("one_block", 10)
    got = effects.cka()(module.network(params, state), module.groups(), ones(module.groups()), [batch])
    assert got["block0/attention"] == [1.0]
    assert 0 < got["block0/mlp"][0] < 1


@pytest.mark.parametrize("name", ["resnet", "one_block"])
def test_second_order_is_the_gradient_and_the_hessian_by_the_factors(name):
    module, params, state = networks.build(name)
    batch, groups = networks.batch(name), module.groups()
    gates = ones(groups) | (GATES if name == "resnet" else {"block0/units": np.arange(16) % 3 > 0})
    got = effects.second_order(LOSS)(module.network(params, state), groups, gates, [batch])
    start, unravel = ravel_pytree({group.name: np.ones(group.size) for group in groups})
    share = batch["weight"] / batch["weight"].sum()

    def mean(flat):
        factors = {group: factor * gates[group] for group, factor in unravel(flat).items()}
        outputs = module.apply({"params": networks.scaled(name, factors), **state}, batch["image"])
        return share @ -jax.nn.log_softmax(outputs)[np.arange(5), batch["label"]]

    slope, bend = jax.jit(lambda flat: (jax.grad(mean)(flat), jax.hessian(mean)(flat)))(start)
    want = unravel(0.5 * np.diag(bend) - slope)
    for group, values in want.items():
        np.testing.assert_allclose(got[group], values, rtol=1e-9, atol=1e-13, err_msg=group)
    assert min(np.max(np.abs(slope)), np.max(np.abs(np.diag(bend)))) > 1e-3


def linear(params, state, images):
    units = checkpoint_name(images.reshape(len(images), -1) @ params["in"], "units")
    return units @ params["out"]


def test_second_order_is_the_change_of_the_loss_where_that_is_quadratic():
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(4, 5)), "out": rng.normal(size=(5, 3))}
    units = Group("units", 5, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    shape, batch = Declared(linear, (units,)), networks.batch("mlp")

    def mean(network):
        error = np.sum((np.asarray(network(batch["image"])) - np.eye(3)[batch["label"]]) ** 2, -1)
        return np.average(error, weights=batch["weight"])

    network = shape.network(params, {})
    got = effects.second_order(jp.losses.squared_error)(network, (units,), ones((units,)), [batch])["units"]
    for unit in range(5):
        smaller, *arrays = remove(shape, params, {}, {"units": np.arange(5) != unit})
        assert got[unit] == pytest.approx(mean(smaller.network(*arrays)) - mean(network), rel=1e-10)


def test_kernel_block_is_that_of_the_dense_hessian():
    module, params, state = networks.build("resnet")
    batch, groups = networks.batch("resnet"), module.groups()
    gates = ones(groups) | {"stage1_block1/units1": np.array([True, False, True])}
    got = effects.kernel_block(LOSS)(module.network(params, state), groups, gates, [batch])
    share = batch["weight"] / batch["weight"].sum()

    def mean(kernel, path):
        changed = networks.scaled("resnet", gates, jp.tree.replace(params, path, kernel))
        outputs = module.apply({"params": changed, **state}, batch["image"])
        return share @ -jax.nn.log_softmax(outputs)[np.arange(5), batch["label"]]

    def blocks(path):
        """w' H w / 2 of every output filter, [3]."""
        kernel = jp.tree.leaf(params, path)
        hessian = jax.jit(jax.hessian(lambda flat: mean(flat.reshape(kernel.shape), path)))(kernel.ravel())
        hessian, rows = np.asarray(hessian).reshape(-1, 3, kernel.size // 3, 3), kernel.reshape(-1, 3)
        return [0.5 * rows[:, unit] @ hessian[:, unit, :, unit] @ rows[:, unit] for unit in range(3)]

    made, last = blocks("stage1_block1/conv1/kernel"), blocks("stage1_block1/conv2/kernel")
    np.testing.assert_allclose(got["stage1_block1/units1"], made, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(got["stage1_block1"], [sum(made) + sum(last)], rtol=1e-9)
    assert made[1] == 0
    assert np.min(np.abs(made)[[0, 2]]) > 1e-6


def test_effects_average_batches_by_their_weights():
    module, params, state = networks.build("mlp")
    batch, groups = networks.batch("mlp", 6), module.groups()
    parts = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, 6))]
    for criterion in (effects.kl(), effects.cka(), effects.second_order(LOSS)):
        one, two = (criterion(module.network(params, state), groups, ones(groups), one) for one in ([batch], parts))
        for group in one:
            np.testing.assert_allclose(two[group], one[group], rtol=1e-10, atol=1e-14)
