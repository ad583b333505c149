"""A vision transformer at another image size: its learned positions, resampled as their source does it.

Positions of patches are a square grid, so resampling is two products with one matrix [new, old].  Its rows sum to one.
Libraries differ in where the points of the new grid lie in the old one, in the kernel, and in whether it widens where
the grid shrinks.  ``jax.image.resize`` is timm's way, to a rounding error, and none of the others.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import check
from jaxprune.models.vit import ViT

# The free number of Keys's cubic kernels, as PyTorch has it: another where it widens the kernel.
SHARP, SOFT = -0.75, -0.5


def resized(module: ViT, params: Any, image: int, method: str = "timm") -> tuple[ViT, Any]:
    """Makes a vision transformer for images of another size, by interpolation of its positions.

    Args:
      module: the network's module.
      params: its parameters.
      image: height and width of the images, in pixels; a multiple of the patch.
      method: whose interpolation.  "timm": cubic, its kernel widened where the grid shrinks (PyTorch's antialias);
        "torchvision": cubic, the corners of both grids on each other; "dino": cubic, the scale a little off, by 0.1 of
        a patch; "big_vision": linear, corners on each other; "sines": none, but the sines and cosines that some of
        big_vision's networks have as positions, made anew.  CLIP has no method; timm's is what others use for it.

    Returns:
      (module, params) for the new size; everything but the positions is shared.  The class token keeps its own.

    Raises:
      ValueError: an unknown method, or a size that is not whole, or that the patch does not divide.
      TypeError: another kind of network.

    >>> import jax
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
            "Swin transformers and all residual networks but CLIP's, which has clip_resnet.resized, take any size."
        )
    check.whole("image", image)
    check.choice("method", method, [*METHODS, "sines"])
    if image % module.patch:
        raise ValueError(
            f"image: expected a multiple of the patch ({module.patch}), but got {image}. Take "
            f"{math.ceil(image / module.patch) * module.patch}."
        )
    old, new = module.image // module.patch, image // module.patch
    if new == old:
        return module, params
    table = np.asarray(params["position"])
    token, grid = np.split(table, [module.token_count - old * old])
    if method == "sines":
        made = sines(new, module.width)
    else:
        matrix = METHODS[method](old, new)
        made = np.einsum("ir,js,rsd->ijd", matrix, matrix, grid.reshape(old, old, -1), optimize=True)
    position = np.concatenate([token, made.reshape(new * new, -1).astype(table.dtype)])
    return module.clone(image=image), {**params, "position": jnp.asarray(position)}


def cubic(old: int, new: int, *, corners: bool = False, scale: float | None = None) -> np.ndarray:
    """Makes the matrix [new, old] of cubic interpolation, equal to PyTorch's ``bicubic`` without antialias.

    Point i of the new grid lies at ``(i + 1/2) / scale - 1/2`` of the old one, and is a mean of the four points about
    it, with the weights of Keys's kernel, a = -3/4; a point beyond the edge is the one at the edge.

    Args:
      old: points along an axis of the old grid.
      new: points along an axis of the new grid.
      corners: whether the first and last points of both grids lie on each other (``align_corners``).
      scale: new points per old one, where that is not ``new / old``.

    Source: Keys (1981), doi 10.1109/TASSP.1981.1163711.

    >>> cubic(2, 4)[0]
    array([ 1.10546875, -0.10546875])
    """
    places = _places(old, new, corners, scale)
    below = np.floor(places).astype(int)
    matrix = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        weights = _kernel(places - (below + offset), SHARP)
        np.add.at(matrix, (np.arange(new), np.clip(below + offset, 0, old - 1)), weights)
    return matrix


def cubic_antialiased(old: int, new: int) -> np.ndarray:
    """Makes the matrix [new, old] of cubic interpolation, equal to PyTorch's ``bicubic`` with antialias.

    Where the new grid has fewer points, the kernel, a = -1/2, is as much wider.  What lies beyond the edge is left out,
    and the weights of the others sum to one.

    >>> cubic_antialiased(2, 1)
    array([[0.5, 0.5]])
    """
    wide = max(old / new, 1.0)
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(new))
    # The first and the last point are whole numbers near the ends of the kernel, rounded as PyTorch does.
    first = np.maximum((centres - 2 * wide + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * wide + 0.5).astype(int), old)
    points = np.arange(old)
    weights = _kernel((points[None] + 0.5 - centres[:, None]) / wide, SOFT)
    weights = np.where((points >= first[:, None]) & (points < last[:, None]), weights, 0.0)
    return weights / weights.sum(1, keepdims=True)


def linear(old: int, new: int) -> np.ndarray:
    """Makes the matrix [new, old] of linear interpolation with the corners on each other, SciPy's ``zoom(order=1)``.

    >>> linear(2, 3)
    array([[1. , 0. ],
           [0.5, 0.5],
           [0. , 1. ]])
    """
    places = _places(old, new, corners=True, scale=None)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(old)[None]))


def sines(side: int, width: int) -> np.ndarray:
    """Makes positions [side^2, width] of sines and cosines: a quarter each of columns' sines and cosines, and of rows'.

    Frequencies fall from 1 to 1/10000.  Needs a width that four divides.

    Source: Chen et al. (2021), arXiv 2104.02057; Beyer et al. (2022), arXiv 2205.01580.

    >>> sines(1, 8)
    array([[0., 0., 1., 1., 0., 0., 1., 1.]])
    """
    rows, columns = np.divmod(np.arange(side * side), side)
    frequencies = 10_000.0 ** -np.linspace(0.0, 1.0, width // 4)
    angles = [np.outer(places, frequencies) for places in (columns, rows)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)


def _dino(old: int, new: int) -> np.ndarray:
    # DINO adds a tenth of a patch to the size it asks for, against rounding, and PyTorch takes the scale as given.
    return cubic(old, new, scale=(new + 0.1) / old)


METHODS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "timm": cubic_antialiased,
    "torchvision": lambda old, new: cubic(old, new, corners=True),
    "dino": _dino,
    "big_vision": linear,
}


def _places(old: int, new: int, corners: bool, scale: float | None) -> np.ndarray:
    """Where the points of the new grid lie in the old one, in units of its points; rounded as PyTorch does."""
    points, single = np.arange(new), np.float32
    if corners:
        return (points * float(single(old - 1) / single(new - 1) if new > 1 else 0)).astype(single)
    apart = single(old) / single(new) if scale is None else single(1 / scale)
    return ((points + 0.5) * float(apart) - 0.5).astype(single)


def _kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys's kernel: cubic from 0 to 1 and from 1 to 2, and zero beyond."""
    t = np.abs(distance)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
