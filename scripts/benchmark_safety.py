"""How often certificates of safe sparsity are wrong, and how much they give away, over draws of images.

The ladder is a real one: ResNet-8 of width 6 on the bundled digits, trained on one part of them, pruned by the diagonal
of the Hessian on another.  The digits that neither has seen are the pool, of which each draw takes n, one independent
of another; so the rates of the pool are the truth.  Draws are made of patterns of flips over the rungs, which keeps the
rungs of a draw as dependent as they are.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from benchmark_rows import Row

import jaxprune as jp
from jaxprune.evaluate import safety

SEED, DRAWS, DELTA = 0, 10_000, 0.05
SPARSITIES = tuple(round(0.1 + 0.02 * rung, 2) for rung in range(41))
ASKED = ((0.05, 300), (0.05, 100), (0.05, 900), (0.02, 900), (0.01, 900))
NEAR = 0.05
"""How near to the oracle the mean is asked to be, with the first number of images."""
AT_ONCE = 100
"""Draws that bet side by side."""


class Pool(NamedTuple):
    """What is known of every image of the pool: hits and predictions of the dense network (first) and the ladder."""

    hits: np.ndarray
    predictions: np.ndarray
    accuracy: float


class Draws(NamedTuple):
    """What came of many draws: how many rungs each certified, and which are safe in truth."""

    certified: np.ndarray
    safe: np.ndarray

    @property
    def violations(self) -> float:
        """The share of draws that certified a rung which is not safe."""
        return float(np.mean(self.certified > self.most))

    @property
    def most(self) -> int:
        """How many rungs a certificate may have: those before the first that is not safe."""
        return int(np.cumprod(self.safe).sum())

    def sparsity(self) -> float:
        """The mean sparsity that was certified; nothing counts as 0."""
        return float(np.mean(np.array([0.0, *SPARSITIES])[self.certified]))


def guarantee(rounds: int) -> Iterator[Row]:
    """Draws ten thousand times for every alpha and n, by flips, by disagreements and by looking at the mean alone."""
    del rounds
    pool = the_pool()
    dense, pruned = pool.hits[0], pool.hits[1:]
    drops = dense.astype(int) - pruned
    flips, disagreements = dense & ~pruned, pool.predictions[:1] != pool.predictions[1:]
    note = f"{DRAWS:,d} draws from a pool of {len(dense)} digits, dense {pool.accuracy:.3f}"
    for alpha, n in ASKED:
        title, safe = f"alpha {alpha:g}, n = {n}", drops.mean(axis=1) <= alpha
        oracle = max((0.0, *np.array(SPARSITIES)[: int(np.cumprod(safe).sum())]))
        for name, events in (("flips", flips), ("disagreements", disagreements)):
            found = by_counts(events, n, alpha)
            # A claim on flips is the stronger one: whoever keeps it keeps that on the drop.
            wrong = Draws(found, events.mean(axis=1) <= alpha).violations
            yield Row(f"{title}: violations by {name}", (wrong,), "", at_most=DELTA, note=note)
            near = oracle - NEAR if (alpha, n) == ASKED[0] and name == "flips" else None
            mean = Draws(found, safe).sparsity()
            yield Row(f"  mean sparsity, oracle {oracle:.2f}", (mean,), "", at_least=near)
        found = Draws(naive(drops, n, alpha), safe)
        yield Row(f"  violations where the mean is not above alpha (no test), {title}", (found.violations,), "")


def bought(rounds: int) -> Iterator[Row]:
    """Bets on labels one at a time, and stops each rung where wealth is enough; of rungs up to the first unsafe one."""
    del rounds
    pool = the_pool()
    alpha, n = ASKED[0]
    drops = pool.hits[0].astype(np.int8) - pool.hits[1:].astype(np.int8)
    safe = drops.mean(axis=1) <= alpha
    most = int(np.cumprod(safe).sum())
    drops = drops[: most + 1]
    draw, certified = np.random.default_rng(SEED), []
    for _ in range(DRAWS // AT_ONCE):
        chosen = draw.integers(0, drops.shape[1], (AT_ONCE, n))
        p_values = safety.betting_p_values(np.moveaxis(drops[:, chosen], 0, 1), alpha)
        certified.append(safety.fixed_sequence(p_values, DELTA))
    found = Draws(np.concatenate(certified), safe)
    title = f"alpha {alpha:g}, n = {n}, labels one at a time"
    yield Row(f"{title}: violations", (found.violations,), "", at_most=DELTA, note=f"{DRAWS:,d} draws")
    yield Row(f"  mean sparsity, oracle {max((0.0, *SPARSITIES[:most])):.2f}", (found.sparsity(),), "")


def worst(rounds: int) -> Iterator[Row]:
    """Puts the rate of the first rung just above alpha, where a test errs most often."""
    del rounds
    draw = np.random.default_rng(SEED)
    for alpha, n in ASKED:
        flips = draw.binomial(n, alpha * (1 + 1e-9), (DRAWS, 1))
        wrong = float(np.mean(safety.fixed_sequence(safety.p_values(flips, n, alpha), DELTA) > 0))
        exact = max(p for p in safety.p_values(np.arange(n + 1), n, alpha) if p <= DELTA)
        title = f"alpha {alpha:g}, n = {n}: violations in the worst case"
        yield Row(title, (wrong,), "", at_most=DELTA, note=f"{DRAWS:,d} draws; exactly {exact:.4f}")


def by_counts(events: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Certifies every draw by exact binomial tests: int [draws], how many rungs."""
    return safety.fixed_sequence(safety.p_values(drawn(events, n), n, alpha), DELTA)


