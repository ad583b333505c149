"""A network that takes images as they are stored: the normalisation becomes part of it."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxprune.network import Network
from jaxprune.types import Apply, Preprocess, TrainApply


def normalised(network: Network, preprocess: Preprocess) -> Network:
    """Puts the normalisation before a network: it then takes bytes, or pixels in [0, 1].

    ``outputs = network((pixels - mean) / std)``, with pixels = bytes / 255 where images are uint8.  So batches
    travel to the device as bytes, a quarter of the size, and attributions are with respect to the pixels.

    Args:
      network: one that takes normalised images [b, h, w, 3].
      preprocess: mean and std of every channel.  Resizing and cropping are done before, by
        ``jp.data.preprocess``.

    Returns:
      A network with the same parameters and state.

    Raises:
      ValueError: the network takes pixels already.
      TypeError (when it is evaluated): images of other whole numbers, or without three channels.

    >>> net = Network(lambda params, state, images: images.mean((1, 2)), {})
    >>> half = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> normalised(net, half)(jnp.full((1, 2, 2, 3), 255, jnp.uint8))
    Array([[1., 1., 1.]], dtype=float32)
    """
    if isinstance(network.apply, _Apply):
        raise ValueError("network: expected one that takes normalised images, but it takes pixels. Normalise once.")
    train = None if network.train_apply is None else _TrainApply(network.train_apply, preprocess)
    return network.replace(apply=_Apply(network.apply, preprocess), train_apply=train)


# Frozen dataclasses rather than closures, so that equal networks compare equal and never compile twice.
@dataclass(frozen=True)
class _Apply:
    apply: Apply
    preprocess: Preprocess

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return self.apply(params, state, _normalise(images, self.preprocess))


@dataclass(frozen=True)
class _TrainApply:
    train_apply: TrainApply
    preprocess: Preprocess

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> Any:
        return self.train_apply(params, state, _normalise(images, self.preprocess), rngs)


def _normalise(images: Any, preprocess: Preprocess) -> Any:
    pixels = jnp.asarray(images)
    if pixels.dtype == jnp.uint8:
        pixels = pixels.astype(jnp.float32) / 255
    # Else the mean and std would be whole numbers too, and grey images three equal channels.
    if not jnp.issubdtype(pixels.dtype, jnp.floating) or pixels.shape[-1:] != (3,):
        raise TypeError(
            f"images: expected bytes (uint8) or floating-point pixels in [0, 1], [b, h, w, 3], but got "
            f"{pixels.dtype}{list(pixels.shape)}. jp.data.as_float(...) makes pixels of bytes; a grey image is "
            "repeated in three channels."
        )
    mean, std = (jnp.asarray(values, pixels.dtype) for values in (preprocess.mean, preprocess.std))
    return (pixels - mean) / std
