"""Common corruptions: fifteen ways in which a camera, the weather or a file spoils an image, at five severities."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from jaxprune import check
from jaxprune.data._blurs import along, averaged, disc, filtered, trail, warped
from jaxprune.data._draws import Draws, poisson
from jaxprune.data._pixels import checked_images, checked_indices
from jaxprune.data._weather import enlarged, fog, frost, points, snow

_REFERENCE = 32.0  # pixels: the lengths below are those of CIFAR
_CHUNK = 2**19  # numbers at once
_CELLS = 8  # of the elastic lattice, along the shorter side


def _gaussian_noise(images: np.ndarray, unit: float, draws: Draws, std: float) -> np.ndarray:
    del unit
    return images + std * draws.normal(*images.shape[1:])


def _shot_noise(images: np.ndarray, unit: float, draws: Draws, photons: float) -> np.ndarray:
    del unit
    return poisson(draws.uniform(*images.shape[1:]), photons * images) / photons


def _impulse_noise(images: np.ndarray, unit: float, draws: Draws, share: float) -> np.ndarray:
    del unit
    drawn = draws.uniform(*images.shape[1:])
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, images))


def _defocus_blur(images: np.ndarray, unit: float, draws: Draws, radius: float) -> np.ndarray:
    del draws
    return filtered(images, disc(radius * unit))


def _glass_blur(images: np.ndarray, unit: float, draws: Draws, reach: float) -> np.ndarray:
    sigma = (0, 0.2 * unit, 0.2 * unit, 0)
    size, cell = images.shape[1:3], max(1.0, unit)
    lattice = reach * unit * (2 * draws.uniform(2, *points(size, cell)) - 1)
    down, right = (enlarged(lattice[:, axis], size, cell) for axis in (0, 1))
    rows, columns = np.indices(size)
    soft = ndimage.gaussian_filter(images, sigma, mode="nearest")
    return ndimage.gaussian_filter(warped(soft, rows + down, columns + right), sigma, mode="nearest")


def _motion_blur(images: np.ndarray, unit: float, draws: Draws, std: float) -> np.ndarray:
    angles = (draws.uniform(1)[:, 0] - 0.5) * np.pi / 2
    pairs = zip(images, angles.tolist(), strict=True)
    return np.concatenate([filtered(one[None], trail(std * unit, angle)) for one, angle in pairs])


def _zoom_blur(images: np.ndarray, unit: float, draws: Draws, largest: float) -> np.ndarray:
    del unit, draws
    factors = np.linspace(1.0, largest, round((largest - 1.0) * 100) + 1)
    total = images.copy()
    for factor in factors:
        zoomed = images
        for axis in (1, 2):
            middle = (images.shape[axis] - 1) / 2
            zoomed = along(zoomed, middle + (np.arange(images.shape[axis]) - middle) / factor, axis)
        total += zoomed
    return total / (len(factors) + 1)


def _brightness(images: np.ndarray, unit: float, draws: Draws, amount: float) -> np.ndarray:
    del unit, draws
    value = np.max(images, axis=-1, keepdims=True)
    raised = np.minimum(value + amount, 1.0)
    # Hue and saturation stay; black has neither, and becomes grey.
    return np.where(value > 0, images * raised / np.where(value > 0, value, 1.0), raised)


def _contrast(images: np.ndarray, unit: float, draws: Draws, share: float) -> np.ndarray:
    del unit, draws
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + share * (images - mean)


def _elastic_transform(images: np.ndarray, unit: float, draws: Draws, moves: tuple[float, float]) -> np.ndarray:
    corners, local = (_REFERENCE * unit * move for move in moves)
    size, side = images.shape[1:3], min(images.shape[1:3])
    # Three corners move, and the plane with them; on top of that a lattice of points moves.
    origin, down, right = np.moveaxis(corners * (2 * draws.uniform(3, 2) - 1), 1, 0)[..., None, None]
    rows, columns = np.indices(size)
    tall, wide = rows / (size[0] - 1), columns / (size[1] - 1)
    shift = origin + tall * (down - origin) + wide * (right - origin)
    cell = side / _CELLS
    fields = draws.normal(2, *points(size, cell))
    warp = [local * enlarged(fields[:, axis], size, cell) for axis in (0, 1)]
    return warped(images, rows + shift[:, 0] + warp[0], columns + shift[:, 1] + warp[1])


def _pixelate(images: np.ndarray, unit: float, draws: Draws, cell: float) -> np.ndarray:
    del draws
    cell = cell * max(1.0, unit)
    return averaged(averaged(images, cell, 1), cell, 2)


def _jpeg_compression(images: np.ndarray, unit: float, draws: Draws, quality: int) -> np.ndarray:
    del unit, draws
    result = []
    for pixels in np.floor(255 * images + 0.5).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        result.append(np.asarray(Image.open(file), np.float64).reshape(pixels.shape) / 255)
    return np.stack(result)


class _Corruption(NamedTuple):
    apply: Callable[..., np.ndarray]
    severities: tuple[Any, Any, Any, Any, Any]


# "CIFAR-C": the numbers of Hendrycks and Dietterich's own script for 32 pixels; "near" it: theirs do not grow at every
# step, or mean nothing between whole pixels.
_TABLE: dict[str, _Corruption] = {
    # CIFAR-C: standard deviation; photons at white; share of the values that become 0 or 1.
    "gaussian_noise": _Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": _Corruption(_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": _Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    # ImageNet-C's radii of 3 to 10 pixels at 224.
    "defocus_blur": _Corruption(_defocus_blur, (0.43, 0.57, 0.86, 1.14, 1.43)),
    # Near CIFAR-C: how far a pixel may come from.
    "glass_blur": _Corruption(_glass_blur, (0.6, 0.8, 1.0, 1.3, 1.6)),
    # Near CIFAR-C: deviation of the trail.
    "motion_blur": _Corruption(_motion_blur, (1.0, 1.5, 2.0, 2.25, 2.5)),
    # CIFAR-C: the largest zoom.
    "zoom_blur": _Corruption(_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    # Near CIFAR-C: mean, deviation, threshold; fall; whitening.
    "snow": _Corruption(
        snow,
        (
            (0.1, 0.2, 0.6, 2.0, 0.05),
            (0.1, 0.2, 0.5, 2.5, 0.1),
            (0.15, 0.3, 0.55, 3.0, 0.1),
            (0.25, 0.3, 0.6, 3.5, 0.15),
            (0.3, 0.3, 0.65, 4.0, 0.2),
        ),
    ),
    # Near CIFAR-C: share of the image, share of the ice.
    "frost": _Corruption(frost, ((1.0, 0.2), (1.0, 0.3), (0.95, 0.45), (0.9, 0.6), (0.8, 0.75))),
    # CIFAR-C: amount, decay.  Then amount; share of the contrast left.
    "fog": _Corruption(fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": _Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": _Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    # Ours: how far corners move at most, deviation of the local moves, in sides of the image.
    "elastic_transform": _Corruption(
        _elastic_transform, ((0.02, 0.008), (0.03, 0.012), (0.04, 0.016), (0.05, 0.022), (0.06, 0.03))
    ),
    # Near CIFAR-C: side of a cell in pixels.
    "pixelate": _Corruption(_pixelate, (1.1, 1.25, 1.5, 1.75, 2.0)),
    # CIFAR-C: quality.
    "jpeg_compression": _Corruption(_jpeg_compression, (80, 65, 58, 50, 40)),
}

CORRUPTIONS: tuple[str, ...] = tuple(_TABLE)
"""Names of the corruptions, in the order of the paper: noise, blur, weather, digital."""


def corrupt(
    images: np.ndarray, name: str, severity: int, seed: int, *, indices: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Corrupts images in one of the fifteen common ways, at one of five severities.

    These are our own implementations, written after the paper's description: what is measured with them is NOT
    comparable with numbers on the published CIFAR-10-C or ImageNet-C files.  Severities are those of the paper's script
    for CIFAR (32 pixels), or near them where those do not grow at every step; frost is drawn rather than photographed,
    and glass shows each of its facets from a random point nearby rather than swapping pixels.

    Lengths are in proportion to the shorter side, with 32 pixels as the reference, so that 8-pixel digits and 224-pixel
    photographs are blurred and warped alike.  (Between pixels images are linear, which adds some blur where lengths are
    shorter than a pixel.)  Snowflakes, the facets of glass and the cells of pixelate, which cannot be smaller than a
    pixel, do not shrink below 32 pixels.  Noise is of single pixels at any size, and the blocks of JPEG are always 8.

    Image i depends on (image, name, severity, seed, index i) and on no other image; its random numbers do not depend
    on the severity, so that severities differ in strength and not in luck, and no version of NumPy changes them.
    A batch corrupted with its ``indices`` is therefore that part of the whole.  (JPEG files are made by Pillow, whose
    versions may differ in the last bit.)

    Args:
      images: float [n, h, w, c] in [0, 1]; c is 1 or 3, h and w are 8 or more.
      name: one of ``CORRUPTIONS``.
      severity: 1 to 5, a whole number (of 3.0 one would expect that 3.5 works too).  On average the distance to the
        clean images grows with it.
      seed: of everything random.
      indices: the index of each image in its data set [n].  None: 0 to n - 1.

    Returns:
      Images of the same shape and type, clipped to [0, 1].

    Raises:
      ValueError: unknown corruption or severity; images that are not as above; not one index for each image.
      TypeError: images that are not floating-point.

    Source: Hendrycks and Dietterich (2019), arXiv 1903.12261; parameters from github.com/hendrycks/robustness.

    >>> images = np.linspace(0, 1, 192, dtype=np.float32).reshape(3, 8, 8, 1)
    >>> some = corrupt(images[1:], "fog", 3, 0, indices=[1, 2])
    >>> np.array_equal(some, corrupt(images, "fog", 3, 0)[1:])
    True
    """
    check.choice("name", name, CORRUPTIONS)
    if not check.is_whole(severity) or severity not in range(1, 6):
        raise ValueError(
            f"severity: expected 1, 2, 3, 4 or 5, from mild to strong, but got {severity!r}. Pass a whole number."
        )
    images = checked_images(images)
    places = checked_indices(indices, len(images))
    corruption = _TABLE[name]
    unit, step = min(images.shape[1:3]) / _REFERENCE, max(1, _CHUNK // images[0].size)
    result = np.empty_like(images)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        draws = Draws(f"corruption/{name}", seed, places[part].tolist())
        made = corruption.apply(images[part].astype(np.float64), unit, draws, corruption.severities[severity - 1])
        result[part] = np.clip(made, 0.0, 1.0)
    return result