def naive(drops: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Certifies what looks safe: every rung whose mean drop is at most alpha, up to the first that is not."""
    return np.cumprod(drawn(drops, n) <= alpha * n, axis=1).sum(axis=1)


def drawn(values: np.ndarray, n: int) -> np.ndarray:
    """Sums the values [rungs, pool] over n images, for every draw: int [draws, rungs]."""
    patterns, counts = np.unique(values.astype(np.int64), axis=1, return_counts=True)
    picked = np.random.default_rng(SEED).multinomial(n, counts / counts.sum(), DRAWS)
    return picked @ patterns.T


@cache
def the_pool() -> Pool:
    """Trains, prunes, and looks at the digits that nothing of it has seen."""
    digits = jp.data.digits()
    parts = jp.data.split(digits.labels, digits.name, SEED)
    dense = trained(jp.data.select(digits, parts["pretraining"]), len(digits.classes))
    scoring = jp.data.Batches(jp.data.select(digits, parts["scoring"]), 256)
    unseen = np.sort(np.concatenate([parts[name] for name in ("test", "head", "finetuning", "selection")]))
    safety.demand_disjoint(
        {"digits": unseen}, made={name: parts[name] for name in ("pretraining", "scoring")}, reported={}
    )
    batches = jp.data.Batches(jp.data.select(digits, unseen), 256)
    # Not the classifier: zero there takes a class away.
    prunable = jp.tree.prunable(dense.params, exclude="^head/")
    scores = jp.scores.diagonal_hessian(jp.losses.cross_entropy)(dense, scoring)

    def ladder() -> Iterator[jp.Network]:
        yield dense
        for sparsity in SPARSITIES:
            mask = jp.masks.unstructured(sparsity)(scores, prunable)
            yield dense.replace(params=jp.masks.apply(mask, dense.params))

    hits = safety.hits(ladder(), batches)
    return Pool(hits, safety.predictions(ladder(), batches), float(hits[0].mean()))


def trained(data: dict[str, Any], classes: int) -> jp.Network:
    """Trains the network of the studies, as they do."""
    module = jp.models.resnet_cifar(8, classes, 6)
    variables = jax.jit(module.init)(jax.random.key(SEED), data["image"][:1])
    network = jp.Network.from_linen(module, variables, train={"train": True})
    tx = optax.adamw(optax.cosine_decay_schedule(5e-3, 1000), weight_decay=1e-2)
    return jp.train.fit(network, jp.losses.cross_entropy, tx, data, steps=1000, batch_size=64, seed=SEED)
