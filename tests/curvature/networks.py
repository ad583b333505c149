"""Small networks that between them have every kind of site and every tail, and dense matrices to hold routes against.

What a unit is, and which route serves a leaf, is written by hand here; nothing asks the library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from tests import haste

MATRICES = ("hessian", "ggn", "empirical_fisher")


def compiled(function, **options):
    return jax.jit(function, compiler_options=haste.OPTIONS, **options)


@dataclass(frozen=True)
class Leaf:
    """Shape, the axes that are output, and the routes of the Hessian.

    ``routes``: of the unit products, of the diagonal and of the dense unit blocks, a letter for each: signals, units in
    activation space, positions in activation space, a product for each block, nothing.
    """

    shape: tuple[int, ...]
    units: tuple[int, ...]
    routes: str


@dataclass(frozen=True, eq=False)
class Net:
    network: jp.Network
    batch: dict[str, np.ndarray]
    leaves: dict[str, Leaf]
    classes: int


def _kernel(*shape, units=None, routes="SSS"):
    return Leaf(shape, (len(shape) - 1,) if units is None else units, routes)


def _bias(*shape, routes="SSS"):
    return Leaf(shape, tuple(range(len(shape))), routes)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _relu(x):
    return jnp.maximum(x, 0)


# Dense, with and without bias, and a parameter that nothing uses.
def _perceptron(p, _, x):
    x = jax.nn.leaky_relu(x @ p["w1"] + p["b1"])
    x = jnp.clip(x @ p["w2"], -1.5, 0.8)
    return jnp.abs(x) @ p["head"]["w"] + p["head"]["b"]


_PERCEPTRON = {
    "b1": _bias(4),
    "head/b": _bias(3),
    "head/w": _kernel(5, 3),
    "unused": _kernel(2, 2, routes="NNN"),
    "w1": _kernel(5, 4),
    "w2": _kernel(4, 5),
}

# Constants on the way of a kernel: zeros (a mask), and negative numbers.
_MASK = np.where(normal(3, 5, 6) > 0.3, 0.0, normal(4, 5, 6))


# Transposed, masked, reshaped, negated and scaled kernels; a kernel on the left; biases scaled, and subtracted from.
def _layouts(p, _, x):
    x = _relu(x @ (p["torch"] * _MASK).T - 3 * p["shift"])
    z = p["left"].reshape(4, 5) @ x.T
    x = jnp.abs(p["from"][:, None] - z).T
    x = jnp.clip(jnp.einsum("bi,oi->bo", x, p["fused"].reshape(6, 4)), -2, 2)
    return x @ (-p["head"].T / 2) + p["b"].reshape(3)


_LAYOUTS = {
    "b": _bias(3, 1),
    "from": _bias(4),
    "fused": _kernel(2, 3, 4, units=(0, 1)),
    "head": _kernel(3, 6, units=(0,)),
    "left": _kernel(2, 2, 5, units=(0, 1)),
    "shift": _bias(5),
    "torch": _kernel(5, 6, units=(0,)),
}


def _conv(x, kernel, strides=(1, 1), padding="VALID", layout=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, **options)


def _max_pool(x, size):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *size, 1), (1, 1, 1, 1), "VALID")


# Strides with SAME on odd sizes, groups with a dilated kernel, 1x1, max-pool, a residual, the mean.
def _convolutions(p, _, x):
    x = _max_pool(_relu(_conv(x, p["strided"], (2, 1), "SAME") + p["b"]), (2, 2))
    x = _conv(x, p["grouped"], rhs_dilation=(1, 2), feature_group_count=2)
    x = x + _relu(_conv(x, p["point"]))
    return x.mean((1, 2)) @ p["head"]


_CONVOLUTIONS = {
    "b": _bias(4),
    "grouped": _kernel(2, 2, 2, 4),
    "head": _kernel(4, 3),
    "point": _kernel(1, 1, 4, 4),
    "strided": _kernel(3, 2, 2, 4),
}


# Depthwise with padding that is explicit, uneven and negative; torch's layout; an input that is dilated; no bias.
def _depthwise(p, _, x):
    x = _relu(_conv(x, p["deep"], (1, 2), ((1, -1), (2, 0)), feature_group_count=3))
    x = jnp.clip(_conv(x, jnp.transpose(p["torch"], (2, 3, 1, 0))), -1, 2)
    x = jnp.abs(_conv(x, p["up"], (1, 1), ((1, 0), (0, 2)), lhs_dilation=(2, 3)))
    return x.mean((1, 2))


_DEPTHWISE = {"deep": _kernel(3, 2, 1, 6), "torch": _kernel(2, 6, 1, 1, units=(0,)), "up": _kernel(2, 2, 2, 3)}


# One dimension: channels last and first, both dilations, strides.
def _lines(p, _, x):
    x = _relu(_conv(x, p["dilated"], (1,), "SAME", ("NWC", "WIO", "NWC"), rhs_dilation=(2,)) + p["b"][None, None])
    x = jnp.transpose(x, (0, 2, 1))
    x = _conv(x, p["torch"], (2,), ((2, 1),), ("NCH", "OIH", "NCH"), lhs_dilation=(3,), rhs_dilation=(2,))
    x = x + p["channel"][:, None]
    return jnp.abs(x).sum(2) @ p["head"]


_LINES = {
    "b": _bias(3),
    "channel": _bias(4),
    "dilated": _kernel(3, 2, 3),
    "head": _kernel(4, 3),
    "torch": _kernel(4, 3, 3, units=(0,)),
}


class _Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False, name="embed")(x) + self.param("place", nn.initializers.zeros, (1, 3, 4))
        x = x + nn.MultiHeadDotProductAttention(2, use_bias=False, name="attention")(x)
        x = nn.gelu(nn.Dense(5, name="up")(nn.LayerNorm(name="norm")(x)))
        return nn.Dense(3, use_bias=False, name="head")(x.mean(1))


# Three positions: fewer than the inputs of most units, more than those of the embedding.
_ATTENTION = {
    "attention/key/kernel": _kernel(4, 2, 2, units=(1, 2), routes="UPP"),
    "attention/out/kernel": _kernel(2, 2, 4, routes="UPP"),
    "attention/query/kernel": _kernel(4, 2, 2, units=(1, 2), routes="UPP"),
    "attention/value/kernel": _kernel(4, 2, 2, units=(1, 2), routes="UPP"),
    "embed/kernel": _kernel(2, 4, routes="UBB"),
    "head/kernel": _kernel(5, 3),
    "norm/bias": _bias(4, routes="UUB"),
    "norm/scale": _bias(4, routes="UUB"),
    "place": Leaf((1, 3, 4), (1, 2), "UUB"),
    "up/bias": _bias(5, routes="UUB"),
    "up/kernel": _kernel(4, 5, routes="UPP"),
}

_CHANNELS = np.array([0.5, -2.0, 1.5])


# Convolutions before smooth tails: groups, a kernel in torch's layout that is scaled, one position and several.
def _smooth(p, _, x):
    x = jnp.tanh(_conv(x, p["grouped"], feature_group_count=2))
    kernel = jnp.transpose(p["torch"] * _CHANNELS[:, None, None, None], (2, 3, 1, 0))
    x = jax.nn.silu(_conv(x, kernel) + p["b"] * _CHANNELS)
    return x.reshape(-1, 3) @ p["head"]


_SMOOTH = {
    "b": _bias(3, routes="UUB"),
    "grouped": _kernel(2, 2, 2, 4, routes="UPP"),
    "head": _kernel(3, 3),
    "torch": _kernel(3, 4, 2, 2, units=(0,), routes="UPP"),
}


@jax.custom_jvp
def _hard(x):
    return jnp.maximum(x, 0)


_hard.defjvp(lambda primals, tangents: (_hard(*primals), jnp.where(primals[0] > 0, tangents[0], 0)))


# Kernels with a batch axis of their own, inside jit, remat and both; a custom_jvp that is piecewise linear.
def _nested(p, _, x):
    x = jax.jit(lambda w, x: _hard(jnp.einsum("bhi,hio->bho", x, w)))(p["heads"], x)
    x = jax.checkpoint(lambda b, x: jax.nn.relu(x + b))(p["b"], x)
    x = jax.jit(jax.checkpoint(lambda w, x: jnp.einsum("bho,hoq->bq", x, w)))(p["join"], x)
    return jax.checkpoint(jax.jit(lambda w, x: jnp.abs(x) @ w))(p["head"], x)


_NESTED = {
    "b": _bias(2, 2),
    "head": _kernel(4, 3),
    "heads": _kernel(2, 3, 2, units=(0, 2)),
    "join": _kernel(2, 2, 4),
}


# Only products in weight space are right here: tied, scanned, met twice or by parameters, reshaped through an axis.
def _tied(p, _, x):
    def cell(state, inputs):
        return jnp.tanh(state @ p["scanned"] + inputs @ p["input"]), None

    x, _ = lax.scan(cell, x[:, 0] @ p["twice"], jnp.moveaxis(x, 1, 0))
    x, _ = lax.scan(lambda state, w: (jax.nn.leaky_relu(state @ w, 0.3), None), x, p["layers"])
    x = x @ p["twice"].T + x @ (p["left"] @ p["right"])
    x = x + (p["mean"] - p["mean"].mean()) + jnp.concatenate([x @ p["cut"].reshape(3, 2), x[:, :1]], 1)
    return x * p["mean"][0] + x / p["divisor"]


_TIED = {
    "cut": _kernel(6, routes="BBB"),
    "divisor": _kernel(3, routes="BBB"),
    "input": _kernel(3, 3, routes="BBB"),
    "layers": _kernel(2, 3, 3, routes="BBB"),
    "left": _kernel(3, 1, routes="BBB"),
    "mean": _kernel(3, routes="BBB"),
    "right": _kernel(1, 3, routes="BBB"),
    "scanned": _kernel(3, 3, routes="BBB"),
    "twice": _kernel(3, 3, routes="BBB"),
}


class _BatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=True, name=name)

        x = nn.leaky_relu(norm("norm1")(nn.Conv(3, (3, 3), use_bias=False, name="conv1")(x)))
        y = nn.leaky_relu(norm("norm2")(nn.Conv(4, (3, 3), strides=2, use_bias=False, name="conv2")(x)))
        y = y + norm("norm3")(nn.Conv(4, (1, 1), strides=2, name="project")(x))
        y = nn.max_pool(nn.leaky_relu(y), (2, 2), padding="SAME")
        return nn.Dense(3, name="head")(y.mean((1, 2)))


_BATCH_NORM = {
    "conv1/kernel": _kernel(3, 3, 1, 3),
    "conv2/kernel": _kernel(3, 3, 3, 4),
    "head/bias": _bias(3),
    "head/kernel": _kernel(4, 3),
    **{f"norm1/{name}": _bias(3) for name in ("bias", "scale")},
    **{f"norm{at}/{name}": _bias(4) for at in (2, 3) for name in ("bias", "scale")},
    "project/bias": _bias(4),
    "project/kernel": _kernel(1, 1, 3, 4),
}


# Examples meet before the first kernel and after it; nothing mixes them after the second.
def _mixing(p, _, x):
    x = _relu((x - x.mean(0)) @ p["w1"] + p["b1"])
    x = jnp.abs((x - x.mean(0)) @ p["w2"] + p["b2"])
    return x @ p["head"]


_MIXING = {
    "b1": _bias(4, routes="UUB"),
    "b2": _bias(4),
    "head": _kernel(4, 3),
    "w1": _kernel(3, 4, routes="UBB"),
    "w2": _kernel(4, 4),
}


# Numbers and arrays that scale and shift, of any shape; one that divides.
def _scales(p, _, x):
    x = _relu(p["gain"] * x * p["whole"] + p["place"])
    x = jnp.abs(x / p["divisor"] - p["rows"]).sum(2)
    x = x @ p["w"]
    return x * p["heat"] + p["shift"] * np.arange(3)


_SCALES = {
    "divisor": _kernel(2, routes="BBB"),
    "gain": _bias(),
    "heat": _bias(),
    "place": Leaf((1, 3, 2), (1, 2), "SSS"),
    "rows": Leaf((3, 1), (0,), "SSS"),
    "shift": _bias(),
    "w": _kernel(3, 3),
    "whole": _bias(3, 2),
}


# The examples lie along the line that a convolution walks.
def _sideways(p, _, x):
    x = _conv(x[None], p["w"], (1,), "SAME", ("NWC", "WIO", "NWC"))
    return _relu(x[0] + p["b"]) @ p["head"]


_SIDEWAYS = {"b": _bias(4), "head": _kernel(4, 3), "w": _kernel(3, 2, 4, routes="UBB")}


def _single(p, _, x):
    return _relu(x @ p["w1"] + p["b1"]) @ p["w2"]


_SINGLE = {"b1": _bias(4), "w1": _kernel(3, 4), "w2": _kernel(4, 1)}


@jax.custom_jvp
def _whole(x, w):
    return _relu(x @ w)


_whole.defjvp(lambda primals, tangents: jax.jvp(lambda x, w: _relu(x @ w), primals, tangents))


# Kernels that are reversed, inside rules of their own, or chosen by a condition.
def _opaque(p, _, x):
    x = _relu(
        lax.conv_transpose(
            x, p["reversed"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), transpose_kernel=True
        )
    )
    x = _whole(x.mean(1), p["rule"])
    return lax.cond(x.sum() > -1e9, lambda x: x @ p["chosen"], lambda x: x, x)


_OPAQUE = {
    "chosen": _kernel(3, 3, routes="BBB"),
    "reversed": _kernel(3, 3, 2, routes="BBB"),
    "rule": _kernel(3, 3, routes="BBB"),
}


# Softmax, and the only gate that a site may meet: one that comes from another branch.
def _gates(p, _, x):
    gate = jax.nn.softmax(x @ p["gate"])
    x = _relu(x @ p["value"]) * gate
    x = jnp.sort(x, axis=-1) @ p["mix"]
    return lax.reduce_window(x, 0.0, lax.add, (1, 2), (1, 1), "VALID")


_GATES = {"gate": _kernel(3, 4, routes="UPP"), "mix": _kernel(4, 4), "value": _kernel(3, 4)}


def _of(apply: Callable[..., Any]):
    return lambda image: (apply, {})


def _linen(module: nn.Module):
    def make(image):
        variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, *image)))
        network = jp.Network.from_linen(module, variables)
        return network.apply, network.state

    return make


# apply and state, leaves, the shape of an image, the number of classes.
_NETWORKS = {
    "perceptron": (_of(_perceptron), _PERCEPTRON, (5,), 3),
    "layouts": (_of(_layouts), _LAYOUTS, (6,), 3),
    "convolutions": (_of(_convolutions), _CONVOLUTIONS, (7, 5, 2), 3),
    "depthwise": (_of(_depthwise), _DEPTHWISE, (5, 6, 3), 3),
    "lines": (_of(_lines), _LINES, (7, 2), 3),
    "attention": (_linen(_Attention()), _ATTENTION, (3, 2), 3),
    "smooth": (_of(_smooth), _SMOOTH, (3, 3, 4), 3),
    "nested": (_of(_nested), _NESTED, (2, 3), 3),
    "tied": (_of(_tied), _TIED, (3, 3), 3),
    "batch_norm": (_linen(_BatchNorm()), _BATCH_NORM, (5, 5, 1), 3),
    "mixing": (_of(_mixing), _MIXING, (3,), 3),
    "scales": (_of(_scales), _SCALES, (3, 2), 3),
    "sideways": (_of(_sideways), _SIDEWAYS, (2,), 3),
    "single": (_of(_single), _SINGLE, (3,), 1),
    "opaque": (_of(_opaque), _OPAQUE, (3, 2), 3),
    "gates": (_of(_gates), _GATES, (3,), 3),
}
NAMES = tuple(_NETWORKS)


@cache
def build(name: str) -> Net:
    make, leaves, image, classes = _NETWORKS[name]
    apply, state = make(image)
    rng = np.random.default_rng(7)
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, last = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        fan_in = np.prod([extent for axis, extent in enumerate(leaf.shape) if axis not in leaf.units])
        values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        if last in ("scale", "gain", "heat", "divisor", "whole"):
            values = 1.2 + 0.3 * values
        place[last] = jnp.asarray(values)
    assert jp.tree.names(params) == sorted(leaves), "the oracle goes through the leaves in this order"
    assert jp.tree.size(params) < 250
    state = jax.tree.map(lambda leaf: jnp.asarray(0.5 + rng.random(leaf.shape)), state)
    batch = {
        "image": rng.normal(size=(5, *image)),
        "label": np.array([0, 2, 1, 1, 2]) % classes,
        "weight": np.array([1.0, 0.5, 2.0, 0.0, 1.5]),
    }
    return Net(jp.Network(apply, params, state), batch, leaves, classes)


# Losses of the user: each example alone and not convex; and one that mixes the examples.


def bumpy(f, batch):
    """Not convex: half of the eigenvalues of its second derivative are negative, and it depends on the label."""
    return jnp.sum(jnp.sin(f) * f, axis=-1) - jnp.prod(f[:, :2], axis=-1) * (1 + batch["label"])


def together(f, batch):
    """The loss of an example depends on the outputs of all."""
    return jnp.sum(f**2, axis=-1) * jnp.mean(jnp.cos(f)) + f[:, 0] * batch["label"]


def soft(batch, classes, seed=5):
    """The batch with targets whose rows do not sum to one, one of them to less than zero."""
    targets = np.random.default_rng(seed).random((len(batch["label"]), classes)) * 2
    targets[1] = -targets[1]
    return {**batch, "label": targets}


def as_targets(f, label):
    return jax.nn.one_hot(label, f.shape[-1], dtype=f.dtype) if np.ndim(label) == 1 else label


# The same losses as the library's, written out.
_BY_HAND = {
    jp.losses.cross_entropy: lambda f, batch: jnp.sum(
        as_targets(f, batch["label"]) * (jax.scipy.special.logsumexp(f, axis=-1, keepdims=True) - f), axis=-1
    ),
    jp.losses.squared_error: lambda f, batch: jnp.sum((f - as_targets(f, batch["label"])) ** 2, axis=-1),
}


class Dense:
    """The dense matrices of a network on a batch, by definition: every weight, every output, every example."""

    def __init__(self, network, batch, loss=jp.losses.cross_entropy):
        start, unravel = ravel_pytree(network.params)
        by_hand = _BY_HAND.get(loss, loss)
        weight = batch.get("weight", np.ones(len(batch["label"])))
        self.share = np.asarray(weight) / np.sum(weight)
        self.names = jp.tree.names(network.params)
        self.shapes = [leaf.shape for leaf in jax.tree.leaves(network.params)]

        def function(flat):
            return network.apply(unravel(flat), network.state, batch["image"])

        # Column by column: one small program compiles and runs faster than jax.hessian.
        column = compiled(lambda way: (function(start), *jax.jvp(jax.jacrev(function), (start,), (way,))))
        columns = [column(way) for way in np.eye(start.size)]
        values, jacobian = map(np.asarray, columns[0][:2])
        second = np.stack([of_way for _, _, of_way in columns], axis=-1)

        def cut(f):
            """An example that does not count has outputs of zero, whatever the loss makes of them."""
            return jnp.where(np.asarray(weight)[:, None] > 0, f, 0)

        def of_outputs(f):
            return jnp.dot(self.share, by_hand(cut(f), batch))

        @compiled
        def derivatives(f):
            return jax.grad(of_outputs)(f), jax.hessian(of_outputs)(f), jax.jacrev(lambda f: by_hand(cut(f), batch))(f)

        slope, bend, rows = map(np.asarray, derivatives(values))
        each = np.einsum("nbc,bci->ni", rows, jacobian)
        ggn = np.einsum("bci,bcde,dej->ij", jacobian, bend, jacobian, optimize=True)
        self.matrices = {
            "hessian": ggn + np.einsum("bc,bcij->ij", slope, second),
            "ggn": ggn,
            "empirical_fisher": np.einsum("n,ni,nj->ij", self.share, each, each),
        }

    def leaf(self, path):
        """The positions of a leaf's weights in the flat vector, in the leaf's shape."""
        at = self.names.index(path)
        first = sum(int(np.prod(shape)) for shape in self.shapes[:at])
        return first + np.arange(int(np.prod(self.shapes[at]))).reshape(self.shapes[at])

    def members(self, path, units, blocks):
        """The positions of the weights of every block of a leaf, straight from the definition."""
        where = self.leaf(path)
        if blocks == "layer":
            return [where.ravel()]
        rows = np.moveaxis(where, units, range(len(units))) if units else where[None]
        rows = rows.reshape(int(np.prod([where.shape[axis] for axis in units])), -1)
        if blocks == "unit":
            return list(rows)
        return [unit[at : at + blocks] for unit in rows for at in range(0, len(unit), blocks)]

    def blocks(self, path, units, blocks, matrix):
        """The dense blocks of a leaf; what is missing of a unit's last block is zero."""
        members = self.members(path, units, blocks)
        size = max(map(len, members))
        result = np.zeros((len(members), size, size))
        for place, member in zip(result, members, strict=True):
            place[: len(member), : len(member)] = self.matrices[matrix][np.ix_(member, member)]
        return result[0] if blocks == "layer" else result

    def inside(self, leaves, blocks, matrix):
        """The matrix without what lies outside of the blocks."""
        result = np.zeros_like(self.matrices[matrix])
        for path, leaf in leaves.items():
            for member in self.members(path, leaf.units, blocks):
                result[np.ix_(member, member)] = self.matrices[matrix][np.ix_(member, member)]
        return result


@cache
def dense(name: str) -> Dense:
    net = build(name)
    return Dense(net.network, net.batch)


def vector(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def close(got, expected, tolerance=1e-10):
    """Equal up to rounding, measured against the largest number there is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1e-6, np.abs(expected).max(initial=0)))
