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

SEEDS, DRAWS, DELTA = (0, 1, 2), 10_000, 0.05
SPARSITIES = tuple(round(0.1 + 0.02 * rung, 2) for rung in range(36))
LADDER = (0.0, *SPARSITIES)
"""The sparsity that goes with a number of certified rungs."""
ASKED = ((0.05, 300), (0.05, 100), (0.05, 900), (0.02, 900), (0.01, 900))
NEAR = 0.05
"""How near to the oracle the mean is asked to be, with the first number of images."""
AT_ONCE = 100
"""Draws that bet side by side."""


class Pool(NamedTuple):
    """What is known of every image of the pool, [1 + rungs, images], of the dense network first."""

    hits: np.ndarray
    predictions: np.ndarray

    @property
    def drops(self) -> np.ndarray:
        """Dense hits less those of every rung, [rungs, images]."""
        return self.hits[:1].astype(np.int8) - self.hits[1:].astype(np.int8)

    @property
    def flips(self) -> np.ndarray:
        """Where the dense network is right and a rung wrong, [rungs, images]."""
        return self.hits[:1] & ~self.hits[1:]

    @property
    def disagreements(self) -> np.ndarray:
        """Where they predict different classes, [rungs, images]."""
        return self.predictions[:1] != self.predictions[1:]

    def safe(self, alpha: float) -> np.ndarray:
        """Which rungs cost at most alpha in truth, [rungs]."""
        return self.drops.mean(axis=1) <= alpha


class Draws(NamedTuple):
    """What came of many draws: how many rungs each certified, and which of the rungs are safe in truth."""

    certified: np.ndarray
    safe: np.ndarray

    @property
    def most(self) -> int:
        """How many rungs a certificate may have: those before the first that is not safe."""
        return int(np.cumprod(self.safe).sum())

    @property
    def violations(self) -> float:
        """The share of draws that certified a rung which is not safe."""
        return float(np.mean(self.certified > self.most))

    @property
    def oracle(self) -> float:
        """The sparsity that whoever knows the truth certifies; nothing counts as 0."""
        return LADDER[self.most]

    @property
    def given_away(self) -> float:
        """How far the mean sparsity that was certified lies below that."""
        return float(self.oracle - np.mean(np.array(LADDER)[self.certified]))


def guarantee(rounds: int) -> Iterator[Row]:
    """Draws ten thousand times for every alpha, n and network, and certifies in every way."""
    del rounds
    yield from worst()
    yield from bought()
    yield from counted()


def counted() -> Iterator[Row]:
    """Certifies by flips, by disagreements, and by looking at the mean alone."""
    pools = [the_pool(seed) for seed in SEEDS]
    for alpha, n in ASKED:
        title, near = f"alpha {alpha:g}, n = {n}", NEAR if (alpha, n) == ASKED[0] else None
        yield from rows([by_counts(pool, pool.flips, n, alpha) for pool in pools], f"{title}, flips", near)
        yield from rows([by_counts(pool, pool.disagreements, n, alpha) for pool in pools], f"{title}, disagreements")
        wrong = [Draws(naive(pool.drops, n, alpha), pool.safe(alpha)).violations for pool in pools]
        yield Row(f"{title}, mean drop at most alpha, no test: violations", (max(wrong),), "", note=listed(wrong))


def bought() -> Iterator[Row]:
    """Bets on labels that are bought one at a time, and stops at the largest wealth."""
    alpha, n = ASKED[0]
    found = [by_betting(the_pool(seed), n, alpha) for seed in SEEDS]
    yield from rows(found, f"alpha {alpha:g}, n = {n}, labels one at a time")


