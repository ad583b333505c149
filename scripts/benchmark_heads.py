"""Heads on many features: seconds beside those of the plain matrix products, and the peak of the process."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_memory import MEGABYTE, resident
from benchmark_rows import Row

import jaxprune as jp

BANK, DIMENSIONS, QUERIES, NEIGHBOURS = 50_000, 512, 1_000, 5
EXAMPLES, WIDTH, CLASSES = 100_000, 2_048, 1_000


def neighbours(rounds: int) -> Iterator[Row]:
    """Votes of the nearest of 50,000 features, for 1,000 queries."""
    _warmed()
    before = resident()
    draw = np.random.default_rng(0)
    bank, queries = (draw.standard_normal((n, DIMENSIONS), np.float32) for n in (BANK, QUERIES))
    labels = np.arange(BANK) % 10
    head = jp.evaluate.heads.nearest_neighbours(NEIGHBOURS)(bank, labels, 10)
    votes = _votes(head)
    ours = lambda: jax.block_until_ready(votes(queries))  # noqa: E731
    ours()
    peak = resident() - before

    @jax.jit
    def nearest(queries: Any, bank: Any) -> Any:
        return jax.lax.top_k(2 * queries @ bank.T - jnp.sum(bank**2, axis=1), NEIGHBOURS)[1]

    held = jnp.asarray(bank)
    plain = lambda: jax.block_until_ready(nearest(queries, held))  # noqa: E731
    plain()
    yield from _beside(f"votes of {BANK:,} x {DIMENSIONS} for {QUERIES:,} queries", ours, plain, rounds)
    yield _peak(peak, bank.nbytes)
    taken = jax.jit(head.apply).lower(head.params, head.state, queries).compile().memory_analysis()
    held = (taken.argument_size_in_bytes + taken.temp_size_in_bytes + taken.output_size_in_bytes) / bank.nbytes
    yield Row("  what its program holds over the features", (held,), "times")


def held(rounds: int) -> Iterator[Row]:
    """What a process takes that holds 50,000 features and the copy of them that a head needs, and asks nothing."""
    del rounds  # memory is measured once
    _warmed()
    before = resident()
    bank = np.random.default_rng(0).standard_normal((BANK, DIMENSIONS), np.float32)
    copy = jax.block_until_ready(jax.device_put(bank))
    row = _peak(resident() - before, bank.nbytes)
    del copy
    yield dataclasses.replace(row, quantity=f"{BANK:,} x {DIMENSIONS} and a copy of them:{row.quantity}")


def ridge(rounds: int) -> Iterator[Row]:
    """A ridge regression of 1,000 classes on 100,000 features."""
    del rounds  # minutes each
    _warmed()
    before = resident()
    features = np.random.default_rng(0).standard_normal((EXAMPLES, WIDTH), np.float32)
    labels = np.random.default_rng(1).permutation(EXAMPLES) % CLASSES
    made = []
    begin = time.perf_counter()
    made.append(jp.evaluate.heads.ridge(1.0)(features, labels, CLASSES))
    ours = time.perf_counter() - begin
    peak = resident() - before

    def plain() -> Any:
        x = features.astype(np.float64)
        onehot = np.eye(CLASSES)[labels]
        return np.linalg.solve(x.T @ x + np.eye(WIDTH), x.T @ onehot)

    begin = time.perf_counter()
    plain()
    theirs = time.perf_counter() - begin
    yield Row(f"ridge of {EXAMPLES:,} x {WIDTH:,}, {CLASSES:,} classes", (ours,))
    yield Row("  over plain products in float64", (ours / theirs,), "times", at_most=2.0, note=f"{theirs:.1f} s")
    yield _peak(peak, features.nbytes)


def _warmed() -> None:
    """Uses what a process takes once, whatever the features: JAX, its compiler, the libraries of matrices."""
    few = np.random.default_rng(0).standard_normal((BANK // 10, 8), np.float32)
    labels = np.arange(len(few)) % 4
    jp.evaluate.heads.ridge(1.0)(few, labels, 4)
    jax.block_until_ready(_votes(jp.evaluate.heads.nearest_neighbours(NEIGHBOURS)(few, labels, 4))(few[:QUERIES]))


def _votes(head: jp.Network) -> Callable[[Any], Any]:
    votes = jax.jit(lambda params, images: head.apply(params, head.state, images))
    return lambda images: votes(head.params, images)


def _beside(name: str, ours: Callable[[], Any], plain: Callable[[], Any], rounds: int) -> Iterator[Row]:
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        ours()
        middle = time.perf_counter()
        plain()
        seconds.append((middle - begin, time.perf_counter() - middle))
    yield Row(name, tuple(one for one, _ in seconds))
    ratios = tuple(one / other for one, other in seconds)
    yield Row("  over the plain product and its largest", ratios, "times", at_most=2.0)


def _peak(megabytes: float, features: int) -> Row:
    ratio = megabytes * MEGABYTE / features
    return Row("  peak of the process over the features", (ratio,), "times", at_most=2.0, note=f"{megabytes:,.0f} MB")
