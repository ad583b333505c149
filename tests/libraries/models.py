"""One small network, written in linen, NNX and Equinox; weights and statistics are those of linen in all three."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxprune as jp

IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 2))
DATA = {"image": IMAGES, "label": np.arange(6) % 3}
TRACES: list[str] = []


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for conv, norm, bias in (("conv", "norm", True), ("last", "scaled", False)):
            x = nn.Conv(3, (3, 3), use_bias=bias, name=conv)(x)
            x = nn.relu(nn.BatchNorm(not train, name=norm, use_fast_variance=False)(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class NNX(nnx.Module):
    def __init__(self, rngs, rate=0.5):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs, use_fast_variance=False)
        self.last = nnx.Conv(3, 3, (3, 3), use_bias=False, rngs=rngs)
        self.scaled = nnx.BatchNorm(3, rngs=rngs, use_fast_variance=False)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        TRACES.append("nnx")
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.relu(self.scaled(self.last(x)))
        return self.head(self.drop(x.mean((1, 2))))


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Conv2d
    scaled: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key, rate=0.5, mode="batch"):
        first, second, third = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(2, 3, 3, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode=mode)
        self.last = eqx.nn.Conv2d(3, 3, 3, padding=1, use_bias=False, key=second)
        self.scaled = eqx.nn.BatchNorm(3, axis_name="batch", mode=mode)
        self.drop = eqx.nn.Dropout(rate)
        self.head = eqx.nn.Linear(3, 3, key=third)

    def __call__(self, x, state, key=None):
        TRACES.append("equinox")
        x, state = self.norm(self.conv(x), state)
        x, state = self.scaled(self.last(jax.nn.relu(x)), state)
        return self.head(self.drop(jax.nn.relu(x).mean((1, 2)), key=key)), state


LIBRARIES = ("nnx", "equinox")


def model(library: str, rate: float = 0.5, seed: int = 0) -> Any:
    """A model as a user makes it: an NNX module, or Equinox's (model, state)."""
    if library == "nnx":
        return NNX(nnx.Rngs(seed), rate)
    return eqx.nn.make_with_state(Equinox)(jax.random.key(seed), rate)


def wrapped(library: str, model: Any) -> jp.Network:
    return jp.Network.from_nnx(model) if library == "nnx" else jp.Network.from_equinox(*model, channels_first=True)


def linen() -> jp.Network:
    """The network in linen, in float64, with statistics that are not those of a beginning."""
    module = Linen()
    rng = np.random.default_rng(1)

    def draw(name, leaf):
        values = rng.normal(size=leaf.shape) / 2
        return jnp.asarray(0.5 + values**2 if name.endswith(("var", "scale")) else values)

    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGES))
    return jp.Network.from_linen(module, jp.tree.map_named(draw, variables), {"train": True})


def translated(library: str, network: jp.Network) -> tuple[Any, Any]:
    """The parameters and the state of the network in linen, as those of another library."""
    params, statistics = network.params, network.state["batch_stats"]
    if library == "nnx":
        return params, statistics
    return _equinox(params), {
        name: {"batch_state_index": {0: leaves["mean"], 1: leaves["var"]}, "warmup": jnp.zeros(())}
        for name, leaves in statistics.items()
    }


def _equinox(params: Any) -> Any:
    kernel = lambda leaf: np.transpose(leaf, (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0))  # noqa: E731
    return {
        "conv": {"weight": kernel(params["conv"]["kernel"]), "bias": np.reshape(params["conv"]["bias"], (3, 1, 1))},
        "last": {"weight": kernel(params["last"]["kernel"])},
        "head": {"weight": kernel(params["head"]["kernel"]), "bias": params["head"]["bias"]},
        **{name: {"weight": params[name]["scale"], "bias": params[name]["bias"]} for name in ("norm", "scaled")},
    }


def as_in(library: str, tree: Any) -> Any:
    """A tree of linen's parameters (a gradient, scores), as one of another library's."""
    return tree if library == "nnx" else _equinox(tree)


def network(library: str, rate: float = 0.5) -> jp.Network:
    """The network in another library, with the numbers of the one in linen."""
    params, state = translated(library, linen())
    made = wrapped(library, model(library, rate))
    assert jp.tree.names(made.params) == jp.tree.names(params)
    assert jp.tree.names(made.state) == jp.tree.names(state)
    return made.replace(params=jax.tree.map(jnp.asarray, params), state=state)