def rows(found: list[Draws], title: str, near: float | None = None) -> Iterator[Row]:
    """Writes the most violations of any network, and the most that is given away."""
    wrong, less = [one.violations for one in found], [one.given_away for one in found]
    yield Row(f"{title}: violations", (max(wrong),), "", at_most=DELTA, note=f"{DRAWS:,d} draws; {listed(wrong)}")
    oracles = ", ".join(f"{one.oracle:.2f}" for one in found)
    note = f"oracle {oracles}; less by {listed(less)}"
    yield Row("  mean sparsity below the oracle's by", (max(less),), "", at_most=near, note=note)


def listed(numbers: list[float]) -> str:
    """Writes a number for each network."""
    return ", ".join(f"{number:.4f}" for number in numbers) + f" for seeds {SEEDS}"


def worst() -> Iterator[Row]:
    """Puts the rate of the first rung just above alpha, where a test errs most often."""
    draw = np.random.default_rng(SEEDS[0])
    for alpha, n in ASKED:
        flips = draw.binomial(n, alpha * (1 + 1e-9), (DRAWS, 1))
        wrong = float(np.mean(safety.fixed_sequence(safety.p_values(flips, n, alpha), DELTA) > 0))
        exact = max(p for p in safety.p_values(np.arange(n + 1), n, alpha) if p <= DELTA)
        title = f"alpha {alpha:g}, n = {n}: violations in the worst case"
        yield Row(title, (wrong,), "", at_most=DELTA, note=f"{DRAWS:,d} draws; exactly {exact:.4f}")


def by_counts(pool: Pool, events: np.ndarray, n: int, alpha: float) -> Draws:
    """Certifies every draw by exact binomial tests."""
    p_values = safety.p_values(drawn(events, n), n, alpha)
    return Draws(safety.fixed_sequence(p_values, DELTA), pool.safe(alpha))


def by_betting(pool: Pool, n: int, alpha: float) -> Draws:
    """Certifies every draw by bets, on rungs up to the first that is not safe: what is beyond does not matter."""
    safe = pool.safe(alpha)
    drops = pool.drops[: int(np.cumprod(safe).sum()) + 1]
    draw, certified = np.random.default_rng(SEEDS[0]), []
    for _ in range(DRAWS // AT_ONCE):
        chosen = draw.integers(0, drops.shape[1], (AT_ONCE, n))
        p_values = safety.betting_p_values(np.moveaxis(drops[:, chosen], 0, 1), alpha)
        certified.append(safety.fixed_sequence(p_values, DELTA))
    return Draws(np.concatenate(certified), safe)


def naive(drops: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Certifies what looks safe: every rung whose mean drop is at most alpha, up to the first that is not."""
    return np.cumprod(drawn(drops, n) <= alpha * n, axis=1).sum(axis=1)


def drawn(values: np.ndarray, n: int) -> np.ndarray:
    """Sums the values [rungs, pool] over n images, for every draw: int [draws, rungs]."""
    patterns, counts = np.unique(values.astype(np.int64), axis=1, return_counts=True)
    picked = np.random.default_rng(SEEDS[0]).multinomial(n, counts / counts.sum(), DRAWS)
    return picked @ patterns.T


@cache
def the_pool(seed: int) -> Pool:
    """Trains, prunes, and looks at the digits that nothing of it has seen."""
    digits = jp.data.digits()
    parts = jp.data.split(digits.labels, digits.name, seed)
    dense = trained(jp.data.select(digits, parts["pretraining"]), len(digits.classes), seed)
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

    return Pool(safety.hits(ladder(), batches), safety.predictions(ladder(), batches))


def trained(data: dict[str, Any], classes: int, seed: int) -> jp.Network:
    """Trains the network of the studies, as they do."""
    module = jp.models.resnet_cifar(8, classes, 6)
    variables = jax.jit(module.init)(jax.random.key(seed), data["image"][:1])
    network = jp.Network.from_linen(module, variables, train={"train": True})
    tx = optax.adamw(optax.cosine_decay_schedule(5e-3, 1000), weight_decay=1e-2)
    return jp.train.fit(network, jp.losses.cross_entropy, tx, data, steps=1000, batch_size=64, seed=seed)
