"""From an image to what a network sees, with the bits of torchvision's evaluation transform."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxprune.data._levels import in_bytes
from jaxprune.types import Preprocess

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocess(image: Image.Image | np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Converts an image to RGB, resizes it and cuts out its central square, all on bytes.

    Bit for bit what torchvision's ``Resize`` and ``CenterCrop`` make of a Pillow image: the longer side is rounded
    down, an odd margin is halved to even, and an image smaller than the crop gets black borders.  An orientation in
    EXIF is ignored, as ``ImageFolder`` does; transparency is dropped, not blended.  Grey levels of 16 bits and floats
    in [0, 1] are scaled to bytes first, ``255 v / white`` rounded to nearest, where ``ImageFolder`` makes of all above
    255 white, and of floats black.  (Of colours with 16 bits Pillow reads the upper 8.)

    Args:
      image: of Pillow, in any mode, or uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (its last channel dropped).
      preprocess: sizes and interpolation; its mean and std are for ``jp.data.normalise``.

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError: an array of another shape or type, or without a pixel; an image of integers of more than 16 bits, of
        12, or of floats outside [0, 1], whose white nobody knows.

    Source: transforms of torchvision 0.28, on Pillow.

    >>> preprocess(np.zeros((10, 20), np.uint8), Preprocess(resize=8, crop=6)).shape
    (6, 6, 3)
    """
    image = in_bytes(_image(image), "image")
    if image.mode != "RGB":
        image = image.convert("RGB")
    height, width = resized_shape((image.height, image.width), preprocess)
    if image.size != (width, height):
        image = image.resize((width, height), _FILTERS[preprocess.interpolation])
    if preprocess.crop is not None:
        top, left = (_margin(side, preprocess.crop) for side in (height, width))
        image = image.crop((left, top, left + preprocess.crop, top + preprocess.crop))
    return np.asarray(image)


def normalise(images: Any, preprocess: Preprocess) -> Any:
    """Makes network inputs ``(pixel - mean) / std``, bit for bit as torchvision's ``ToTensor`` and ``Normalize``.

    Args:
      images: uint8 [..., 3], or floats in [0, 1]; of NumPy, or of JAX, where they may be traced.  Of JAX, the bits of
        floats are not torchvision's.
      preprocess: mean and std.

    Returns:
      float32 [..., 3], in the order of the axes that came.

    Raises:
      ValueError: a last axis other than 3, or images that are neither bytes nor floats.

    >>> normalise(np.full((1, 1, 3), 255, np.uint8), Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    kind = np.dtype(images.dtype)
    if np.shape(images)[-1:] != (3,) or not (kind == np.uint8 or jnp.issubdtype(kind, jnp.floating)):
        raise ValueError(
            f"images: expected bytes (uint8) or floats in [0, 1] of shape [..., 3], but got {kind} "
            f"{np.shape(images)}. Repeat a grey channel; keep the channels last."
        )
    mean, std = (np.asarray(each, np.float32) for each in (preprocess.mean, preprocess.std))
    if kind != np.uint8:
        return (images.astype(np.float32) - mean) / std
    # There are 256 answers for each channel, and NumPy divides exactly; XLA multiplies by reciprocals.
    answers = (np.arange(256, dtype=np.float32)[:, None] / np.float32(255) - mean) / std
    return (jnp.asarray(answers) if isinstance(images, jax.Array) else answers)[images, np.arange(3)]


def resized_shape(shape: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Returns (height, width) of an image of this (height, width) after the resize, before the crop.

    >>> resized_shape((375, 500), Preprocess(resize=256))
    (256, 341)
    """
    if preprocess.resize is None:
        return shape
    if not isinstance(preprocess.resize, int):
        height, width = preprocess.resize
        return height, width
    short, long = min(shape), max(shape)
    longer = int(preprocess.resize * long / short)
    return (longer, preprocess.resize) if shape[0] > shape[1] else (preprocess.resize, longer)


def output_shape(preprocess: Preprocess) -> tuple[int, int, int]:
    """Returns the one shape (h, w, 3) that all images get.

    Raises:
      ValueError: they keep different shapes, and can't be in one batch.

    >>> output_shape(Preprocess(resize=256, crop=224))
    (224, 224, 3)
    """
    if preprocess.crop is not None:
        return preprocess.crop, preprocess.crop, 3
    if preprocess.resize is not None and not isinstance(preprocess.resize, int):
        height, width = preprocess.resize
        return height, width, 3
    raise ValueError(
        f"preprocess: expected one size for all images, but with resize={preprocess.resize!r} and no crop each keeps "
        "its own proportions. Give a crop, or resize=(height, width)."
    )


def _margin(side: int, crop: int) -> int:
    """Where the crop begins: before the image (negative) where that is smaller, and Pillow fills with black."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def _image(picture: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    shape = picture.shape
    if picture.dtype != np.uint8 or len(shape) < 2 or shape[2:] not in ((), (1,), (3,), (4,)) or 0 in shape:
        raise ValueError(
            f"image: expected bytes, uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], but got {picture.dtype} "
            f"{shape}. Scale to 0 ... 255, and keep the channels last."
        )
    return Image.fromarray(picture[..., 0] if shape[2:] == (1,) else picture)
