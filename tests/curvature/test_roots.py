"""Dense blocks of leaves with few positions and many columns: against dense matrices, and where float32 is short."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.curvature import finishing, roots, signals
from jaxprune.curvature.blocks import request
from jaxprune.curvature.compiled import compile_only
from jaxprune.curvature.routes import signal_tasks
from tests.curvature import networks
from tests.curvature.networks import close, flat

LOSS = jp.losses.cross_entropy
CLASSES = 24
SCALES = np.array([0.5, -2.0, 1.5, 1.0])[:, None, None, None]
UNITS = {"bias": (0,), "deep": (3,), "grouped": (3,), "tokens": (1,), "torch": (0,)}


def _conv(x, kernel, padding="VALID", groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


# Four positions everywhere, and no head whose inputs are fewer than the classes: every class is a column.
def _apply(p, _, x):
    x = jnp.abs(_conv(x, jnp.transpose(p["torch"] * SCALES, (2, 3, 1, 0))))
    x = jnp.maximum(_conv(x, p["grouped"], groups=2) + p["bias"], -1)
    x = jnp.abs(_conv(x, p["deep"], "SAME", groups=4))
    return (x.reshape(-1, 4, 4) @ p["tokens"]).reshape(-1, CLASSES)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Also blocks for which roots are not worth it, since the small ones can be compared with dense matrices."""
    monkeypatch.setattr(roots, "_WORTH", 0)


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


def everything(network, loss, batch, blocks="unit", **options):
    found = jp.curvature.sweep(network, loss, [batch], ("diagonal", "gram"), blocks=blocks, **options)
    return found.diagonal, found.gram


@pytest.mark.parametrize(
    ("kind", "blocks"), [("cross_entropy", "unit"), ("cross_entropy", 3), ("soft", 3), ("bumpy", 3)]
)
def test_sweep_of_few_positions_is_of_the_dense_matrix(kind, blocks):
    network, batch = few()
    loss, change = KINDS[kind]
    dense = networks.Dense(network, change(batch), loss)
    diagonal, gram = everything(network, loss, change(batch), blocks)
    close(flat(diagonal), np.diag(dense.matrices["hessian"]))
    for path, units in UNITS.items():
        close(gram[path], dense.blocks(path, units, blocks, "hessian"))


def test_of_roots_on_eight_devices_is_that_on_one():
    network, batch = few()
    batch = {name: np.concatenate([each, each[:3]]) for name, each in batch.items()}
    mesh = jp.mesh.make()
    sharded = everything(jp.mesh.replicate(mesh, network), LOSS, jp.mesh.shard_batch(mesh, batch))
    for got, expected in zip(map(flat, sharded), map(flat, everything(network, LOSS, batch)), strict=True):
        close(jax.device_get(got), expected, 1e-12)


def task_of(network, batch):
    asked, share = request(network, LOSS, batch, "hessian", "unit", None), jnp.ones(len(batch["image"]))
    (task,) = signal_tasks(asked, asked.paths, [("dense", "unit")], None, "", share)
    return replace(task, wanted=replace(task.wanted, rooted=True))


def test_of_columns_keeps_roots_where_positions_are_fewer_than_columns():
    task = task_of(*few())
    assert len(task.chunks()) == 3
    found = task.of_columns(task.begun(), task.chunks()[0])
    kept = dict(zip(task.paths, found[signals.ROOTS], strict=True))
    wide = {"torch": (1, 4), "grouped": (2, 2), "deep": (4, 1), "tokens": (1, 6)}
    shapes = {name: (4, 4, 5, *units) for name, units in wide.items()}
    assert {path: each.shape for path, each in kept.items()} == {**shapes, "bias": (1, 1, 5, 1, 4)}
    assert found["dense unit"] == [None] * 5
    ready = dict(zip(task.paths, task.begun().rows, strict=True))["torch"]
    assert [roots.serve(ready, ("dense", "unit"), columns) for columns in (7, 8)] == [False, True]
    assert not any(roots.serve(ready, one, 100) for one in ("diagonal", ("dense", "layer"), ("factors", "unit")))


