"""The exact diagonal of a loss of one's own, in the time of cross-entropy, and weight by weight against products."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_networks import LOSS, resnet_cifar
from benchmark_rows import Row, measure

import jaxprune as jp

# Each of the first 300 classes counts another number of times.
COUNTS = np.arange(1, 301) % 7 + 1.0


def smoothed(outputs: Any, batch: Any) -> Any:
    """Cross-entropy with smoothed labels."""
    return optax.softmax_cross_entropy(
        outputs, optax.smooth_labels(jax.nn.one_hot(batch["label"], outputs.shape[1]), 0.1)
    )


def weighted(outputs: Any, batch: Any) -> Any:
    """Cross-entropy with weights of the classes."""
    return jnp.asarray(COUNTS, outputs.dtype)[batch["label"]] * LOSS(outputs, batch)


def warm(outputs: Any, batch: Any) -> Any:
    """Cross-entropy at a temperature of 2."""
    return 4 * LOSS(outputs / 2, batch)


LOSSES = {"cross-entropy": LOSS, "smoothed labels": smoothed, "weights of classes": weighted, "temperature": warm}


def own(rounds: int) -> Iterator[Row]:
    """Losses of one's own on a ResNet-20, and on one dense layer with many classes."""
    subject = resnet_cifar()
    timings = measure(
        subject.gradient,
        {
            name: lambda loss=loss: jp.curvature.diagonal(subject.network, loss, subject.batch, scope=subject.kernels)
            for name, loss in LOSSES.items()
        },
        rounds,
    )
    for name in list(LOSSES)[1:]:
        quantity = f"exact diagonal, ResNet-20, {name}, over cross-entropy"
        yield timings[name].over(timings["cross-entropy"], quantity, at_most=2.0)
    for classes in (10, 100, 300):
        yield from _dense(classes, rounds)


def _dense(classes: int, rounds: int) -> Iterator[Row]:
    """One layer of ten inputs whose logits are far apart, so that most probabilities are tiny."""
    draw = np.random.default_rng(1)
    weights = (3 * draw.normal(size=(10, classes))).astype(np.float32)
    batch = {"image": draw.normal(size=(16, 10)).astype(np.float32), "label": np.arange(16) % classes}
    network = jp.Network(lambda params, state, images: images @ params, jnp.asarray(weights))
    timings = measure(
        lambda: jp.curvature.gradient(network, LOSS, batch),
        {name: lambda loss=loss: jp.curvature.diagonal(network, loss, batch) for name, loss in LOSSES.items()},
        5 * rounds,  # of a millisecond each
    )
    for name, loss in list(LOSSES.items())[1:]:
        quantity = f"exact diagonal, 10 x {classes} weights, {name}, over cross-entropy"
        yield timings[name].over(timings["cross-entropy"], quantity, at_most=2.0)
        found = np.asarray(timings[name].result, np.float64)
        error = np.abs(found - _by_products(network, loss, batch)) / np.abs(found)
        note = f"{np.mean(error > 1e-4):.2%} of the weights differ by more than 1e-4"
        yield Row(f"  its largest relative distance to a product, {name}", (error.max(),), "", at_most=1e-4, note=note)


def _by_products(network: jp.Network, loss: Any, batch: Any) -> np.ndarray:
    size, shape = network.params.size, network.params.shape

    def one(index: Any) -> Any:
        direction = jax.nn.one_hot(index, size).reshape(shape)
        return jp.curvature.hvp(network, loss, batch, direction).ravel()[index]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(size)), np.float64).reshape(shape)
