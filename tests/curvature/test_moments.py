"""Few positions and many columns: what follows from moments of the signals, against dense matrices in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.curvature import moments, signals
from jaxprune.curvature.blocks import request
from jaxprune.curvature.routes import diagonal_tasks
from tests.curvature import networks
from tests.curvature.networks import close, compiled, flat

LOSS = jp.losses.cross_entropy
CLASSES = 24
SCALES = np.array([0.5, -2.0, 1.5, 1.0])
UNITS = {"bias": (0,), "deep": (3,), "grouped": (3,), "tokens": (1,), "torch": (0,)}


def _conv(x, kernel, padding="VALID", groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


# Four positions everywhere, and no head whose inputs are fewer than the classes: every class is a column.
def _apply(p, _, x):
    x = jnp.abs(_conv(x, jnp.transpose(p["torch"] * SCALES[:, None, None, None], (2, 3, 1, 0))))
    x = jnp.maximum(_conv(x, p["grouped"], groups=2) + p["bias"], -1)
    x = jnp.abs(_conv(x, p["deep"], "SAME", groups=4))
    return (x.reshape(-1, 4, 4) @ p["tokens"]).reshape(-1, CLASSES)


@functools.cache
def few():
    shapes = {"torch": (4, 2, 2, 2), "grouped": (1, 1, 2, 4), "bias": (4,), "deep": (2, 2, 1, 4), "tokens": (4, 6)}
    params = {name: jnp.asarray(networks.normal(at, *shape)) / 2 for at, (name, shape) in enumerate(shapes.items())}
    batch = {
        "image": networks.normal(9, 5, 3, 3, 2),
        "label": np.array([0, 20, 3, 7, 11]),
        "weight": np.array([1.0, 0.5, 2.0, 0.0, 1.5]),
    }
    return jp.Network(_apply, params), batch


KINDS = {
    "cross_entropy": (LOSS, lambda batch: batch),
    "soft": (LOSS, lambda batch: networks.soft(batch, CLASSES)),  # weights of columns below zero
    "bumpy": (networks.bumpy, lambda batch: batch),  # left and right columns, and not convex
}


@functools.cache
def case(kind):
    network, batch = few()
    loss, change = KINDS[kind]
    return network, loss, change(batch), networks.Dense(network, change(batch), loss)


def everything(network, loss, batch):
    found = jp.curvature.sweep(network, loss, [batch], ("diagonal", "gram"))
    return found.diagonal, found.gram


@pytest.mark.parametrize("kind", KINDS)
def test_sweep_by_moments_is_of_the_dense_matrix(kind):
    network, loss, batch, dense = case(kind)
    diagonal, gram = everything(network, loss, batch)
    close(flat(diagonal), np.diag(dense.matrices["hessian"]))
    for path, units in UNITS.items():
        close(gram[path], dense.blocks(path, units, "unit", "hessian"))


def test_diagonal_and_block_by_moments_are_of_the_dense_matrix_inside_jit():
    network, loss, batch, dense = case("cross_entropy")

    @compiled
    def found(network, batch):
        blocks = [jp.curvature.block(network, loss, batch, path, 3) for path in ("torch", "deep")]
        return jp.curvature.diagonal(network, loss, batch), blocks

    diagonal, blocks = found(network, batch)
    close(flat(diagonal), np.diag(dense.matrices["hessian"]))
    for path, got in zip(("torch", "deep"), blocks, strict=True):
        close(got, dense.blocks(path, UNITS[path], 3, "hessian"))


def test_of_moments_on_eight_devices_is_that_on_one():
    network, batch = few()
    batch = {name: np.concatenate([each, each[:3]]) for name, each in batch.items()}
    mesh = jp.mesh.make()
    sharded = everything(jp.mesh.replicate(mesh, network), LOSS, jp.mesh.shard_batch(mesh, batch))
    for got, expected in zip(map(flat, sharded), map(flat, everything(network, LOSS, batch)), strict=True):
        close(jax.device_get(got), expected, 1e-12)


def test_of_columns_keeps_moments_where_positions_are_fewer_than_columns():
    network, batch = few()
    (task,) = diagonal_tasks(request(network, LOSS, batch, "hessian", "unit", None))
    assert len(task.chunks()) == 3
    found = task.of_columns(task.begun(), task.chunks()[0])
    kept = {path: each for path, each in zip(task.paths, found[signals.MOMENTS], strict=True) if each is not None}
    shapes = {"torch": (5, 1, 4, 4, 4), "deep": (5, 4, 4, 4, 1), "tokens": (5, 1, 4, 4, 6), "bias": (5, 1, 1, 1, 4)}
    assert {path: each.shape for path, each in kept.items()} == shapes
    # A kernel of two inputs: its gradients are fewer numbers than its moments.
    assert [path for path, each in zip(task.paths, found["diagonal"], strict=True) if each is not None] == ["grouped"]


def test_serve_takes_the_way_of_fewer_operations():
    network, batch = few()
    (task,) = diagonal_tasks(request(network, LOSS, batch, "hessian", "unit", None))
    ready = dict(zip(task.paths, task.begun().rows, strict=True))
    assert ready["torch"].extents == (4, 8)
    assert ready["bias"].extents == (1, 1)
    # 16 k + 128 numbers against 40 k of gradients, and 16 k + 384 against 96 k of gradients and their products.
    assert [moments.serve(ready["torch"], "diagonal", k) for k in (5, 6)] == [False, True]
    assert [moments.serve(ready["torch"], ("dense", "unit"), k) for k in (4, 5)] == [False, True]
    assert moments.serve(ready["bias"], "diagonal", 1)
    assert not any(moments.serve(ready["bias"], (kind, "layer"), 100) for kind in ("dense", "factors", "runs"))


def test_moments_fall_back_to_a_narrower_program_where_memory_is_short():
    network, batch = few()
    wide, narrow = (jp.curvature.diagonal(network, LOSS, batch, memory=memory) for memory in (None, 60_000))
    close(flat(narrow), flat(wide), 1e-12)
