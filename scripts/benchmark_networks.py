"""What the benchmark measures on: networks with plausible weights, batches, and their weights as PyTorch wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxprune as jp
from jaxprune.types import Batch, Loss

LOSS = jp.losses.cross_entropy
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A network and a batch to measure on, with a vector to multiply.

    Attributes:
      network: in float32, at its initial weights; BatchNorm holds the statistics of the batch.
      batch: random images and labels.
      vector: the parameters themselves, as for scores.
      kernels: the scope of all kernels of convolutions and dense layers.
    """

    network: jp.Network
    batch: Batch
    vector: Any
    kernels: Any

    def gradient(self) -> Any:
        """Computes what everything is measured in: one value and gradient of the batch."""
        return _value_and_gradient(self.network, self.batch, loss=LOSS)

    def scope(self, wanted: Callable[[str], bool]) -> Any:
        """Returns the scope of the kernels whose names are wanted."""
        return jp.tree.map_named(lambda name, kernel: kernel and wanted(name), self.kernels)

    def in_scope(self, tree: Any) -> dict[str, Any]:
        """Returns the kernels of a tree by their names."""
        named = zip(jp.tree.names(tree), jax.tree.leaves(tree), jax.tree.leaves(self.kernels), strict=True)
        return {name: leaf for name, leaf, wanted in named if wanted}


def subject(module: nn.Module, image: int, batch: int, classes: int) -> Subject:
    """Initialises a network, draws a batch, and gives BatchNorm the statistics of the batch."""
    draw = np.random.default_rng(SEED)
    images = jnp.asarray(draw.standard_normal((batch, image, image, 3), np.float32))
    labels = jnp.asarray(draw.integers(0, classes, batch, np.int32))
    network = jp.Network.from_linen(module, jax.jit(module.init)(jax.random.key(SEED), images[:1]), {"train": True})
    network = network.replace(state=_statistics(network, images))
    return Subject(network, {"image": images, "label": labels}, network.params, jp.tree.prunable(network.params))


def resnet_cifar(depth: int = 20, classes: int = 10, batch: int = 64) -> Subject:
    """Makes a ResNet for images of 32x32."""
    return subject(jp.models.resnet_cifar(depth, classes=classes), 32, batch, classes)


def only(tree: Any, path: str, unit: int) -> Any:
    """Returns a tree with everything zero but one unit of one leaf."""

    def cut(name: str, leaf: Any) -> Any:
        inside = (jnp.arange(leaf.shape[-1]) == unit) & (name == path)
        return jnp.where(inside, leaf, 0)

    return jp.tree.map_named(cut, tree)


def torch_weights(network: jp.Network) -> dict[str, np.ndarray]:
    """Names and lays out the weights and statistics of a network as PyTorch does.

    >>> import jax.numpy as jnp
    >>> net = jp.Network(None, {"block": {"conv": {"kernel": jnp.ones((3, 3, 2, 5))}}})
    >>> {name: value.shape for name, value in torch_weights(net).items()}
    {'block.conv.weight': (5, 2, 3, 3)}
    """
    trees = [network.params, network.state.get("batch_stats", {})]
    named = [pair for tree in trees for pair in zip(jp.tree.names(tree), jax.tree.leaves(tree), strict=True)]
    return {torch_name(name): torch_layout(name, leaf) for name, leaf in named}


def torch_name(name: str) -> str:
    """Translates the name of a leaf: ``stem/norm/scale`` is ``stem.norm.weight``."""
    *module, leaf = name.split("/")
    known = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return ".".join([*module, known.get(leaf, leaf)])


def torch_layout(name: str, leaf: Any) -> np.ndarray:
    """Brings a leaf into PyTorch's layout: kernels [h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(np.ndim(leaf)) if name.endswith("kernel") else None
    return np.array(np.transpose(leaf, order) if order else leaf, order="C")


def flax_layout(name: str, leaf: np.ndarray) -> np.ndarray:
    """Undoes ``torch_layout``."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(leaf.ndim) if name.endswith("kernel") else None
    return np.transpose(leaf, order) if order else leaf


def _statistics(network: jp.Network, images: Any) -> Any:
    """Returns the state with the batch's own statistics, so that signals keep their size at any depth."""
    if not network.state:
        return network.state
    _, moved = jax.jit(network.train_apply)(network.params, network.state, images, {})

    def whole(name: str, old: Any, new: Any) -> Any:
        # Training mode moves a tenth of the way from the old statistics; the rest of the way is ten times that.
        there = np.asarray(old) + 10 * (np.asarray(new) - np.asarray(old))
        return jnp.asarray(np.maximum(there, 1e-3) if name.endswith("var") else there)

    return jp.tree.map_named(whole, network.state, moved)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _value_and_gradient(network: jp.Network, batch: Batch, *, loss: Loss) -> Any:
    def mean_loss(params: Any) -> Any:
        return jp.losses.mean(loss, network.apply(params, network.state, batch["image"]), batch)

    return jax.value_and_grad(mean_loss)(network.params)
