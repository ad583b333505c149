"""Images of more than eight bits: their levels as bytes, scaled, where Pillow would cut them off at 255."""

from typing import Any

import numpy as np
from PIL import Image

_BITS, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1  # tags of TIFF


class WrongLevels(ValueError):
    """An image of which nobody can say what is white."""


def white(image: Image.Image, where: Any) -> float | None:
    """Returns the value of white where that is not 255: of 16 bits 65535, of floats 1; reads the head alone.

    Args:
      image: of Pillow, in any mode.
      where: what the error calls it.

    Raises:
      WrongLevels: integers of another depth, or TIFF in which white is zero.
    """
    if image.mode[0] not in "IF":
        return None
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO) != _BLACK_IS_ZERO:  # Pillow turns round images of 8 bits only
        raise WrongLevels(
            f"{where}: expected an image in which 0 is black, but in this TIFF it is white. Save it anew."
        )
    if image.mode == "F":
        return 1.0
    bits = tags.get(_BITS, (16,))[0] if image.mode.startswith("I;16") else 32
    # Of these formats Pillow brings grey levels of 9 to 16 bits to 16, in whichever mode.
    if bits == 16 or image.format in ("PNG", "PPM"):
        return 65535.0
    raise WrongLevels(
        f"{where}: expected an image of 8 or 16 bits, or of floats in [0, 1], but it has {bits} bits (mode "
        f"{image.mode}), and nothing says which number is white. Scale it, and save it with 8 or 16."
    )


def in_bytes(picture: Image.Image, where: Any) -> Image.Image:
    """Returns an image of bytes: of grey levels v of 16 bits or floats, ``255 v / white``, rounded to nearest.

    Colours of 16 bits come from Pillow as the upper 8 of them, and pass.

    Raises:
      WrongLevels: what ``white`` says, or floats that are not in [0, 1].
    """
    top = white(picture, where)
    if top is None:
        return picture
    values = np.asarray(picture).astype(np.float64)
    if not (values.min() >= 0 and values.max() <= top):  # NaN too
        raise WrongLevels(
            f"{where}: expected an image of values in [0, {top:g}], but they lie in [{values.min()!s}, "
            f"{values.max()!s}]. Scale it so that 0 is black and {top:g} is white."
        )
    return Image.fromarray(np.floor(255 * values / top + 0.5).astype(np.uint8))
