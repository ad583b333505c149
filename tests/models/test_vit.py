"""What vision transformers of other libraries do in other ways: each option, and how it is written."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import vit
from jaxprune.models.transformer_blocks import ACTIVATIONS

TINY = {"patch": 4, "image": 8, "classes": 3, "width": 8, "heads": 2, "depth": 2}
CHANGED = {
    "norm_epsilon": 1e-5,
    "activation": "quick_gelu",
    "embed_bias": False,
    "pre_norm": True,
    "head_bias": False,
    "pool": "mean",
}


def variables_of(module, channels=3):
    images = jax.ShapeDtypeStruct((2, module.image, module.image, channels), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


def drawn(module):
    rng = np.random.default_rng(0)
    return tree.map_named(lambda name, leaf: rng.normal(size=leaf.shape), variables_of(module)[1])


def test_vit_of_the_large_size_has_as_many_parameters_as_torchvisions():
    assert tree.size(variables_of(vit("l"))[1]["params"]) == 304_326_632
    assert vit("l").depth == 24


def test_describe_writes_options_where_they_are_not_the_usual_ones():
    plain = vit(**TINY).describe()
    assert not set(plain) & set(CHANGED)
    assert vit(**TINY, **CHANGED).describe() == plain | CHANGED
    for name, value in CHANGED.items():
        module = vit(**TINY, **{name: value})
        assert module.describe() == plain | {name: value}
        again = jp.models.specification(json.loads(json.dumps(module.describe())))
        assert again == module
        assert hash(again) == hash(module)
        assert again != vit(**TINY)
        left = module.without({"block0/attention": np.array([False])})
        assert jp.models.specification(left.describe()) == left


NAMES = {
    "embed_bias": {"embed/bias"},
    "head_bias": {"head/bias"},
    "pool": {"class_token"},
}


@pytest.mark.parametrize("name", CHANGED)
def test_vit_option_changes_these_leaves(name):
    usual, changed = (
        set(tree.names(variables_of(vit(**TINY, **one))[1]["params"])) for one in ({}, {name: CHANGED[name]})
    )
    assert usual - changed == NAMES.get(name, set())
    assert changed - usual == ({"pre_norm/bias", "pre_norm/scale"} if name == "pre_norm" else set())


def test_vit_of_the_mean_over_patches_has_no_class_token():
    module, images = vit(**TINY, pool="mean"), np.random.default_rng(1).normal(size=(2, 8, 8, 3))
    variables = drawn(module)
    network = module.network(variables["params"], {})
    last, features = jp.sites.read_jit(network, images, sites=("block1", "features"))
    assert last.shape == (2, 4, 8)
    centred = last - last.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6)
    norm = variables["params"]["norm"]
    np.testing.assert_allclose(features, (normed * norm["scale"] + norm["bias"]).mean(1), rtol=1e-9)


def test_vit_without_classes_answers_its_features():
    module, images = vit(**TINY | {"classes": 0}), np.random.default_rng(1).normal(size=(2, 8, 8, 3))
    outputs, variables = variables_of(module)
    assert outputs.shape == (2, 8)
    assert "head" not in variables["params"]
    network = module.network(drawn(module)["params"], {})
    (features,) = jp.sites.read_jit(network, images, sites=("features",))
    np.testing.assert_allclose(jax.jit(network.apply)(network.params, {}, images), features, rtol=1e-12)
    assert jp.models.specification(module.describe()) == module


def test_transformer_blocks_activations_are_their_definitions():
    x = np.linspace(-6, 6, 101)
    expected = {
        "gelu": x * (1 + erf(x / np.sqrt(2))) / 2,
        "gelu_tanh": x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
        "quick_gelu": x * expit(1.702 * x),
    }
    for name, activation in ACTIVATIONS.items():
        np.testing.assert_allclose(activation(x), expected[name], rtol=1e-10, atol=1e-12)


def test_without_removes_units_with_all_options():
    module = vit(**TINY, **CHANGED)
    network = module.network(drawn(module)["params"], {})
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3))
    assert [group.name for group in module.groups()] == [group.name for group in vit(**TINY).groups()]
    gates = {group.name: np.arange(group.size) % 2 == 0 for group in module.groups() if not group.is_layer}
    smaller, params = removed(module, network, gates)
    zeroed = jax.jit(module.apply)({"params": zeroed_units(module, network.params, gates)}, images)
    np.testing.assert_allclose(jax.jit(smaller.apply)({"params": params}, images), zeroed, rtol=1e-10)


def removed(module, network, gates):
    params = tree.by_name(network.params)
    for group in module.groups():
        if group.name in gates:
            for member in group.members:
                kept = np.repeat(gates[group.name], member.each)
                params[member.leaf] = np.compress(kept, params[member.leaf], axis=member.axis)
    smaller = module.without(gates)
    return smaller, tree.map_named(lambda name, leaf: params[name], variables_of(smaller)[1]["params"])


def zeroed_units(module, params, gates):
    """Zeros in what reads the units: so they are as if gone."""
    leaves = tree.by_name(params)
    for group in module.groups():
        if group.name in gates:
            for member in (member for member in group.members if member.reads):
                kept = np.repeat(gates[group.name], member.each)
                leaves[member.leaf] = leaves[member.leaf] * kept[:, None]
    return tree.map_named(lambda name, leaf: leaves[name], params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu_tan"}, r"activation: unknown value 'gelu_tan'. Did you mean 'gelu_tanh'\?"),
        ({"pool": "map"}, r"pool: unknown value 'map'"),
        ({"norm_epsilon": 0.0}, r"norm_epsilon: expected a finite number above 0, but got 0\.0"),
        ({"classes": -1}, r"classes: expected a whole number of 0 or more, but got -1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_vit_refuses_bad_options_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        vit(**TINY | options)
