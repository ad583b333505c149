"""Networks as a lab writes them: plain functions that read every width off their parameters, with nothing declared."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune as jp


class Plain(NamedTuple):
    """A network, how its parameters are shaped, and the groups that are there: name -> size."""

    apply: Any
    shapes: dict[str, Any]
    state: dict[str, Any]
    groups: dict[str, int]


def conv(images, kernel, groups=1, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def norm(p, s, name, x):
    x = (x - s[name]["mean"]) * lax.rsqrt(s[name]["var"] + 1e-3)
    return x * p[name]["scale"] + p[name]["bias"]


def bn(width):
    return {"scale": (width,), "bias": (width,)}, {"mean": (width,), "var": (width,)}


def vgg(p, s, x):
    for number in range(2):
        x = jax.nn.relu(norm(p, s, f"bn{number}", conv(x, p[f"conv{number}"])))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)
    return jax.nn.relu(x @ p["fc1"] + p["b1"]) @ p["fc2"]


def residual(p, s, x):
    x = conv(x, p["stem"])
    for number in range(2):
        y = jax.nn.relu(norm(p, s, f"bn{number}", conv(x, p[f"a{number}"])))
        x = jax.nn.relu(x + conv(y, p[f"b{number}"]))
    return x.mean((1, 2)) @ p["head"]


def densenet(p, s, x):
    x = conv(x, p["stem"])
    for number in range(2):
        x = jnp.concatenate([x, conv(jax.nn.relu(norm(p, s, f"bn{number}", x)), p[f"grow{number}"])], -1)
    return jax.nn.silu(x).mean((1, 2)) @ p["head"]


def attention(p, s, x):
    """One kernel for queries, keys and values: [d, (3, head, 4)]."""
    x = x.reshape(len(x), -1, 3) @ p["embed"]
    y = x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"]
    q, k, v = jnp.moveaxis((y @ p["qkv"] + p["qkv_bias"]).reshape(*y.shape[:2], 3, -1, 4), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2, axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*y.shape[:2], -1)
    x = x + mixed @ p["out"]
    return (x + jax.nn.gelu(x @ p["up"]) @ p["down"]).mean(1) @ p["head"]


def grouped(p, s, x):
    """A convolution of two groups, of the width that their number leaves, between two of one."""
    x = jax.nn.relu(conv(x, p["stem"]))
    x = jax.nn.relu(conv(x, p["grouped"], groups=x.shape[-1] // p["grouped"].shape[2]))
    return conv(x, p["last"]).mean((1, 2)) @ p["head"]


def depthwise(p, s, x):
    x = jax.nn.relu6(conv(x, p["expand"]))
    x = jax.nn.relu6(norm(p, s, "bn", conv(x, p["depth"], groups=x.shape[-1])))
    gate = jax.nn.sigmoid(jax.nn.silu(x.mean((1, 2)) @ p["squeeze"] + p["sb"]) @ p["excite"] + p["eb"])
    return conv(x * gate[:, None, None], p["project"]).mean((1, 2)) @ p["head"]


def shuffle(p, s, x):
    """Two halves, one untouched, interleaved afterwards."""
    x = jax.nn.relu(conv(x, p["stem"]))
    left, right = jnp.split(x, 2, -1)
    x = jnp.stack([left, jax.nn.relu(conv(right, p["right"]))], -1).reshape(*x.shape)
    return conv(x, p["mix"]).mean((1, 2)) @ p["head"]


def mixer(p, s, x):
    x = x.reshape(len(x), -1, 3) @ p["embed"]
    x = x + (jax.nn.gelu(x.mT @ p["tokens_in"] + p["tb"]) @ p["tokens_out"]).mT
    x = x + jax.nn.gelu(x @ p["channels_in"]) @ p["channels_out"]
    return x.mean(1) @ p["head"]


def glu(p, s, x):
    a, b = jnp.split(x.reshape(len(x), -1) @ p["in"] + p["bias"], 2, -1)
    return (jax.nn.silu(a) * b) @ p["out"]


def scanned(p, s, x):
    """Blocks in a loop, under remat: their leaves are stacked."""

    @jax.checkpoint
    def block(x, leaves):
        inner, outer = leaves
        return x + jax.jit(jax.nn.gelu)(x @ inner) @ outer, x.sum()

    x, _ = lax.scan(block, x.reshape(len(x), -1) @ p["embed"], (p["in"], p["out"]))
    return x @ p["head"]


def unet(p, s, x):
    down = jax.nn.relu(conv(x, p["down"], stride=2))
    middle = jax.nn.relu(conv(down, p["middle"]))
    up = jnp.repeat(jnp.repeat(middle, 2, 1), 2, 2)
    wide = jnp.concatenate([conv(x, p["skip"]), up], -1)
    return conv(jax.nn.relu(wide), p["last"]).mean((1, 2))


def many_heads(p, s, x):
    """Heads as an axis of their own, one key and value for two queries."""
    x = x.reshape(len(x), -1, 3) @ p["embed"]
    q = jnp.einsum("btc,chgd->bthgd", x, p["query"])
    k, v = (jnp.einsum("btc,chd->bthd", x, p[name]) for name in ("key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bqhgd,bkhd->bhgqk", q, k), -1)
    return jnp.einsum("bhgqk,bkhd,hgdo->bqo", weights, v, p["out"]).mean(1)


_BN4, _BN6, _BN8 = bn(4), bn(6), bn(8)
_BN10 = bn(10)
NETWORKS = {
    "vgg": Plain(
        vgg,
        {
            "conv0": (3, 3, 3, 4),
            "bn0": _BN4[0],
            "conv1": (3, 3, 4, 6),
            "bn1": _BN6[0],
            "fc1": (24, 8),
            "b1": (8,),
            "fc2": (8, 3),
        },
        {"bn0": _BN4[1], "bn1": _BN6[1]},
        {"conv0": 4, "conv1": 6, "fc1": 8},
    ),
    "residual": Plain(
        residual,
        {
            "stem": (3, 3, 3, 4),
            "a0": (3, 3, 4, 6),
            "bn0": _BN6[0],
            "b0": (3, 3, 6, 4),
            "a1": (1, 1, 4, 8),
            "bn1": _BN8[0],
            "b1": (3, 3, 8, 4),
            "head": (4, 3),
        },
        {"bn0": _BN6[1], "bn1": _BN8[1]},
        {"a0": 6, "a1": 8, "b0": 4},
    ),
    "densenet": Plain(
        densenet,
        {
            "stem": (3, 3, 3, 4),
            "bn0": _BN4[0],
            "grow0": (3, 3, 4, 6),
            "bn1": _BN10[0],
            "grow1": (1, 1, 10, 4),
            "head": (14, 3),
        },
        {"bn0": _BN4[1], "bn1": _BN10[1]},
        {"grow0": 6, "grow1": 4, "stem": 4},
    ),
    "attention": Plain(
        attention,
        {
            "embed": (3, 6),
            "scale": (6,),
            "qkv": (6, 36),
            "qkv_bias": (36,),
            "out": (12, 6),
            "up": (6, 10),
            "down": (10, 6),
            "head": (6, 3),
        },
        {},
        {"qkv": 3, "up": 10},
    ),
    "grouped": Plain(
        grouped,
        {"stem": (3, 3, 3, 6), "grouped": (3, 3, 2, 12), "last": (1, 1, 12, 5), "head": (5, 3)},
        {},
        {"grouped": 3, "last": 5},
    ),
    "depthwise": Plain(
        depthwise,
        {
            "expand": (1, 1, 3, 8),
            "depth": (3, 3, 1, 8),
            "bn": _BN8[0],
            "squeeze": (8, 4),
            "sb": (4,),
            "excite": (4, 8),
            "eb": (8,),
            "project": (1, 1, 8, 5),
            "head": (5, 3),
        },
        {"bn": _BN8[1]},
        {"depth": 8, "project": 5, "squeeze": 4},
    ),
    "shuffle": Plain(
        shuffle,
        {"stem": (3, 3, 3, 8), "right": (1, 1, 4, 4), "mix": (1, 1, 8, 5), "head": (5, 3)},
        {},
        {"mix": 5, "right": 4, "stem": 4},
    ),
    "mixer": Plain(
        mixer,
        {
            "embed": (3, 6),
            "tokens_in": (16, 5),
            "tb": (5,),
            "tokens_out": (5, 16),
            "channels_in": (6, 7),
            "channels_out": (7, 6),
            "head": (6, 3),
        },
        {},
        {"channels_in": 7, "channels_out": 6, "tokens_in": 5},
    ),
    "glu": Plain(glu, {"in": (48, 12), "bias": (12,), "out": (6, 3)}, {}, {"in": 6}),
    "scanned": Plain(
        scanned,
        {"embed": (48, 5), "in": (3, 5, 7), "out": (3, 7, 5), "head": (5, 3)},
        {},
        {"in": 7},
    ),
    "unet": Plain(
        unet,
        {"down": (3, 3, 3, 4), "middle": (3, 3, 4, 6), "skip": (1, 1, 3, 5), "last": (1, 1, 11, 3)},
        {},
        {"down": 4, "middle": 6, "skip": 5},
    ),
    "many_heads": Plain(
        many_heads,
        {
            "embed": (3, 6),
            "query": (6, 3, 2, 4),
            "key": (6, 3, 4),
            "value": (6, 3, 4),
            "out": (3, 2, 4, 3),
        },
        {},
        {"embed": 6, "key": 3},
    ),
}


def network(name: str, seed: int = 0) -> jp.Network:
    plain, rng = NETWORKS[name], np.random.default_rng(seed)

    def draw(path, shape):
        values = rng.normal(size=shape)
        if path[-1].key == "var":
            return 0.5 + np.abs(values)
        return values / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.3 * values + 0.5

    params, state = (
        jax.tree_util.tree_map_with_path(draw, shapes, is_leaf=lambda value: isinstance(value, tuple))
        for shapes in (plain.shapes, plain.state)
    )
    return jp.Network(plain.apply, params, state)


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 4, 4, 3)) if count else np.zeros((0, 4, 4, 3))


@jax.custom_jvp
def ruled_product(x, w):
    return jnp.tanh(x) @ w


@ruled_product.defjvp
def _(given, moves):
    return ruled_product(*given), 0.1 * moves[0] @ given[1] + given[0] @ moves[1]
