"""Which functions are proven to treat every example alone, so that they may be called with some of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.sites.examples import are_alone

IMAGES = jax.ShapeDtypeStruct((4, 6, 6, 2), "float32")
WEIGHTS = {"w": jax.ShapeDtypeStruct((2, 3), "float32"), "k": jax.ShapeDtypeStruct((3, 3, 2, 4), "float32")}


def convolved(p, x):
    return jax.lax.conv_general_dilated(x, p["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def attended(p, x):
    tokens = x.reshape(len(x), 36, 2) @ p["w"]
    weights = jax.nn.softmax(tokens @ jnp.swapaxes(tokens, 1, 2), axis=-1)
    return (weights @ tokens).mean(1)


def with_token(p, x):
    token = jnp.broadcast_to(p["w"][0], (len(x), 1, 3))
    return jnp.concatenate([token, x.reshape(len(x), 36, 2) @ p["w"]], axis=1).sum(1)


ALONE = {
    "convolution": lambda p, x: jax.nn.relu(convolved(p, x)).mean((1, 2)),
    "activations": lambda p, x: jax.nn.gelu(nn.silu(jax.nn.softplus(convolved(p, x)))).max((1, 2)),
    "pooling": lambda p, x: nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1),
    "attention": attended,
    "token": with_token,
    "rows of all images": lambda p, x: (x.reshape(-1, 2) @ p["w"]).reshape(len(x), 36, 3).mean(1),
    "checkpoint": jax.checkpoint(lambda p, x: jnp.tanh(convolved(p, x)).sum((1, 2))),
    "normalised": lambda p, x: (x - x.mean((1, 2, 3), keepdims=True)) / (1 + x.std((1, 2, 3), keepdims=True)),
    "positions": lambda p, x: x + jnp.arange(6.0)[:, None, None],
    "sorted": lambda p, x: jnp.sort(x, axis=1),
}


def as_kernel(x):
    return jnp.moveaxis(x, 3, 1)


MIXED = {
    "mean of the batch": lambda p, x: x - x.mean(0),
    "behind a stop": lambda p, x: x - jax.lax.stop_gradient(x.mean(0)),
    "largest of all": lambda p, x: x * (x > x.max()),
    "order": lambda p, x: x[::-1],
    "neighbour": lambda p, x: x + jnp.roll(x, 1, axis=0),
    "which one it is": lambda p, x: x * jnp.arange(len(x))[:, None, None, None],
    "how many there are": lambda p, x: x / len(x),
    "how many there are, in a padding": lambda p, x: nn.avg_pool(x, (3, 3), (1, 1), [(len(x), 6 - len(x)), (1, 1)]),
    "how many there are, in an edge": lambda p, x: jnp.pad(x, [(0, 0), (len(x), 6 - len(x)), (0, 0), (0, 0)]),
    "how many there are, in a place": lambda p, x: jax.lax.slice_in_dim(x, len(x) - 2, len(x), axis=1),
    "how many there are, in an axis": lambda p, x: jnp.cumsum(x, axis=len(x) // 2),
    "how many there are, summed": lambda p, x: x / jnp.ones(len(x)).sum(),
    "how many there are, counted": lambda p, x: x * jnp.arange(len(x)).max(),
    "how many there are, in a constant": lambda p, x: x * jnp.asarray(np.ones(len(x))).mean(),
    "how many there are, by products": lambda p, x: x * (jnp.ones(len(x)) @ jnp.ones(len(x))),
    "how many there are, in copies": lambda p, x: jnp.broadcast_to(x[:, None], (len(x), *x.shape)).sum(1),
    "how many there are, in columns": lambda p, x: (x @ jnp.ones((2, len(x)))).sum(-1),
    "how many there are, taken": lambda p, x: x[..., jnp.zeros(len(x), int)].sum(-1),
    "how many there are, added on": lambda p, x: jnp.pad(x[..., 0, 0], ((0, 0), (0, len(x))), constant_values=1).sum(1),
    "how many there are, as a power": lambda p, x: x ** len(x),
    "only a few": lambda p, x: x if len(x) > 2 else 2 * x,
    "weights of its own": lambda p, x: jnp.einsum("nhwc,nc->nhw", x, jnp.ones((4, 2)) * jnp.arange(4.0)[:, None]),
    "weights of its own, for any number": lambda p, x: jnp.einsum("nhwc,nc->nhw", x, jnp.tri(len(x), 2)),
    "across": lambda p, x: jnp.einsum("nhwc,mhwc->nm", x, x),
    "sorted": lambda p, x: jnp.sort(x, axis=0),
    "the other way round": lambda p, x: jnp.moveaxis(x, 0, 1),
    "a loop": lambda p, x: jax.lax.fori_loop(0, 2, lambda _, y: y + y.mean(0), x),
    "images as a kernel": lambda p, x: jax.lax.conv(jnp.ones((4, 2, 6, 6), x.dtype), as_kernel(x), (1, 1), "VALID"),
    "pairs of images": lambda p, x: x.reshape(-1, 2, 6, 6, 2).mean(1).repeat(2, 0),
}


@pytest.mark.parametrize("name", ALONE)
def test_are_alone_proves_what_treats_every_example_alone(name):
    assert are_alone(ALONE[name], WEIGHTS, IMAGES, 2)
    # and it is so
    draw = np.random.default_rng(0)
    weights, images = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), (WEIGHTS, IMAGES))
    parts = [ALONE[name](weights, images[:2]), ALONE[name](weights, images[2:])]
    np.testing.assert_allclose(np.concatenate(parts), ALONE[name](weights, images), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MIXED)
def test_are_alone_proves_nothing_of_what_mixes_or_counts_them(name):
    assert not are_alone(MIXED[name], WEIGHTS, IMAGES, 2)


def test_are_alone_proves_the_networks_of_the_library():
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), "float32")
    modules = {
        "resnet": jp.models.resnet_cifar(8, 10, 4),
        "vit": jp.models.vit(patch=8, image=32, width=16, depth=1, heads=2, classes=3),
    }
    for name, module in modules.items():
        variables = jax.eval_shape(module.init, jax.random.key(0), images)
        assert are_alone(lambda at, x, module=module: module.apply(at, x), variables, images, 2), name


def test_are_alone_asks_for_parts_that_are_even():
    assert not are_alone(ALONE["pooling"], WEIGHTS, IMAGES, 3)
    assert not are_alone(lambda _, split: split[0] * 2, (), (np.ones((4, 2)), np.ones((3, 2))), 2)
