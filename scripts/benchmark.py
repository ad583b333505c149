"""Measures what the README states about speed: the selection of a global mask over 25 million scores."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune import files

# The kernels of a ResNet-50, near enough: 25.1 million weights in leaves of unequal sizes.
SHAPES = [(3, 3, 512, 512)] * 8 + [(2048, 1000), (1024, 2048), (1024, 2048)]
SPARSITY, ROUNDS, DEVICES = 0.9, 7, 8


def scores(ties: bool) -> list[jax.Array]:
    """Draws the scores; with ties, they take about thirty values."""
    drawn = [jax.random.normal(jax.random.key(number), shape) for number, shape in enumerate(SHAPES)]
    return [jnp.round(leaf * 4) / 4 for leaf in drawn] if ties else drawn


def select() -> dict[str, float]:
    """Times the selection on one device, and counts what it pruned."""
    result: dict[str, float] = {}
    prune = jp.masks.unstructured(SPARSITY)
    for name, ties in (("distinct", False), ("many ties", True)):
        leaves = scores(ties)
        seconds = []
        for _ in range(ROUNDS + 1):  # the first one compiles
            start = time.perf_counter()
            mask = jax.block_until_ready(prune(leaves, [True] * len(leaves)))
            seconds.append(time.perf_counter() - start)
        total = jp.tree.size(leaves)
        pruned = total - sum(int(np.sum(np.asarray(leaf))) for leaf in mask)
        if pruned != round(SPARSITY * total):
            raise AssertionError(f"expected {round(SPARSITY * total)} pruned, but got {pruned}")
        result |= {f"select, {name}, s": statistics.median(seconds[1:]), f"select, {name}, first call, s": seconds[0]}
        result["scores"] = total
    return result


def sharded() -> dict[str, float]:
    """Selects on simulated devices: the mask must have the same bits, and nothing may be gathered."""
    prune = jp.masks.unstructured(SPARSITY)
    flags = [True] * len(SHAPES)
    leaves = scores(ties=True)
    placed = jp.mesh.shard_leaves(jp.mesh.make(), leaves)
    compiled = jax.jit(lambda tree: prune(tree, flags)).lower(placed).compile()
    here, there = prune(leaves, flags), compiled(placed)
    differing = sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in zip(here, there, strict=True))
    return {
        f"all-gathers on {DEVICES} devices": compiled.as_text().count("all-gather"),
        f"bits that differ between 1 and {DEVICES} devices": differing,
    }


def main() -> None:
    """Prints the figures and keeps them as JSON."""
    if sys.argv[1:] == ["--sharded"]:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        sys.stdout.write(json.dumps(sharded()))
        return
    figures = select()
    # Devices are simulated in a process of their own: they must be asked for before JAX starts.
    other = subprocess.run([sys.executable, __file__, "--sharded"], capture_output=True, text=True, check=True)
    figures |= json.loads(other.stdout.splitlines()[-1])
    for name, value in figures.items():
        sys.stdout.write(f"{name:45} {value:12.3f}\n" if isinstance(value, float) else f"{name:45} {value:12,d}\n")
    folder = Path("results")
    folder.mkdir(exist_ok=True)
    files.write_json(folder / "benchmark.json", {"device": jax.devices()[0].device_kind, "figures": figures})


if __name__ == "__main__":
    main()
