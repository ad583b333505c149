"""Images, masks and boxes of any size, read from files and brought to one size."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile

from jaxprune.data._levels import WrongLevels, in_bytes, white
from jaxprune.data.preprocessing import preprocess, resized_shape
from jaxprune.data.source import as_float
from jaxprune.types import Preprocess

MAX_PIXELS = 89_478_485
"""The most pixels that an image may have: 256 MB of RGB, above which Pillow warns of a decompression bomb."""

T = TypeVar("T")


def preprocessed(where: Any, file: str | Path | bytes, rule: Preprocess, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image of a file, or of its bytes, as ``jp.data.preprocess`` makes it, uint8 [h, w, 3].

    Raises:
      ValueError: it can't be read to its end, is too large before or after its resize, or its levels mean nothing;
        ``where`` names it.
    """
    return _reading(where, file, lambda picture: preprocess(in_bytes(picture, where), rule), max_pixels, rule)


def check_picture(where: Any, file: str | Path | bytes, rule: Preprocess, max_pixels: int, whole: bool) -> None:
    """Checks what the head of an image says, or decodes it ``whole``; raises what ``preprocessed`` does."""

    def look(picture: Image.Image) -> None:
        if whole:
            in_bytes(picture, where).convert("RGB")
        else:
            white(picture, where)

    _reading(where, file, look, max_pixels, rule)


def pixels(where: Any, file: str | Path | bytes, channels: int = 3) -> np.ndarray:
    """Reads an image as uint8 [h, w, channels] of 1 (grey), 3 or 4 (transparency) channels; raises as the others."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]

    def read(picture: Image.Image) -> np.ndarray:
        found = np.asarray(in_bytes(picture, where).convert(mode))
        return found.reshape(*found.shape[:2], channels)

    return _reading(where, file, read)


def numbers(where: Any, file: str | Path | bytes) -> np.ndarray:
    """Reads the number of each pixel of a mask, int32 [h, w]: palette indices or grey levels, never colours."""

    def read(picture: Image.Image) -> np.ndarray | str:
        known = picture.mode in ("1", "L", "P", "I") or picture.mode.startswith("I;16")
        return np.asarray(picture).astype(np.int32) if known else picture.mode

    found = _reading(where, file, read)
    if isinstance(found, str):
        raise ValueError(
            f"{where}: expected a mask that holds a number for each pixel (a palette PNG or a grey one), but it is "
            f"{found}. Its colours are not the numbers of classes; save the indices."
        )
    return found


def shape(path: Path) -> tuple[int, int]:
    """Reads height and width from the head of an image."""
    return _reading(path, path, lambda picture: (picture.height, picture.width))


def _reading(
    where: Any,
    file: Any,
    read: Callable[[Image.Image], T],
    max_pixels: int = MAX_PIXELS,
    rule: Preprocess | None = None,
) -> T:
    # What was cut off would be grey, in silence, wherever some other library has asked Pillow for that.
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES: expected False, but it is set, so that Pillow fills what is missing "
            "of an image with grey. Set it to False."
        )
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            size = picture.height, picture.width
            _check_size(where, size, max_pixels, "")
            if rule is not None:
                _check_size(where, resized_shape(size, rule), max_pixels, " after its resize")
            return read(picture)
    except (_TooLarge, WrongLevels, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLarge(f"{where}: {error} Remove the image, or make it smaller.") from error
    # For damaged files the readers of Pillow raise many kinds of errors, and each of them means the same.
    except Exception as error:
        said = str(error).replace(repr(str(file)), "it") if not isinstance(file, bytes) else type(error).__name__
        remedy = "Is it complete?"
        if isinstance(error, OSError) and error.errno is not None and error.strerror:  # the system's word, not Pillow's
            said, remedy = error.strerror, "Check its rights and links."
        raise ValueError(f"{where}: cannot be read as an image ({said}). {remedy}") from error


class _TooLarge(ValueError):
    """An image with more pixels than are allowed."""


def _check_size(where: Any, shape: tuple[int, int], most: int, when: str) -> None:
    if shape[0] * shape[1] > most:
        raise _TooLarge(
            f"{where}: expected an image of {most:,} pixels at most, but it has {shape[0]:,} x {shape[1]:,} (height x "
            f"width){when}. Remove it, make it smaller, or raise max_pixels."
        )


def same_size(where: Any, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Checks that an image is as large as its mask."""
    if found[:2] != expected[:2]:
        raise ValueError(
            f"{where}: expected {expected[0]} x {expected[1]} pixels (height x width), as its mask has, but got "
            f"{found[0]} x {found[1]}. Are image and mask of the same image, and neither is resized?"
        )


def squeezed(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes an image of bytes [h, w, c] to float32 [size, size, c] in [0, 1], bilinearly with antialiasing."""
    return as_float(squeezed_bytes(image, size))


def squeezed_bytes(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes an image of bytes [h, w, c] to uint8 [size, size, c], bilinearly with antialiasing."""
    if image.dtype != np.uint8:
        raise ValueError(f"data: expected images of bytes, uint8, but got {image.dtype}.")
    if image.shape[:2] != (size, size):
        grey = image.shape[-1] == 1
        picture = Image.fromarray(image[..., 0] if grey else image)
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        image = resized[..., None] if grey else resized
    return image


def fitted(where: Any, mask: np.ndarray, void: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes a mask and its void pixels, bool [h, w] and apart, to [size, size]: pixels show their middles.

    A mask that falls between all middles keeps the pixel that it fills most: what is there does not vanish.

    Raises:
      ValueError: an empty mask; ``where`` names it.
    """
    if not mask.any():
        raise ValueError(f"{where}: expected a pixel of an object, but its mask is empty. Leave this image out.")
    rows, columns = ((2 * np.arange(size) + 1) * side // (2 * size) for side in mask.shape)
    small, small_void = (each[rows[:, None], columns] for each in (mask, void))
    if not small.any():
        share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX))
        most = np.unravel_index(np.argmax(share), share.shape)
        small[most], small_void[most] = True, False
    return small, small_void


def outward(boxes: np.ndarray, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Scales boxes, int [k, 4] of an image of this shape, to [size, size], rounded outward to whole pixels."""
    sides = np.array([shape[0], shape[1]] * 2, np.int64)
    scaled = boxes.reshape(-1, 4).astype(np.int64) * size
    return np.concatenate([scaled[:, :2] // sides[:2], -(-scaled[:, 2:] // sides[2:])], axis=1).astype(np.int32)


def tight(mask: np.ndarray) -> np.ndarray:
    """Finds the box around a mask that is not empty, int32 [1, 4]."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]], np.int32)
