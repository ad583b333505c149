"""Criteria: ratings by definition, and the law that under gates they are those of the smaller network."""

import textwrap
from functools import cache

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.groups import Group, Member, below, living
from jaxprune.structured import criteria, effects, ones, remove
from tests import cases
from tests.structured import networks

LOSS = jp.losses.cross_entropy
# All but chance: that rates positions, not units.
ALL = {
    "l1": criteria.l1(),
    "l2": criteria.l2(),
    "batchnorm_scale": criteria.batchnorm_scale(),
    "activation": criteria.activation(),
    "kl": effects.kl(),
    "cka": effects.cka(),
    "second_order": effects.second_order(LOSS),
    "kernel_block": effects.kernel_block(LOSS),
}
WITH_DATA = ("activation", "kl", "cka", "second_order", "kernel_block")


def batches(name):
    """Two, of unequal weight."""
    batch = networks.batch(name, 10)
    return [cases.take(batch, 0, 5), cases.take(batch, 5, 10) | {"weight": np.array([1.0, 0.0, 1.0, 3.0, 0.25])}]


@cache
def rated(name, criterion):
    """Ratings under gates, and those of the smaller network."""
    module, params, state = networks.build(name)
    gates = networks.random_gates(module.groups(), seed=GATES[name])
    under = ALL[criterion](module.network(params, state), module.groups(), gates, batches(name))
    specification, *arrays = remove(module, params, state, gates)
    smaller = ALL[criterion](
        specification.network(*arrays), specification.groups(), ones(specification.groups()), batches(name)
    )
    return living(module.groups(), gates), under, smaller


GATES = {"resnet": 1, "vit": 2, "mlp": 1}
# The second derivatives of a ViT take long to compile: they are held against a dense oracle in test_effects.
NOT = {("vit", "second_order"), ("vit", "kernel_block"), ("vit", "batchnorm_scale"), ("mlp", "batchnorm_scale")}
PAIRS = [(name, criterion) for name in GATES for criterion in ALL if (name, criterion) not in NOT]


@pytest.mark.parametrize(("name", "criterion"), PAIRS)
def test_criteria_under_gates_rate_as_on_the_smaller_network(name, criterion):
    alive, under, smaller = rated(name, criterion)
    assert set(under) == set(alive)
    assert all(np.shape(under[group]) == alive[group].shape for group in alive)
    assert set(smaller) == {group for group in alive if alive[group].any()}
    assert any(0 < alive[group].sum() < alive[group].size for group in alive)
    scale = max(np.max(np.abs(values)) for values in smaller.values())
    for group, values in smaller.items():
        np.testing.assert_allclose(under[group][alive[group]], values, rtol=1e-9, atol=1e-11 * scale, err_msg=group)


def test_l1_and_l2_are_norms_by_definition():
    module, params, state = networks.build("bottleneck")
    network, groups = module.network(params, state), module.groups()
    for order, criterion in ((1, criteria.l1()), (2, criteria.l2())):
        got = criterion(network, groups, ones(groups), [])
        for group in groups:
            block = params[group.name.split("/")[0]]
            norms = {
                conv: [np.sum(np.abs(kernel[..., unit]) ** order) ** (1 / order) for unit in range(kernel.shape[-1])]
                for conv, kernel in ((conv, block[conv]["kernel"]) for conv in ("conv1", "conv2", "conv3"))
            }
            if group.is_layer:
                want = [np.mean(norms["conv1"]) + np.mean(norms["conv2"]) + np.mean(norms["conv3"])]
            else:
                want = norms["conv" + group.name[-1]]
            np.testing.assert_allclose(got[group.name], want, rtol=1e-12)


def test_l1_of_heads_is_over_their_three_kernels():
    module, params, state = networks.build("vit")
    got = criteria.l1()(module.network(params, state), module.groups(), ones(module.groups()), [])
    attention = params["block1"]["attention"]
    parts = [np.abs(attention[which]["kernel"]) for which in ("query", "key", "value")]
    want = [sum(kernel[:, 2 * head : 2 * head + 2].sum() for kernel in parts) for head in range(2)]
    np.testing.assert_allclose(got["block1/heads"], want, rtol=1e-12)
    mlp = params["block1"]["mlp"]
    want = sum(np.abs(mlp[which]["kernel"]).sum(0).mean() for which in ("hidden", "output"))
    np.testing.assert_allclose(got["block1/mlp"], [want], rtol=1e-12)


def test_batchnorm_scale_by_definition():
    module, params, state = networks.build("bottleneck")
    groups = module.groups()
    got = criteria.batchnorm_scale()(module.network(params, state), groups, ones(groups), [])
    for group in groups:
        block = params[group.name.split("/")[0]]
        want = (
            [np.mean(np.abs(block["norm3"]["scale"]))]
            if group.is_layer
            else np.abs(block["norm" + group.name[-1]]["scale"])
        )
        np.testing.assert_allclose(got[group.name], want, rtol=1e-12)


def test_batchnorm_scale_says_what_else_there_is_without_batchnorm():
    module, params, state = networks.build("vit")
    with pytest.raises(ValueError, match=r"groups: 'block0/heads' has no BatchNorm scale\. For networks without Batch"):
        criteria.batchnorm_scale()(module.network(params, state), module.groups(), ones(module.groups()), [])


