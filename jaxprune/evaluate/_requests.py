"""What an attribution is asked for: images and target classes, checked, and the logit that it explains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import check, tree
from jaxprune.network import Network

Attribution = Callable[..., Any]
"""``(network, images [b, h, w, c], targets int [b] | None) -> relevance [b, h, w, c]``, or [b, h, w, 1].

Targets None, or left out: the class that the network itself decides for.
"""


def ready(network: Network, images: Any, targets: Any) -> tuple[jax.Array, jax.Array | None]:
    """Checks images and targets against the network, before anything is computed, and returns them as arrays.

    Raises:
      ValueError: images that are not [b, h, w, c], empty or not finite; outputs that are not [b, c]; targets of another
        length or outside of the classes.
      TypeError: images that are not floating-point, targets that are not integers.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images: expected [b, h, w, c], none of them 0, but got the shape {images.shape}. A single image needs a "
            "batch axis: images[None]."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images: expected floating-point images, which have a gradient, but got {images.dtype}. Divide grey "
            "levels by 255."
        )
    check.finite("images", images, "Inspect the preprocessing.")
    images, outputs = _in_float32(network, images)
    check.outputs(outputs, len(images))
    if targets is None:
        return images, None
    if jnp.shape(targets) != (len(images),):
        raise ValueError(
            f"targets: expected one class for each of {len(images)} images, but got the shape {jnp.shape(targets)}. "
            "For the network's own decision pass None."
        )
    if not isinstance(targets, Tracer):
        targets = check.label_range("targets", targets, outputs.shape[1])
    return images, jnp.asarray(targets, jnp.int32)


def _in_float32(network: Network, images: jax.Array) -> tuple[jax.Array, Any]:
    """Images in float32 or wider, where the network takes them so, and the shape of its outputs.

    A map, a sum of many gradients or noise in half precision has three digits.
    """
    wide = tree.wide(images)
    try:
        return wide, jax.eval_shape(network.apply, network.params, network.state, wide)
    except TypeError:
        return images, jax.eval_shape(network.apply, network.params, network.state, images)


def settled(network: Network, images: Any, targets: Any) -> jax.Array:
    """Returns the targets, or in place of None the class that the network decides for."""
    return decided(network, images) if targets is None else targets


def asked(network: Network, images: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Returns images and targets, ``ready`` and ``settled``."""
    images, targets = ready(network, images, targets)
    return images, settled(network, images, targets)


def logit(outputs: Any, targets: Any) -> Any:
    """Picks the output of the target class for each image, before any softmax: ``outputs[i, targets[i]]``.

    Args:
      outputs: [b, c].
      targets: int [b].

    >>> logit(jnp.array([[1.0, 2.0], [4.0, 3.0]]), jnp.array([0, 1])).tolist()
    [1.0, 3.0]
    """
    return jnp.take_along_axis(outputs, targets[:, None], axis=1)[:, 0]


@jax.jit
@jax.default_matmul_precision("highest")
def decided(network: Network, images: Any) -> jax.Array:
    """The class that the network decides for, int32 [b]: that of the largest output, the first of equal ones."""
    return jnp.argmax(network(images), axis=1).astype(jnp.int32)


@jax.jit
@jax.default_matmul_precision("highest")
def image_gradient(network: Network, images: Any, targets: Any) -> Any:
    """The gradient of each image's target logit by the image: the one large program of all methods in input space."""
    # Examples are independent in evaluation mode: the gradient of the sum holds that of every image.
    return jax.grad(lambda images: jnp.sum(logit(network(images), targets)))(images)


def colours(name: str, value: Any, images: jax.Array) -> jax.Array:
    """Spreads a number, a colour [c], an image [h, w, c] or images [b, h, w, c] over images.

    Raises:
      ValueError: a shape that does not fit, or numbers that are not finite.
      TypeError: what is no number.
    """
    if not check.are_numbers(value):
        raise TypeError(
            f"{name}: expected a number, a colour [c], an image [h, w, c] or images [b, h, w, c], but got {value!r}. "
            "Black is 0.0; for blurred images pass them blurred."
        )
    shape = jnp.shape(value)
    if len(shape) > 4 or any(
        mine not in (1, there) for mine, there in zip(shape[::-1], images.shape[::-1], strict=False)
    ):
        raise ValueError(
            f"{name}: expected a number, a colour [c], an image [h, w, c] or images [b, h, w, c] for images "
            f"{images.shape}, but got the shape {shape}."
        )
    check.finite(name, value, "It is what an image without content looks like.")
    return jnp.broadcast_to(jnp.asarray(value, images.dtype), images.shape)


def finite(name: str, values: np.ndarray) -> None:
    """Checks that no number is NaN or infinite; float64 as it stands, which JAX would round to float32.

    Raises:
      ValueError: one is.
    """
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"{name}: expected finite numbers, but {bad} are NaN or infinite. Inspect the weights of the network and "
            "at the images."
        )
