"""Pictures of more than eight bits: their levels as bytes, scaled, where Pillow would cut them off at 255."""

from typing import Any

import numpy as np
from PIL import Image

_BITS, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1  # tags of TIFF


class WrongLevels(ValueError):
    """A picture of which nobody can say what is white."""


def white(picture: Image.Image, where: Any) -> float | None:
    """Returns the value of white where that is not 255: of 16 bits 65535, of floats 1; reads the head alone.

    Args:
      picture: of Pillow, in any mode.
      where: what the error calls it.

    Raises:
      WrongLevels: integers of another depth, or TIFF in which white is zero.
    """
    if picture.mode[0] not in "IF":
        return None
    tags = getattr(picture, "tag_v2", {})
    if tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO) != _BLACK_IS_ZERO:  # Pillow turns round pictures of 8 bits only
        raise WrongLevels(
            f"{where}: expected a picture in which 0 is black, but in this TIFF it is white. Save it anew."
        )
    if picture.mode == "F":
        return 1.0
    bits = tags.get(_BITS, (16,))[0] if picture.mode.startswith("I;16") else 32
    # Of these formats Pillow brings grey levels of 9 to 16 bits to 16, in whichever mode.
    if bits == 16 or picture.format in ("PNG", "PPM"):
        return 65535.0
    raise WrongLevels(
        f"{where}: expected a picture of 8 or 16 bits, or of floats in [0, 1], but it has {bits} bits (mode "
        f"{picture.mode}), and nothing says which number is white. Scale it, and save it with 8 or 16."
    )


def in_bytes(picture: Image.Image, where: Any) -> Image.Image:
    """Returns a picture of bytes: of grey levels v of 16 bits or floats, ``255 v / white``, rounded to nearest.

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
            f"{where}: expected a picture of values in [0, {top:g}], but they lie in [{values.min()!s}, "
            f"{values.max()!s}]. Scale it so that 0 is black and {top:g} is white."
        )
    return Image.fromarray(np.floor(255 * values / top + 0.5).astype(np.uint8))
