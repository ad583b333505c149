"""The selection of a global mask over 25 million scores."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import Row, timed

import jaxprune as jp

# The kernels of a ResNet-50, near enough: 25.1 million weights in leaves of unequal sizes.
SHAPES = [(3, 3, 512, 512)] * 8 + [(2048, 1000), (1024, 2048), (1024, 2048)]
SPARSITY, DEVICES = 0.9, 8


def scores(ties: bool) -> list[jax.Array]:
    """Draws the scores; with ties, they take about thirty values."""
    drawn = [jax.random.normal(jax.random.key(number), shape) for number, shape in enumerate(SHAPES)]
    return [jnp.round(leaf * 4) / 4 for leaf in drawn] if ties else drawn


def select(rounds: int) -> Iterator[Row]:
    """Times the selection on one device, and counts what it pruned."""
    prune = jp.masks.unstructured(SPARSITY)
    for name, ties in (("distinct", False), ("many ties", True)):
        leaves = jax.block_until_ready(scores(ties))
        flags = [True] * len(leaves)
        work = partial(prune, leaves, flags)
        first, mask = timed(work)
        seconds = tuple(timed(work)[0] for _ in range(rounds))
        total = jp.tree.size(leaves)
        pruned = total - sum(int(np.sum(np.asarray(leaf))) for leaf in mask)
        if pruned != round(SPARSITY * total):
            raise AssertionError(f"expected {round(SPARSITY * total)} pruned, but got {pruned}")
        yield Row(f"global mask over {total:,d} scores, {name}", seconds, first=first, note="exact count")


def sharded(rounds: int) -> Iterator[Row]:
    """Selects on simulated devices: the mask must have the same bits, and nothing may be gathered."""
    jax.config.update("jax_num_cpu_devices", DEVICES)  # before anything asks for a device
    prune = jp.masks.unstructured(SPARSITY)
    flags = [True] * len(SHAPES)
    leaves = scores(ties=True)
    placed = jp.mesh.shard_leaves(jp.mesh.make(), leaves)
    compiled = jax.jit(lambda tree: prune(tree, flags)).lower(placed).compile()
    here, there = prune(leaves, flags), compiled(placed)
    differing = sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in zip(here, there, strict=True))
    gathers = compiled.as_text().count("all-gather")
    yield Row(f"all-gathers of the mask on {DEVICES} simulated devices", (float(gathers),), "", at_most=0.0)
    yield Row(f"bits that differ between 1 and {DEVICES} devices", (float(differing),), "", at_most=0.0)
