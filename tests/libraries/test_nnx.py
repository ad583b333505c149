"""Modules of Flax NNX: the same numbers as NNX's own, and what modules may hold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxprune as jp
from tests.libraries import models

IMAGES = models.IMAGES.astype(np.float32)
RNGS = {"dropout": jax.random.PRNGKey(0)}


def same(got: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), got, expected)


def test_from_nnx_is_the_module_in_both_of_its_modes():
    model = models.model("nnx", rate=0.0)
    network = jp.Network.from_nnx(model)
    outputs, state = network.train_apply(network.params, network.state, IMAGES, RNGS)
    model.train()
    same(outputs, model(IMAGES))
    same(state, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    model.eval()
    trained = network.replace(state=state)
    same(trained(IMAGES), model(IMAGES))
    same(trained.to_model()(IMAGES), model(IMAGES))
    assert not np.allclose(trained(IMAGES), network(IMAGES))


class Tutorial(nnx.Module):
    """Streams are passed at the call, as in Flax's tutorial of today."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5)
        self.second = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        return self.second(self.drop(self.first(x), rngs=rngs))


def test_from_nnx_passes_streams_where_the_call_takes_them():
    network = jp.Network.from_nnx(Tutorial(nnx.Rngs(0)))
    first, second = (
        network.train_apply(network.params, {}, np.ones((2, 4)), {"dropout": jax.random.key(seed)})[0]
        for seed in (0, 1)
    )
    assert not np.allclose(first, second)
    assert network(np.ones((2, 4))).shape == (2, 2)
    assert network.state == {}


class Switched(Tutorial):
    def __call__(self, x, train=False):
        return self.second(self.first(x)) * (2.0 if train else 1.0)


def test_from_nnx_wants_to_know_what_a_switch_means():
    with pytest.raises(
        ValueError, match=r"has the switch train=False\. .* such as train=\{'train': True\}, or train=\{\}"
    ):
        jp.Network.from_nnx(Switched(nnx.Rngs(0)))
    images = np.ones((2, 4))
    for train, factor in (({"train": True}, 2), ({}, 1)):
        network = jp.Network.from_nnx(Switched(nnx.Rngs(0)), train)
        outputs, _ = network.train_apply(network.params, {}, images, RNGS)
        np.testing.assert_allclose(outputs, factor * network(images))


class Everything(nnx.Module):
    """What a module may hold besides layers."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, use_bias=number > 0, rngs=rngs) for number in range(11)])
        self.tied = self.layers[0]
        self.table = nnx.Variable({"b": (jnp.ones(2), jnp.zeros(1)), "a": jnp.ones(())})
        self.count = nnx.Variable(jnp.zeros((), jnp.int32))
        self.bins = nnx.Param(jnp.arange(3))
        self.streams = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))(rngs)
        self.noise = nnx.Dropout(0.5, rngs=rngs)
        self.more = nnx.Dropout(0.5, rngs=rngs)
        self.seen = nnx.Intermediate((jnp.ones(7),))

    @nnx.remat
    def block(self, x):
        return self.noise(self.tied(x))

    def __call__(self, x):
        self.count[...] += 1
        for layer in self.layers:
            x = layer(x)
        return self.block(x) * self.table["a"]


def test_from_nnx_takes_modules_apart_and_puts_them_together():
    model = Everything(nnx.Rngs(0))
    network = jp.Network.from_nnx(model)
    names = jp.tree.names(network.params)
    # In the order of the list, which is not that of the words; what two places share is there once.
    assert [name for name in names if "kernel" in name] == [f"layers/{number}/kernel" for number in range(11)]
    assert [name for name in names if "bias" in name] == [f"layers/{number}/bias" for number in range(1, 11)]
    assert jp.tree.names(network.state) == ["bins", "count", "table/a", "table/b/0", "table/b/1"]
    images = np.ones((4, 3), np.float32)
    outputs, state = jax.jit(network.train_apply)(network.params, network.state, images, RNGS)
    assert jax.tree.structure(state) == jax.tree.structure(network.state)
    assert (int(state["count"]), int(network.state["count"]), int(model.count[...])) == (1, 0, 0)
    model.eval()
    np.testing.assert_allclose(network(images), model(images), rtol=1e-5)
    again = network.to_model()
    assert again.tied is again.layers[0]
    assert again.streams.rngs.key.shape == (2,)
    # Every stream has a key of its own.
    keys = [
        jax.random.key_data(leaf[...]) for leaf in (again.streams.rngs.key, again.noise.rngs.key, again.more.rngs.key)
    ]
    assert len(np.unique(np.concatenate([np.reshape(key, (-1, 2)) for key in keys]), axis=0)) == 4
    assert np.any(np.asarray(outputs) == 0)


def test_from_nnx_takes_abstract_modules():
    network = jp.Network.from_nnx(nnx.eval_shape(lambda: models.model("nnx")))
    assert network.params["conv"]["kernel"] == jax.ShapeDtypeStruct((3, 3, 2, 3), np.float32)
    assert jax.eval_shape(lambda network: network(IMAGES), network).shape == (6, 3)


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.rngs = nnx.Rngs(0)

    def __call__(self, x):
        return x + self.rngs.normal(x.shape)


def test_from_nnx_refuses_a_module_that_is_random_in_evaluation():
    with pytest.raises(
        ValueError, match="model: expected no random numbers in evaluation mode, but its outputs depend"
    ):
        jp.Network.from_nnx(Noisy(nnx.Rngs(0)))(IMAGES)


class Demanding(nnx.Module):
    def __call__(self, x, mask):
        return x * mask


class Unhashable(nnx.Module):
    def __init__(self):
        self.widths = nnx.static([1, 2])

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Dense(2), r"model: expected a module of flax\.nnx, but got a Dense\."),
        (
            Demanding(),
            r"model: expected __call__\(self, images\), with rngs where .* Demanding demands 'mask'\. Give it a",
        ),
        (nnx.Module(), r"but a Module cannot be called\. Give it a __call__\."),
        (nnx.Rngs(0), r"model: expected a module of flax\.nnx, but got a Rngs\."),
        (
            Unhashable(),
            r"model: expected static attributes that can be hashed, .* unhashable type: 'list'\. Make lists",
        ),
    ],
)
def test_from_nnx_refuses_what_it_cannot_call(model, message):
    with pytest.raises(ValueError, match=message):
        jp.Network.from_nnx(model)


def test_prunable_knows_a_state_of_nnx():
    """Leaves of a state that the user splits off are called "conv/kernel/value"."""
    params = nnx.state(models.model("nnx"), nnx.Param)
    chosen = [name for name, flag in jp.tree.by_name(jp.tree.prunable(params)).items() if flag]
    assert chosen == ["conv/kernel/value", "head/kernel/value", "last/kernel/value"]
    with pytest.raises(ValueError, match="include/exclude: expected patterns"):
        jp.tree.prunable({"value": np.ones((2, 2)), "kernel_value": np.ones((2, 2))})
