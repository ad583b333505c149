"""Examples that are merged with tokens, windows or frames: signals serve them, and are as right as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.curvature import blocks, routes
from tests.curvature import networks
from tests.curvature.networks import close, flat

KL = jp.losses.distillation("kl", temperature=3.0)


def _tokens(p, _, x):
    """[b, t, d] -> [b t, d] and back."""
    b, t, d = x.shape
    x = jax.nn.gelu(x.reshape(b * t, d) @ p["w1"] + p["b1"])
    x = (x * p["scale"]).reshape(b, t, -1)
    x = x * jax.nn.softmax(x, axis=1)
    return x.mean(1) @ p["head"]


def _windows(p, _, x):
    """[b, h, w, c] -> windows in the middle of the axes -> [b windows, tokens, c], and attention in each."""
    b, _, _, c = x.shape
    x = x.reshape(b, 2, 2, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b * 4, 4, c)
    q, k = (jnp.einsum("ntc,chd->nthd", x, p[name]) for name in ("query", "key"))
    weight = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k), axis=-1)
    x = jnp.einsum("nhts,nshd->nthd", weight, q)
    x = jnp.einsum("nthd,hdc->ntc", x, p["out"]) + p["place"]
    x = x.reshape(b, 2, 2, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5).reshape(b, 16, -1)
    return jnp.tanh(x).mean(1) @ p["head"]


def _frames(p, _, x):
    """Frames of a film as images of one batch: [b, f, h, w, c] -> [b f, h, w, c]."""
    b, f, *rest = x.shape
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x.reshape(b * f, *rest), p["grouped"], (1, 1), "SAME", dimension_numbers=numbers)
    x = jnp.tanh(x + p["b"])
    x = lax.conv_general_dilated(x, p["deep"], (2, 1), "VALID", dimension_numbers=numbers, feature_group_count=4)
    return jax.nn.silu(x.reshape(b, f, -1, 4)).mean((1, 2)) @ p["head"]


def _last(p, _, x):
    """The examples vary fastest: [t, b] as columns of one matrix."""
    b, t, d = x.shape
    x = p["left"] @ x.transpose(2, 1, 0).reshape(d, t * b)
    return jnp.tanh(x).reshape(-1, t, b).sum(1).T @ p["head"]


def _leaves(**shapes):
    return {name: 0.7 * networks.normal(at, *shape) for at, (name, shape) in enumerate(shapes.items())}


NETWORKS = {
    "tokens": (_tokens, _leaves(b1=(5,), head=(5, 4), scale=(5,), w1=(3, 5)), (3, 3)),
    "windows": (
        _windows,
        _leaves(head=(3, 4), key=(3, 2, 2), out=(2, 2, 3), place=(4, 3), query=(3, 2, 2)),
        (4, 4, 3),
    ),
    "frames": (_frames, _leaves(b=(4,), deep=(2, 2, 1, 4), grouped=(2, 2, 2, 4), head=(4, 3)), (3, 3, 3, 2)),
    "last": (_last, _leaves(head=(4, 3), left=(4, 3)), (3, 3)),
}
UNITS = {"key": (1, 2), "query": (1, 2), "place": (0, 1), "left": (0,)}


@pytest.mark.parametrize("name", NETWORKS)
def test_diagonal_and_blocks_of_folded_examples_are_those_of_the_dense_matrix(name):
    apply, params, shape = NETWORKS[name]
    network = jp.Network(apply, params := jax.tree.map(jnp.asarray, params))
    batch = {"image": networks.normal(9, 3, *shape), "weight": np.array([1.0, 0.5, 2.0])}
    asked = blocks.request(network, KL, batch, "hessian", "unit", None)
    assert {task.route for task in routes.diagonal_tasks(asked)} == {routes.SIGNALS}
    target = network(batch["image"])

    def held(outputs, batch):
        log_p = jax.nn.log_softmax(target / 3)
        return 9 * jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(outputs / 3)), -1)

    dense = networks.Dense(network, {**batch, "label": np.zeros(3, int)}, held)
    leaves = {
        path: networks.Leaf(leaf.shape, UNITS.get(path, tuple(range(leaf.ndim))[-1:]), "SSS")
        for path, leaf in params.items()
    }
    for path in ("b", "b1", "scale", "place"):
        if path in leaves:
            leaves[path] = networks.Leaf(leaves[path].shape, tuple(range(len(leaves[path].shape))), "SSS")
    vector = networks.vector(params)
    close(flat(jp.curvature.diagonal(network, KL, batch)), np.diag(dense.matrices["hessian"]))
    for kind in ("unit", "layer", 2):
        expected = dense.inside(leaves, kind, "hessian") @ flat(vector)
        close(flat(jp.curvature.block_product(network, KL, batch, vector, kind)), expected)
    path = {"tokens": "w1", "windows": "key", "frames": "deep", "last": "left"}[name]
    close(
        jp.curvature.block(network, KL, batch, path, "unit"), dense.blocks(path, leaves[path].units, "unit", "hessian")
    )
