"""Named tensors to a file, in the format that its name asks for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check, files
from jaxprune.tensor_files import kinds, npz_files, pytorch_writing, safetensors_files


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Writes named tensors; ``read`` gives back the same, bit for bit and type for type.

        .safetensors    safetensors
        .npz            NumPy's archive, not compressed
        .pth or .pt     what ``torch.load(path, weights_only=True)`` reads as a dictionary of tensors

    The file appears when it is complete.  The same tensors in the same order are the same bytes.

    Args:
      path: the file; its suffix is the format.  Its folder is made where it is missing.
      tensors: arrays, NumPy's or JAX's, of float16, float32, float64, int8 to int64, uint8 and bool; safetensors and
        npz also take uint16 to uint64.

    Raises:
      ValueError: the suffix is unknown, the folder cannot be written, a name is none of the format's, or its numbers
        are.

    >>> import tempfile
    >>> from jaxprune.tensor_files import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/net.safetensors", {"scale": np.float32([1, 2]), "steps": np.int64(3)})
    ...     {name: array.tolist() for name, array in read(f"{folder}/net.safetensors").tensors.items()}
    {'scale': [1.0, 2.0], 'steps': 3}
    """
    target = Path(path)
    makers = {
        ".npz": npz_files.content,
        ".pt": pytorch_writing.content,
        ".pth": pytorch_writing.content,
        ".safetensors": safetensors_files.content,
    }
    check.choice("path: suffix", target.suffix, makers)
    data = makers[target.suffix]({_name(name): _plain(name, value) for name, value in tensors.items()})
    check.writable("path", target.parent)
    files.write(target, data)


def _name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"tensors: expected names that UTF-8 has, but got {name!r}. Rename it.") from error
    return name


def _plain(name: str, value: Any) -> np.ndarray:
    """The array in C order and little-endian."""
    array = np.asarray(value, order="C")
    if array.dtype.name not in kinds.KINDS or array.dtype.name == "bfloat16":
        raise ValueError(
            f"tensors: expected arrays of numbers that the formats have, but {name!r} is {array.dtype}. Cast it to "
            "float32 first; every bfloat16 number is one."
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
