"""Bad input is refused in our words at every public function that takes a network and a batch.

The functions are found by their signatures: a new one fails until a row says how it is called.  Makers of scores are
such doors too.
"""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.evaluate import attacks, transfer

pytestmark = pytest.mark.usefixtures("unchecked")

LOSS = jp.losses.cross_entropy


def apply(params, state, images):
    values = jnp.maximum(images.reshape(len(images), -1) @ params["w1"], 0) @ params["w2"]
    return jax.ad_checkpoint.checkpoint_name(values, "features")


def train_apply(params, state, images, rngs):
    return apply(params, state, images), {"mean": 0.9 * state["mean"] + 0.1 * images.mean()}


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


PARAMS = {"w1": jnp.asarray(_normal(0, 4, 3)), "w2": jnp.asarray(_normal(1, 3, 3))}
NETWORK = jp.Network(apply, PARAMS, {"mean": jnp.zeros(1)}, train_apply)
BATCH = {"image": np.abs(_normal(2, 4, 2, 2, 1)) / 9, "label": np.array([0, 1, 2, 0]), "weight": np.ones(4)}
KEY = jax.random.key(0)


def mask(net):
    return jax.tree.map(lambda leaf: jnp.arange(np.size(leaf)).reshape(np.shape(leaf)) > 0, net.params)


def wanted(net):
    return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, net.params)


def prune(function, *more):
    return lambda net, data: list(
        function(net, jp.scores.snip(LOSS), data, {name: name == "w1" for name in net.params}, (0.5,), *more)
    )


# function -> how it is called with a network and a list of one batch.
DOORS = {
    "curvature.gradient": lambda net, data: jp.curvature.gradient(net, LOSS, *data),
    "curvature.hvp": lambda net, data: jp.curvature.hvp(net, LOSS, *data, net.params),
    "curvature.ggnvp": lambda net, data: jp.curvature.ggnvp(net, LOSS, *data, net.params),
    "curvature.diagonal": lambda net, data: jp.curvature.diagonal(net, LOSS, *data),
    "curvature.block_product": lambda net, data: jp.curvature.block_product(net, LOSS, *data, net.params),
    "curvature.block": lambda net, data: jp.curvature.block(net, LOSS, *data, "w1"),
    "curvature.block_factors": lambda net, data: jp.curvature.block_factors(net, LOSS, *data, "w1"),
    "curvature.block_members": lambda net, data: jp.curvature.block_members(net, *data, "w1", "unit"),
    "curvature.columns": lambda net, data: jp.curvature.columns(net, LOSS, *data, "hessian"),
    "curvature.plan": lambda net, data: jp.curvature.plan(net, LOSS, *data, "diagonal"),
    "evaluate.attacks.attacked": lambda net, data: list(
        attacks.attacked(net, LOSS, data, lambda *given: attacks.fgsm(*given, epsilon=0.1))
    ),
    "evaluate.attacks.fgsm": lambda net, data: attacks.fgsm(net, LOSS, *data, epsilon=0.1),
    "evaluate.attacks.pgd": lambda net, data: attacks.pgd(
        net, LOSS, *data, epsilon=0.1, step_size=0.1, steps=1, key=KEY
    ),
    "evaluate.transfer.correct": transfer.correct,
    "evaluate.transfer.features": transfer.features,
    "evaluate.transfer.mean_loss": lambda net, data: transfer.mean_loss(LOSS, data)(net),
    "evaluate.transfer.accuracy": lambda net, data: transfer.accuracy(data)(net),
    "geometry.operator": lambda net, data: jp.geometry.operator(net, LOSS, data)(jnp.ones(jp.tree.size(net.params))),
    "geometry.barrier": lambda net, data: jp.geometry.barrier(net, LOSS, data, net, key=KEY, points=2),
    "geometry.mean_loss": lambda net, data: jp.geometry.mean_loss(net, LOSS, data),
    "geometry.pruning_path": lambda net, data: jp.geometry.pruning_path(net, LOSS, data, mask(net), points=2),
    "geometry.line": lambda net, data: jp.geometry.line(net, LOSS, data, net.params, points=1),
    "geometry.plane": lambda net, data: jp.geometry.plane(net, LOSS, data, net.params, net.params, points=1),
    "pruning.rounds": prune(jp.pruning.rounds),
    "pruning.prune": prune(jp.pruning.prune),
    "pruning.prune_and_update": prune(jp.pruning.prune_and_update, jp.scores.surgeon_update(LOSS, matrix="ggn")),
    "pruning.ladder": prune(jp.pruning.ladder, lambda net, mask, rung: net),
    "train.fit": lambda net, data: jp.train.fit(net, LOSS, optax.sgd(0.1), *data, steps=1, batch_size=4, seed=0),
    "train.recalibrate": lambda net, data: jp.train.recalibrate(net, data, KEY),
    "scores.magnitude": lambda net, data: jp.scores.magnitude()(net, data),
    "scores.random": lambda net, data: jp.scores.random(KEY)(net, data),
    "scores.synflow": lambda net, data: jp.scores.synflow()(net, data),
    "scores.snip": lambda net, data: jp.scores.snip(LOSS)(net, data),
    "scores.grasp": lambda net, data: jp.scores.grasp(LOSS)(net, data),
    "scores.fisher": lambda net, data: jp.scores.fisher(LOSS)(net, data),
    "scores.diagonal_hessian": lambda net, data: jp.scores.diagonal_hessian(LOSS)(net, data),
    "scores.block_hessian": lambda net, data: jp.scores.block_hessian(LOSS, form="obs", matrix="ggn")(net, data),
    "scores.surgeon_update": lambda net, data: jp.scores.surgeon_update(LOSS, matrix="ggn")(net, data, mask(net)),
}
# What is under a door that is listed, or works on what was checked.
INSIDE = {"train.step"}
WITHOUT_DATA = {"scores.magnitude", "scores.random"}
ONLY_SHAPES = {"curvature.block_members", "curvature.columns", "scores.synflow"}
# The loss is not read: labels may be anything.
WITHOUT_LOSS = WITHOUT_DATA | ONLY_SHAPES | {"train.recalibrate", "evaluate.transfer.features"}


def public_functions():
    for info in pkgutil.walk_packages(jp.__path__, "jaxprune."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []) if hasattr(module, "__path__") else vars(module):
            value = getattr(module, name)
            own = hasattr(module, "__path__") or getattr(value, "__module__", None) == info.name
            if callable(value) and own and not name.startswith("_") and "._" not in info.name:
                yield f"{info.name.removeprefix('jaxprune.')}.{name}", value


def is_door(value):
    try:
        names = set(inspect.signature(value).parameters)
    except ValueError:
        return False
    return "network" in names and bool(names & {"batch", "batches", "data"})