def test_activation_by_definition():
    params = networks.mlp_params()
    groups = networks.MLP.groups()
    batch = {"image": np.random.default_rng(0).normal(size=(4, 2, 2, 1)), "label": np.zeros(4, int)}
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    gates = {"units": np.array([True, True, False, True, True]), "extra": np.array([True])}
    got = criteria.activation()(networks.MLP.network(params, {}), groups, gates, [batch | {"weight": weight}])
    hidden = np.maximum(batch["image"].reshape(4, 4) @ params["in"]["kernel"] + params["in"]["bias"], 0)
    hidden *= gates["units"]
    outputs = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    share = weight / weight.sum()
    np.testing.assert_allclose(got["units"][gates["units"]], (share @ hidden)[gates["units"]], rtol=1e-12)
    want = share @ np.abs(np.tanh(outputs) @ params["extra"]["kernel"]).mean(1)
    np.testing.assert_allclose(got["extra"], [want], rtol=1e-12)


def test_activation_is_the_mean_over_positions_of_the_tagged_value():
    module, params, state = networks.build("resnet")
    images = networks.images("resnet", 3)
    got = criteria.activation()(
        module.network(params, state), module.groups(), ones(module.groups()), [{"image": images, "label": np.zeros(3)}]
    )
    _, found = module.apply({"params": params, **state}, images, capture_intermediates=True, mutable=["intermediates"])
    block = found["intermediates"]["stage1_block1"]
    units = np.maximum(block["norm1"]["__call__"][0], 0)
    np.testing.assert_allclose(got["stage1_block1/units1"], units.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(got["stage1_block1"], [np.abs(block["norm2"]["__call__"][0]).mean()], rtol=1e-12)


def test_random_is_a_function_of_its_key():
    module, params, state = networks.build("vit")
    network, groups = module.network(params, state), module.groups()
    one, same, other = (criteria.random(jax.random.key(seed))(network, groups, ones(groups), []) for seed in (0, 0, 1))
    assert {name: values.shape for name, values in one.items()} == {group.name: (group.size,) for group in groups}
    numbers, others = (np.concatenate(list(ratings.values())) for ratings in (one, other))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.any(numbers == others)
    assert len(np.unique(numbers)) == len(numbers)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 / np.sqrt(12 * len(numbers))


@pytest.mark.parametrize("name", WITH_DATA)
def test_criteria_do_not_change_by_padding(name):
    network = networks.MLP.network(networks.mlp_params(), {})
    groups, rng = networks.MLP.groups(), np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(6, 2, 2, 1)),
        "label": np.arange(6) % 3,
        "weight": np.array([1.0, 2.0, 0.5, 1.0, 1.0, 3.0]),
    }
    one, padded = (ALL[name](network, groups, ones(groups), [data]) for data in (batch, cases.pad(batch, 3)))
    for group in one:
        np.testing.assert_allclose(padded[group], one[group], rtol=1e-10)
    assert any(np.any(values != 0) for values in one.values())


@pytest.mark.parametrize("name", WITH_DATA)
def test_criteria_that_look_at_data_want_some(name):
    network, groups = networks.MLP.network(networks.mlp_params(), {}), networks.MLP.groups()
    with pytest.raises(ValueError, match=r"batches: expected at least one"):
        ALL[name](network, groups, ones(groups), [])


def test_l1_wants_kernels():
    params = {"in": np.ones((4, 5)), "bias": np.ones(5)}
    network = jp.Network(lambda p, s, x: x @ p["in"] + p["bias"], params)
    groups = (Group("units", 5, (Member("bias", 0), Member("in", 1, reads=True)), ("units",)),)
    with pytest.raises(ValueError, match=r"'units' has no kernel that makes its units\. l1 and l2 rate kernels"):
        criteria.l1()(network, groups, ones(groups), [])


def test_criterion_of_five_lines_runs():
    def largest_weight(network, groups, gates, batches):
        leaves = jp.tree.by_name(network.params)
        return {
            group.name: np.max(
                [abs(criteria.unit_slices(leaves[member.leaf], member, group.size)).max(1) for member in group.members],
                0,
            )
            for group in groups
            if not group.is_layer
        }

    params = networks.mlp_params()
    assert isinstance(largest_weight, criteria.Criterion)
    got = largest_weight(networks.MLP.network(params, {}), networks.MLP.groups(), {}, [])["units"]
    parts = [abs(params["in"]["kernel"]).max(0), abs(params["in"]["bias"]), abs(params["out"]["kernel"]).max(1)]
    np.testing.assert_array_equal(got, np.max(parts, 0))


def test_criterion_of_the_documentation_runs_in_a_search():
    text = criteria.__doc__
    code = textwrap.dedent(text[text.index("    def largest_weight") : text.index("(``below``")])
    scope = {"jp": jp, "np": np, "unit_slices": criteria.unit_slices, "below": below}
    exec(compile(code, "criteria.py", "exec"), scope)
    module = jp.models.resnet_cifar(20, 3, 2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 1), np.float32))
    variables = networks.random_weights(shapes, seed=0)
    rated = dict.fromkeys(("layer", "neurons"), scope["largest_weight"])
    search = jp.structured.Search(rated, jp.structured.choosers.random(0), lambda n, *_: n, [], (4, 4, 1), target=0.2)
    found = list(search(module, module.network(variables.pop("params"), variables)))
    assert found[-1].macs <= 0.8 * found[0].macs
