"""Whether intervals of estimated diagonals hold what they state, and whether the estimates are unbiased."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from benchmark_networks import subject
from benchmark_rows import Row
from scipy import stats

import jaxprune as jp

CLASSES, SIDE, EXAMPLES, DRAWS, PROBES, WEIGHTS = 1000, 16, 512, 50, 2, 10_000
REPETITIONS, FEW_EXAMPLES, ASKED = 2000, 16, 1000


def exact_coverage(rounds: int) -> Iterator[Row]:
    """Draws of 512 images of the digits against the exact diagonal of all of them: ResNet-8 with 1000 classes."""
    del rounds
    network, loss, images, kernels = _made()
    exact = _chosen(jp.curvature.sweep(network, loss, _batches(images), ("diagonal",), scope=kernels).diagonal, kernels)
    draw = np.random.default_rng(1)
    asked = draw.choice(exact.size, WEIGHTS, replace=False)
    held = counted = 0
    for seed in range(DRAWS):
        chosen = images[draw.integers(0, len(images), EXAMPLES)]
        found = jp.curvature.estimate(network, loss, _batches(chosen), probes=PROBES, scope=kernels, seed=seed)
        low, high = (_chosen(end, kernels)[asked] for end in found.interval())
        enough = _chosen(found.effective, kernels)[asked] >= 100
        held += int(np.sum((low <= exact[asked]) & (exact[asked] <= high) & enough))
        counted += int(np.sum(enough))
    share, each = held / max(1, counted), counted / DRAWS
    note = f"{DRAWS} draws of {EXAMPLES} of {len(images)} digits, {PROBES} probes; {each:.0f} of {WEIGHTS} weights"
    yield Row("coverage of 95 % intervals, from 100 effective examples", (share,), "", at_least=0.93, note=note)
    yield Row("  the same, from above", (share,), "", at_most=0.97)


def exact_mean(rounds: int) -> Iterator[Row]:
    """Two thousand estimates on the same images, against the exact diagonal of these."""
    del rounds
    network, loss, images, kernels = _made()
    batch = {"image": images[:FEW_EXAMPLES]}
    exact = _chosen(jp.curvature.diagonal(network, loss, batch, scope=kernels), kernels)
    reached = np.flatnonzero(exact > 0)
    asked = np.random.default_rng(2).choice(reached, ASKED, replace=False)
    total, squares = np.zeros(ASKED), np.zeros(ASKED)
    for seed in range(REPETITIONS):
        found = jp.curvature.estimate(network, loss, [batch], probes=1, scope=kernels, seed=seed)
        value = _chosen(found.value, kernels)[asked]
        total, squares = total + value, squares + value**2
    mean = total / REPETITIONS
    error = np.sqrt(np.maximum(squares / REPETITIONS - mean**2, 0) / (REPETITIONS - 1))
    distance = np.abs(mean - exact[asked]) / np.maximum(error, 1e-6 * exact[asked])
    expected = stats.norm.isf(0.5 / ASKED / 2)
    note = f"the largest of {ASKED} weights over {REPETITIONS} seeds; of normal numbers about {expected:.1f}"
    yield Row(
        "distance of mean estimates to the exact diagonal, in standard errors",
        (distance.max(),),
        "",
        at_most=4.0,
        note=note,
    )


def _made() -> tuple[jp.Network, Any, np.ndarray, Any]:
    here = subject(jp.models.resnet_cifar(8, classes=CLASSES), SIDE, 64, CLASSES)
    digits = jp.data.digits()
    small = np.asarray(digits.images(np.arange(len(digits.labels))), np.float32)
    images = np.asarray(jax.image.resize(small, (len(small), SIDE, SIDE, small.shape[3]), "linear"))
    images = np.repeat((images - images.mean()) / images.std(), 3 // images.shape[3], axis=3)
    return here.network, jp.losses.distillation("kl"), images, here.kernels


def _batches(images: np.ndarray) -> jp.data.Batches:
    return jp.data.Batches({"image": images}, 64)


def _chosen(tree: Any, kernels: Any) -> np.ndarray:
    """The weights of all kernels but the head, end to end."""
    named = zip(jp.tree.names(tree), jax.tree.leaves(tree), jax.tree.leaves(kernels), strict=True)
    return np.concatenate([np.ravel(leaf) for name, leaf, inside in named if inside and not name.startswith("head")])
