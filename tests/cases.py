"""Small networks for batteries, in float64, and dense matrices to hold the library against.

The oracles flatten all parameters into one vector and write every definition out; they share no code with the library.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.flatten_util import ravel_pytree

import jaxprune as jp


def aligned(size: int, dtype: Any) -> np.ndarray:
    """Ones in memory that JAX takes as its own, if it is let."""
    count = size * np.dtype(dtype).itemsize
    memory = np.zeros(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    numbers = memory[start : start + count].view(dtype)
    numbers[:] = 1
    return numbers


@dataclass(frozen=True, eq=False)
class Case:
    """A network with zeros among its weights, a batch with weights, and what may be pruned.

    ``scope`` marks a few leaves of every kind, for what compiles one program per leaf.
    """

    network: jp.Network
    batch: dict[str, np.ndarray]
    prunable: Any
    scope: Any


def _mlp_apply(params, state, images):
    first, (kernel, bias) = params
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ first["w"] + first["b"][None])
    return hidden @ kernel + bias[None]


class _CNN(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Conv(2, (3, 3), use_bias=False, name="conv1")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.relu(nn.Conv(3, (2, 2), strides=2, name="conv2")(x))
        return nn.Dense(3, name="head")(jnp.mean(x, axis=(1, 2)))


def _mlp():
    params = ({"w": np.zeros((4, 5)), "b": np.zeros(5)}, [np.zeros((5, 3)), np.zeros(3)])
    return jp.Network(_mlp_apply, params), (2, 2, 1), r"(w|1/0)$", r"."


def _cnn():
    return _linen(_CNN(), (4, 4, 1)), (4, 4, 1), jp.tree.KERNELS, r"conv|norm"


def _resnet():
    module = jp.models.resnet_cifar(8, classes=3, width=1)
    return (
        _linen(module, (4, 4, 1)),
        (4, 4, 1),
        r"(stage2_block0|head).*kernel",
        r"stage2_block0/(conv1/kernel|projection_norm/scale)",
    )


def _vit():
    module = jp.models.vit("ti", patch=2, image=4, classes=3, width=4, heads=2, depth=1)
    return _linen(module, (4, 4, 1)), (4, 4, 1), jp.tree.KERNELS, r"key/kernel|norm1/scale"


def _linen(module, image):
    return jp.Network.from_linen(module, jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, *image))))


_CASES = {"mlp": _mlp, "cnn": _cnn, "resnet": _resnet, "vit": _vit}
NAMES = tuple(_CASES)
PIECEWISE_LINEAR = ("cnn", "resnet")


@cache
def build(name: str) -> Case:
    network, image, prunable, scope = _CASES[name]()
    rng = np.random.default_rng(0)

    def draw(leaf_name, leaf):
        values = rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        if leaf_name.endswith("var"):
            return jnp.asarray(0.5 + np.abs(values))
        if leaf_name.endswith("scale"):
            return jnp.asarray(1 + 0.3 * values)
        # A quarter is zero, as in a network that is already pruned; biases are not, so that no unit is silent.
        return jnp.asarray(np.where(rng.random(leaf.shape) < 0.25, 0, values) if leaf.ndim > 1 else values + 0.1)

    params, state = jp.tree.map_named(draw, network.params), jp.tree.map_named(draw, network.state)
    batch = {
        "image": rng.normal(size=(5, *image)),
        "label": np.array([0, 2, 1, 1, 2]),
        "weight": np.array([1.0, 0.5, 2.0, 0.0, 1.5]),
    }
    in_scope = jp.tree.map_named(lambda leaf_name, _: bool(re.search(scope, leaf_name)), params)
    return Case(network.replace(params=params, state=state), batch, jp.tree.prunable(params, prunable), in_scope)


def vector(tree: Any, seed: int = 1) -> Any:
    """A random tree of the same structure."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), tree)


