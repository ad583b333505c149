"""Random weights and images on which a declaration is checked."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check
from jaxprune.network import Network

_SIZES, _CHANNELS = (8, 16, 28, 32, 64, 96, 128, 224), (1, 3)


def is_float(leaf: Any) -> bool:
    """Whether a leaf, or a value of a program, is of real numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def randomised(network: Network, seed: Sequence[int], gain: float) -> Network:
    """Random weights, so that nothing vanishes by chance: a trained network has dead units, a new one zero biases.

    Args:
      network: its leaves may be ``jax.ShapeDtypeStruct``.
      seed: of the draw.
      gain: kernels are of standard deviation gain / sqrt(what one output reads).
    """
    draw = np.random.default_rng(seed)

    def fresh(leaf: Any, level: float) -> Any:
        if not is_float(leaf):
            return leaf
        values = draw.normal(size=np.shape(leaf))
        size = max(1, int(np.prod(np.shape(leaf)[:-1])))
        # Biases above the means of a normalisation keep ReLUs open; statistics may be variances, so positive.
        drawn = gain * values / np.sqrt(size) if np.ndim(leaf) > 1 else level * (1 + 0.25 * np.tanh(values))
        return np.asarray(drawn, leaf.dtype)

    params = jax.tree.map(lambda leaf: fresh(leaf, 0.5), network.params)
    return network.replace(params=params, state=jax.tree.map(lambda leaf: fresh(leaf, 0.25), network.state))


def float_type(params: Any) -> Any:
    """The type of the kernels, which a convolution wants of its images."""
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params) if is_float(leaf)]
    return jnp.result_type(*types) if types else jnp.result_type(float)


def images_of(network: Network, shape: Sequence[int], seed: int) -> Any:
    """Random images of a shape [b, h, w, c]."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float_type(network.params))


def some_images(network: Network, seed: int) -> Any:
    """Random images [16, n, n, 1 or 3] of the first size that the network takes.

    Raises:
      ValueError: it takes none; the message holds what it said to the first.
    """
    said = ""
    for size in _SIZES:
        for channels in _CHANNELS:
            images = images_of(network, (16, size, size, channels), seed)
            try:
                jax.eval_shape(network, images)
            except Exception as error:  # whatever a network raises for images that it does not take
                said = said or check.first_line(error)
                continue
            return images
    raise ValueError(
        f"images: expected a network that takes [b, n, n, 1 or 3] with n in {_SIZES}, but it takes none of them: of "
        f"the first it says {said}. If the images are the reason, pass images."
    )
