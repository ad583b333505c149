"""Modules of Equinox: the same numbers as Equinox's own, and the ways in which its users write models."""

import ast
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import jaxprune.libraries
from tests.libraries import models

IMAGES, KEY = models.IMAGES, jax.random.PRNGKey(0)
FIRST = np.moveaxis(IMAGES, -1, 1)
RNGS = {"dropout": KEY}


def same(got: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), got, expected)


def on_batch(model: Any, state: Any) -> Any:
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(FIRST, state)


def unused(state: Any) -> Any:
    """A copy: Equinox forbids to use a state twice."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_from_equinox_is_the_model_in_both_of_its_modes(mode):
    """Step by step the outputs and the state, counters included, are those that Equinox itself computes."""
    model, state = eqx.nn.make_with_state(models.Equinox)(KEY, 0.0, mode)
    network = jp.Network.from_equinox(model, unused(state), channels_first=True)
    for _ in range(3):
        outputs, own = network.train_apply(network.params, network.state, IMAGES, RNGS)
        expected, state = on_batch(model, unused(state))
        same(outputs, expected)
        network = network.replace(state=own)
        again, found = network.to_model()
        same(jax.tree.leaves(found), jax.tree.leaves(state))
        inference = eqx.nn.inference_mode(model)
        same(network(IMAGES), on_batch(inference, unused(state))[0])
        assert eqx.tree_equal(again, inference)


def test_from_equinox_keeps_counters_as_what_is_left_of_the_beginning():
    from jaxprune.libraries import equinox

    for momentum in (0.5, 0.9, 0.99, 0.9999):
        counts = np.arange(5000)
        warmup = equinox._warmup(counts, momentum)
        found = np.asarray(equinox._counter(warmup, momentum))
        gone = np.asarray(warmup) == 0
        np.testing.assert_array_equal(found[~gone], counts[~gone])
        assert np.all(found[gone] == 2**30)


def test_recalibrate_refuses_statistics_that_normalise_in_training():
    model, state = eqx.nn.make_with_state(models.Equinox)(KEY, 0.0, "ema")
    network = jp.Network.from_equinox(model, state, channels_first=True)
    batch = {**models.DATA}
    fresh = jp.train.recalibrate(network, [batch], KEY)  # nothing to average with yet
    _, state = network.train_apply(network.params, network.state, IMAGES, RNGS)
    same(fresh.state["scaled"]["ema_state_index"], state["scaled"]["ema_state_index"])
    with pytest.raises(ValueError, match=r"another rule for scaled/ema_state_index/0, .* make it with mode='batch'\."):
        jp.train.recalibrate(network.replace(state=state), [batch], KEY)


def test_from_equinox_takes_a_model_with_its_state_still_in_it():
    made, state = eqx.nn.make_with_state(models.Equinox)(KEY)
    expected = jp.Network.from_equinox(made, state, channels_first=True)
    got = jp.Network.from_equinox(models.Equinox(KEY), channels_first=True)
    same((got.params, got.state), (expected.params, expected.state))
    assert (got.apply, got.train_apply) == (expected.apply, expected.train_apply)
    with pytest.raises(
        ValueError, match=r"state: expected the state of the model's BatchNorm, but got None\. Pass both"
    ):
        jp.Network.from_equinox(made)
    with pytest.raises(ValueError, match=r"state: expected what eqx\.nn\.make_with_state returned, but got a dict\."):
        jp.Network.from_equinox(made, {})


class Plain(eqx.Module):
    """Without a state; the key is demanded, as in much code of Equinox."""

    layer: eqx.nn.Linear
    drop: eqx.nn.Dropout
    table: jax.Array
    shift: np.ndarray

    def __init__(self, key):
        self.layer = eqx.nn.Linear(3, 2, key=key)
        self.drop = eqx.nn.Dropout(0.5)
        self.table = jnp.arange(2)
        self.shift = np.ones(2)

    def __call__(self, x, key):
        first, _ = jax.random.split(key)
        return self.drop(self.layer(x)[self.table] + self.shift, key=first)


def test_from_equinox_calls_a_model_without_a_state():
    images = np.ones((8, 3))
    model = Plain(KEY)
    network = jp.Network.from_equinox(model)
    assert jp.tree.names(network.params) == ["layer/bias", "layer/weight", "shift"]
    assert jp.tree.names(network.state) == ["table"]
    expected = np.asarray(jax.vmap(model.layer)(images)) + 1
    np.testing.assert_allclose(network(images), expected)
    outputs, state = network.train_apply(network.params, network.state, images, RNGS)
    np.testing.assert_array_equal(np.isclose(outputs, 2 * expected) | np.isclose(outputs, 0), True)
    assert 0 < np.sum(np.asarray(outputs) == 0) < 16
    same(state, network.state)
    assert isinstance(network.to_model(), Plain)


def test_from_equinox_calls_a_sequence_of_layers():
    first, second = jax.random.split(KEY)
    layers = [
        *(eqx.nn.Linear(3, 4, key=first), eqx.nn.BatchNorm(4, "rows", mode="batch"), eqx.nn.Lambda(jax.nn.relu)),
        *(eqx.nn.Dropout(0.5), eqx.nn.Linear(4, 2, key=second)),
    ]
    images = np.random.default_rng(0).normal(size=(8, 3))
    network = jp.Network.from_equinox(*eqx.nn.make_with_state(eqx.nn.Sequential)(layers))
    assert jp.tree.names(network.state) == [
        "layers/1/batch_state_index/0",
        "layers/1/batch_state_index/1",
        "layers/1/warmup",
    ]
    outputs, state = network.train_apply(network.params, network.state, images, RNGS)
    assert outputs.shape == network(images).shape == (8, 2)
    assert float(state["layers"][1]["warmup"]) == 0.99
    plain = eqx.nn.Sequential(layers[:1])
    network = jp.Network.from_equinox(plain)
    np.testing.assert_array_equal(network(images), jax.vmap(plain)(images))
    assert isinstance(network.to_model(), eqx.nn.Sequential)


def test_from_equinox_takes_abstract_models():
    model, state = eqx.filter_eval_shape(eqx.nn.make_with_state(models.Equinox), KEY)
    network = jp.Network.from_equinox(model, state, channels_first=True)
    assert network.params["conv"]["weight"].shape == (3, 2, 3, 3)
    assert jax.eval_shape(lambda network: network(IMAGES), network).shape == (6, 3)


def test_to_model_is_saved_by_the_means_of_equinox(tmp_path):
    network = models.network("equinox")
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", network.to_model())
    like = eqx.nn.make_with_state(models.Equinox)(jax.random.key(5))
    loaded = jp.Network.from_equinox(*eqx.tree_deserialise_leaves(tmp_path / "model.eqx", like), channels_first=True)
    same((loaded.params, loaded.state), (network.params, network.state))


class Noisy(eqx.Module):
    def __call__(self, x, key):
        return x + jax.random.normal(key, x.shape)


class Forgetful(models.Equinox):
    def __call__(self, x, state):
        return super().__call__(x, state)[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Noisy, r"model: expected no random numbers in evaluation mode, but its outputs depend on some"),
        (lambda: Forgetful(KEY), r"model: expected \(output, state\) .* but that of Forgetful returned a .*Tracer\."),
    ],
)
def test_from_equinox_refuses_what_only_a_call_shows(model, message):
    with pytest.raises(ValueError, match=message):
        jp.Network.from_equinox(model(), channels_first=True)(IMAGES)


class Stateless(models.Equinox):
    def __call__(self, x):
        return x


class Demanding(eqx.Module):
    def __call__(self, x, context):
        return x


class Switched(eqx.Module):
    def __call__(self, x, inference=True):
        return x


class TwoAxes(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, x, state):
        return self.norm(x, state)


class Unhashable(eqx.Module):
    names: set

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: jax.nn.relu, r"model: expected a module of Equinox, but got a "),
        (
            lambda: Stateless(KEY),
            r"model: expected __call__\(self, image, state\), .* Stateless takes none\. Pass the state",
        ),
        (Demanding, r"with state and key where it needs them, but that of Demanding demands 'context'\. Give it a"),
        (Switched, r"that of Switched has the switch inference=True\. .* such as train=\{'inference': False\}"),
        (
            lambda: TwoAxes(eqx.nn.BatchNorm(3, ("batch", "device"), mode="batch")),
            r"model: expected one axis_name in all BatchNorm layers, the batch, but got \['batch', 'device'\]\.",
        ),
        (
            lambda: Unhashable({1}),
            r"model: expected static attributes that can be hashed, .* unhashable type: 'set'",
        ),
    ],
)
def test_from_equinox_refuses_what_it_cannot_call(model, message):
    with pytest.raises(ValueError, match=message):
        jp.Network.from_equinox(model())


def test_from_equinox_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    monkeypatch.delitem(sys.modules, "jaxprune.libraries.equinox", raising=False)
    monkeypatch.delattr(jaxprune.libraries, "equinox", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"Network\.from_equinox: Equinox is not installed\. pip install equinox"
    ):
        jp.Network.from_equinox(None)


def test_network_imports_neither_library():
    root = Path(jp.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name == "libraries":
            continue
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])] + [str(getattr(node, "module", ""))]
            assert not {"nnx", "equinox", "flax.nnx", "jaxprune.libraries"} & set(names), path