def take(batch: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {key: value[start:stop] for key, value in batch.items()}


def pad(batch: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Adds examples of weight 0, whose images are large and whose labels are 0."""
    filler = {"image": 1e3, "label": 0, "weight": 0.0}
    return {
        key: np.concatenate([value, np.full((count, *value.shape[1:]), filler[key], value.dtype)])
        for key, value in batch.items()
    }


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def positions(params: Any, path: str) -> np.ndarray:
    """Where the weights of one leaf stand in the flattened parameters, in the leaf's shape."""
    start = 0
    for name, leaf in zip(jp.tree.names(params), jax.tree.leaves(params), strict=True):
        if name == path:
            return start + np.arange(leaf.size).reshape(leaf.shape)
        start += leaf.size
    raise KeyError(path)


def _softmax(outputs):
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


# The first and second derivative of the loss of every example by its outputs [b, c], in closed form.
_BY_OUTPUTS = {
    "cross_entropy": lambda f, y: (
        _softmax(f) - y,
        np.einsum("bc,cd->bcd", _softmax(f), np.eye(3)) - np.einsum("bc,bd->bcd", _softmax(f), _softmax(f)),
    ),
    "squared_error": lambda f, y: (2 * (f - y), np.broadcast_to(2 * np.eye(3), (len(f), 3, 3))),
}


@cache
def outputs(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs [b, c], their Jacobian [b, c, n] and their Hessians [b, c, n, n] by all n parameters."""
    case = build(name)
    start, unravel = ravel_pytree(case.network.params)

    def function(flat_params):
        return case.network.apply(unravel(flat_params), case.network.state, case.batch["image"])

    # Column by column: one small program compiles twice as fast as jax.hessian.
    column = jax.jit(lambda way: (function(start), *jax.jvp(jax.jacrev(function), (start,), (way,))))
    columns = [column(way) for way in np.eye(start.size)]
    second = np.stack([of_way for _, _, of_way in columns], axis=-1)
    return np.asarray(columns[0][0]), np.asarray(columns[0][1]), second


def gradients(name: str, loss: str = "cross_entropy") -> np.ndarray:
    """The gradient of the loss of every example [b, n]."""
    values, jacobian, _ = outputs(name)
    return np.einsum("bc,bcn->bn", _BY_OUTPUTS[loss](values, np.eye(3)[build(name).batch["label"]])[0], jacobian)


def share(name: str) -> np.ndarray:
    """What every example counts for in the mean [b]."""
    weight = build(name).batch["weight"]
    return weight / weight.sum()


@cache
def matrix(name: str, kind: str, loss: str = "cross_entropy") -> np.ndarray:
    """The dense matrix [n, n] over all parameters."""
    if kind == "empirical_fisher":
        return np.einsum("b,bi,bj->ij", share(name), gradients(name, loss), gradients(name, loss))
    values, jacobian, second = outputs(name)
    slope, bend = _BY_OUTPUTS[loss](values, np.eye(3)[build(name).batch["label"]])
    ggn = np.einsum("b,bci,bcd,bdj->ij", share(name), jacobian, bend, jacobian, optimize=True)
    return ggn if kind == "ggn" else ggn + np.einsum("b,bc,bcij->ij", share(name), slope, second, optimize=True)


def block_numbers(shape: tuple[int, ...], blocks: str | int) -> np.ndarray:
    """Which block a weight belongs to, by definition: one number for every weight, in the leaf's shape."""
    numbers, seen = np.zeros(shape, dtype=int), {}
    for index in np.ndindex(*shape):
        unit = index[-1:]
        run = int(np.ravel_multi_index(index[:-1], shape[:-1])) if len(shape) > 1 else 0
        key = {"layer": (), "unit": unit}.get(blocks, (unit, run // blocks if isinstance(blocks, int) else None))
        numbers[index] = seen.setdefault(key, len(seen))
    return numbers


def same_blocks(params: Any, blocks: str | int) -> np.ndarray:
    """[n, n]: whether two weights share a leaf and a block."""
    labels, first = [], 0
    for leaf in jax.tree.leaves(params):
        labels.append(first + block_numbers(leaf.shape, blocks).ravel())
        first += leaf.size
    labels = np.concatenate(labels)
    return labels[:, None] == labels[None, :]
