"""A vision transformer at another image size: its learned positions, resampled."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check
from jaxprune.models.vit import ViT


def resized(module: ViT, params: Any, image: int) -> tuple[ViT, Any]:
    """Makes a vision transformer for images of another size, by cubic interpolation of its positions.

    Positions of patches are a grid, resampled with JAX's cubic kernel (edges aligned as in half-pixel centres); that of
    the class token stays.  (Other libraries have other cubic kernels, so numbers differ a little from theirs.)

    Args:
      module: the network's module.
      params: its parameters.
      image: height and width of the images, in pixels; a multiple of the patch.

    Returns:
      (module, params) for the new size; everything but the positions is shared.

    Raises:
      ValueError: a size that is not whole, or that the patch does not divide.
      TypeError: another kind of network.

    >>> from jaxprune.models import vit
    >>> small = vit(patch=8, image=32, classes=10, width=16, heads=2, depth=1)
    >>> params = small.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    >>> large, longer = resized(small, params, 64)
    >>> params["position"].shape, longer["position"].shape, large.image
    ((17, 16), (65, 16), 64)
    """
    if not isinstance(module, ViT):
        raise TypeError(
            f"module: expected a vision transformer, as models.vit makes it, but got a {type(module).__name__}. "
            "Residual networks and Swin transformers take images of any size as they are."
        )
    check.whole("image", image)
    if image % module.patch:
        raise ValueError(
            f"image: expected a multiple of the patch ({module.patch}), but got {image}. Take "
            f"{math.ceil(image / module.patch) * module.patch}."
        )
    old, new = module.image // module.patch, image // module.patch
    token, grid = jnp.split(params["position"], [1])
    if new != old:
        grid = jax.image.resize(grid.reshape(old, old, -1), (new, new, grid.shape[-1]), "cubic").reshape(new * new, -1)
    return module.clone(image=image), {**params, "position": jnp.concatenate([token, grid])}
