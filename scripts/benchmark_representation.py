"""What reading a representation costs: integrated gradients beside plain gradients, and LOST on maps of tokens."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import Row, measure, timed

import jaxprune as jp
from jaxprune.evaluate import attribution, discovery

SEED, IMAGES, STEPS = 0, 64, 50


def integrated_gradients(rounds: int) -> Iterator[Row]:
    """Times integrated gradients of a batch against as many gradients of it, each round one after the other."""
    module = jp.models.resnet_cifar(20, width=16)
    rng = np.random.default_rng(SEED)
    images = jax.device_put(rng.uniform(size=(IMAGES, 32, 32, 3)).astype(np.float32))
    targets = jax.device_put(rng.integers(10, size=IMAGES).astype(np.int32))
    network = jp.Network.from_linen(module, jax.jit(module.init)(jax.random.key(SEED), images[:1]))
    method = attribution.integrated_gradients(steps=STEPS)
    timing = measure(
        lambda: [_gradient(network, images, targets) for _ in range(STEPS)],
        {"integrated": lambda: method(network, images, targets)},
        rounds,
    )["integrated"]
    title = f"integrated gradients, {IMAGES} images, {STEPS} steps: of {STEPS} gradients"
    seconds = f"{np.median(timing.seconds):.3g} s" if timing.seconds else ""
    yield Row(title, tuple(timing.gradients), "times", at_most=1.15, note=seconds, missing=timing.missing)


def lost(rounds: int) -> Iterator[Row]:
    """Times LOST on 64 maps of 28x28 tokens with 384 channels."""
    features = np.random.default_rng(SEED).normal(size=(64, 28, 28, 384)).astype(np.float32)
    # Neighbours resemble each other, as in a network: components of a few tokens, and not of noise.
    features = sum(np.roll(features, (row, column), (1, 2)) for row in range(3) for column in range(3))
    placed = jax.device_put(features)
    first, _ = timed(lambda: discovery.lost(placed))
    seconds = tuple(timed(lambda: discovery.lost(placed))[0] for _ in range(rounds))
    yield Row("LOST, 64 maps of 28x28 tokens, 384 channels", seconds, "seconds", at_most=1.0, first=first)


@jax.jit
def _gradient(network: jp.Network, images: Any, targets: Any) -> Any:
    return jax.grad(lambda images: jnp.sum(network(images)[jnp.arange(len(targets)), targets]))(images)
