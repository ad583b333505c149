"""Twelve networks as labs write them, with nothing declared: Flax, NNX, Equinox and plain functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxprune as jp
from jaxprune.structured.probes import is_float
from tests.structured.discovery import plain
from tests.structured.networks import random_weights

IMAGE = (8, 8, 3)
CLASSES = 4


class Conv(nn.Module):
    """A convolution, a BatchNorm and an activation."""

    width: int
    kernel: int = 3
    groups: int = 1
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x, train=False):
        kernel = (self.kernel, self.kernel)
        x = nn.Conv(self.width, kernel, feature_group_count=self.groups, use_bias=False)(x)
        return self.activation(nn.BatchNorm(use_running_average=not train)(x))


def same(x):
    return x


class VGG(nn.Module):
    widths: tuple = (6, 8)
    dense: int = 12

    @nn.compact
    def __call__(self, x, train=False):
        for width in self.widths:
            x = nn.max_pool(Conv(width)(x, train), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.dense)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(x))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(8)(x, train)
        for _ in range(2):
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(Conv(8, 1)(y, train))], -1)
        return nn.Dense(CLASSES)(nn.avg_pool(Conv(10, 1)(x, train), (2, 2), (2, 2)).mean((1, 2)))


class MobileNet(nn.Module):
    widths: tuple = (6, 8)
    expansion: int = 2

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(self.widths[0], activation=nn.relu6)(x, train)
        for width in self.widths:
            inner = self.expansion * x.shape[-1]
            y = Conv(inner, 3, inner, nn.relu6)(Conv(inner, 1, activation=nn.relu6)(x, train), train)
            y = Conv(width, 1, activation=same)(y, train)
            x = x + y if y.shape == x.shape else y
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class ResNeXt(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(8)(x, train)
        for _ in range(2):
            y = Conv(8, 1, activation=same)(Conv(12, 3, 4)(Conv(12, 1)(x, train), train), train)
            x = nn.relu(x + y)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        first = Conv(6)(x, train)
        deep = Conv(8)(nn.max_pool(first, (2, 2), (2, 2)), train)
        up = nn.ConvTranspose(6, (2, 2), (2, 2))(deep)
        x = Conv(8)(jnp.concatenate([first, up], -1), train)
        return nn.Conv(CLASSES, (1, 1))(x).mean((1, 2))


class ShuffleNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(8)(x, train)
        for _ in range(2):
            left, right = jnp.split(x, 2, -1)
            right = Conv(4, 3, 4, same)(Conv(4, 1)(right, train), train)
            x = jnp.stack([left, Conv(4, 1)(right, train)], -1).reshape(x.shape)
        return nn.Dense(CLASSES)(Conv(10, 1)(x, train).mean((1, 2)))


class Excited(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(8)(x, train)
        y = nn.sigmoid(nn.Dense(8)(nn.silu(nn.Dense(4)(x.mean((1, 2))))))
        return nn.Dense(CLASSES)(Conv(6)(x * y[:, None, None], train).mean((1, 2)))


class Transformer(nn.Module):
    """Queries in groups of two for every key, in one kernel with keys and values; a gated MLP in one kernel."""

    keys: int = 2
    size: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        width, h, d = 12, self.keys, self.size
        x = nn.Conv(width, (4, 4), (4, 4))(x).reshape(len(x), -1, width)
        for _ in range(2):
            y = nn.RMSNorm()(x)
            both = nn.Dense(4 * h * d)(y)
            q, k, v = jnp.split(both, [2 * h * d, 3 * h * d], -1)
            q, k, v = q.reshape(*x.shape[:2], h, 2, d), k.reshape(*x.shape[:2], h, d), v.reshape(*x.shape[:2], h, d)
            weights = nn.softmax(jnp.einsum("bqhgd,bkhd->bhgqk", q, k) / d**0.5)
            x = x + nn.Dense(width)(jnp.einsum("bhgqk,bkhd->bqhgd", weights, v).reshape(*x.shape[:2], -1))
            left, right = jnp.split(nn.Dense(32)(nn.RMSNorm()(x)), 2, -1)
            x = x + nn.Dense(width)(nn.silu(left) * right)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        width = x.shape[-1]
        y = nn.LayerNorm()(x)
        q, k, v = (nn.DenseGeneral((3, 4))(y) for _ in range(3))
        x = x + nn.DenseGeneral(width, axis=(-2, -1))(nn.dot_product_attention(q, k, v))
        return x + nn.Dense(width)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x)))), None


class ScannedViT(nn.Module):
    """Blocks in one loop: their leaves are stacked."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(12, (4, 4), (4, 4))(x).reshape(len(x), -1, 12)
        blocks = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = blocks()(x, None)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Conv(6, 8, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.head(nnx.relu(self.second(x)).mean((1, 2)))


class EquinoxNet(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(6, 8, 3, padding=1, key=keys[1])
        self.head = eqx.nn.Linear(8, CLASSES, key=keys[2])

    def __call__(self, x):
        x = jax.nn.relu(self.first(jnp.moveaxis(x, -1, 0)))
        return self.head(jax.nn.relu(self.second(x)).mean((1, 2)))


LINEN = {
    "VGG with flatten": VGG,
    "DenseNet": DenseNet,
    "MobileNet": MobileNet,
    "ResNeXt": ResNeXt,
    "U-Net": UNet,
    "ShuffleNet": ShuffleNet,
    "squeeze and excitation": Excited,
    "grouped queries, SwiGLU": Transformer,
    "scanned ViT": ScannedViT,
}
NAMES = [*LINEN, "NNX", "Equinox", "by hand"]


def network(name):
    """Builds one of them, with random weights of float64."""
    if name in LINEN:
        module = LINEN[name]()
        shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), np.float32))
        variables = random_weights(shapes, 0)
        net = jp.Network.from_linen(module, variables, train={"train": True})
    elif name == "NNX":
        net = jp.Network.from_nnx(NNXNet(nnx.Rngs(0)))
    elif name == "Equinox":
        net = jp.Network.from_equinox(EquinoxNet(jax.random.key(0)))
    else:
        net = plain.network("vgg")
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if is_float(leaf) else leaf, net)


def images(count=4):
    return np.random.default_rng(1).normal(size=(count, *IMAGE))