def test_serve_leaves_small_blocks_to_gradients(monkeypatch):
    monkeypatch.undo()
    network = jp.Network(lambda p, s, x: jnp.maximum(x @ p["w"], 0), {"w": jnp.ones((32, CLASSES))})
    task = task_of(network, {"image": np.ones((5, 32)), "label": np.zeros(5, int)})
    (ready,) = task.begun().rows
    kinds = [("dense", "unit"), ("dense", 100), ("dense", 16), ("dense", 8)]
    assert [roots.serve(ready, kind, CLASSES) for kind in kinds] == [True, True, True, False]


def test_smaller_gives_up_roots_where_nothing_else_fits():
    network, batch = few()
    tasks = [task_of(network, batch)]
    while (smaller := tasks[-1].smaller()) is not None:
        tasks.append(smaller)
    assert [(task.width, task.wanted.rooted) for task in tasks] == [
        (9, True),
        (4, True),
        (2, True),
        (1, True),
        (1, False),
    ]
    # Chunks of every size, joined, and none.
    expected = tasks[0].run()["dense unit"]
    for task in tasks[1:]:
        for got, whole in zip(task.run()["dense unit"], expected, strict=True):
            close(got, whole, 1e-12)
    fitting = [tasks[0].fitted(tasks[at].cost()[2]) for at in (0, -1)]
    assert [(task.width, task.wanted.rooted) for task in fitting] == [(9, True), (1, False)]
    # Joining the roots of two chunks takes more than anything else here.
    point = tasks[0].begun()
    kept = tasks[0].of_columns(point, tasks[0].chunks()[0])[signals.ROOTS]
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((point, kept, kept)))
    assert tasks[0].cost()[2] >= held + compile_only(finishing.joined, (kept, kept), {"placement": None}).bytes


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(7, 3), (3, 3), (2, 4), (1, 1), (5, 1)])
def test_of_signals_makes_triangles_whose_products_are_those_of_the_signals(shape, size):
    rows = np.random.default_rng(0).normal(size=(*shape, 2, 5))
    rows[..., 0, 0] = 0
    rows[:, 0, 0, 1] = 0
    rows[:, -1, 1, 1] = 3 * rows[:, 0, 1, 1]  # dependent
    found = np.asarray(roots._triangle(jnp.asarray(size * rows, jnp.float32)), np.float64) / size
    assert found.shape == (shape[1], shape[1], 2, 5)
    below = np.tril_indices(shape[1], -1)
    assert not found[below].any()
    expected = np.einsum("ktab,ksab->tsab", rows, rows)
    np.testing.assert_allclose(np.einsum("ktab,ksab->tsab", found, found), expected, rtol=0, atol=2e-6 * expected.max())


# Of columns that depend on others only rounding is left.  A compiler that computes it twice, once for a length and once
# for a direction, and rounds in two ways, makes triangles that are wrong by their size.  Whether it does so where steps
# are unrolled depends on every line of them.
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_of_signals_takes_columns_that_depend_on_others(kind):
    rows = np.random.default_rng(0).normal(size=(18, 9, 8, 1, 64))
    rows[:, 2], rows[:, 3] = 2 * rows[:, 0] - rows[:, 1], rows[:, 0]
    rows[:, 5:, :, :, :32] = 1e-7 * rows[:, :4, :, :, :32] + rows[:, :1, :, :, :32]
    rows[:, ::2] *= 1e-15  # positions of quite another size
    rows = rows.astype(kind)
    found = np.asarray(jax.jit(roots._triangle)(rows), np.float64)
    expected = np.einsum("ktngo,ksngo->tsngo", rows, rows, dtype=np.float64)
    sizes = np.sqrt(np.einsum("ttngo->tngo", expected))
    apart = np.abs(np.einsum("ktngo,ksngo->tsngo", found, found) - expected) / (sizes[:, None] * sizes)
    assert apart.max() < 20 * np.finfo(kind).eps
    assert "scan[" in str(jax.make_jaxpr(roots._triangle)(rows))
