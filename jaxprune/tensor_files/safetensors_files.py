"""Files of safetensors: a header in JSON, and the bytes of the tensors one after the other.

The package of that name says whether a header is one, and whether the tensors lie one after the other to the end of the
file.  From bytes it would copy them all; it keeps names in no order, and of two that are one the last.  So the header
is also read here, and the tensors are views.  Files are written here, since it sorts the tensors.

Source: the format's description in the repository of safetensors (Hugging Face, 2022).
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from jaxprune.tensor_files import kinds
from jaxprune.tensor_files.named import Parts
from jaxprune.tensor_files.refusal import Refusal
from jaxprune.tensor_files.values import Unreadable

_KINDS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
# The format allows 100 MB.  Parsed, JSON takes up to 25 times its length; this is enough for 30,000 tensors.
_LONGEST_HEADER = 3_500_000


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as the format says: the header's length, then a brace."""
    return data[8:9] == b"{"


def read(data: bytes, path: str | os.PathLike[str]) -> Parts:
    """Reads a file of safetensors.

    Args:
      data: the file.
      path: where it lies; its header is checked there.

    Returns:
      (tensors in the order of the header, metadata).

    Raises:
      Refusal: the header is damaged, or the tensors do not lie one after the other to the end of the file.
    """
    length = int.from_bytes(data[:8], "little")
    begin = 8 + length
    if begin > len(data):
        raise Refusal(f"its header claims {length} bytes, where {len(data) - 8} follow")
    if length > _LONGEST_HEADER:
        raise Refusal(f"its header is {length} bytes long", f"Split it: {_LONGEST_HEADER} bytes of header are read.")
    try:
        with safetensors.safe_open(os.fspath(path), "numpy"):
            pass
    except (OSError, safetensors.SafetensorError) as error:
        raise Refusal(f"its header is damaged, or what follows is not what it says ({error})") from error
    header = _header(data[8:begin])
    others = header.pop("__metadata__", None) or {}
    return {name: _seen(data, begin, name, value) for name, value in header.items()}, others


def content(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Makes a file of safetensors.

    Args:
      tensors: arrays of known kinds.

    Returns:
      Its bytes.  Larger elements come first, so that all are aligned.

    Raises:
      ValueError: a name is "__metadata__", or cannot be encoded.
    """
    if "__metadata__" in tensors:
        raise ValueError("tensors: expected names of tensors, but got '__metadata__', which the format reserves.")
    places, position = {}, 0
    ordered = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    for name in ordered:
        places[name] = [position, position := position + tensors[name].nbytes]
    header = {
        name: {"dtype": _NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": places[name]}
        for name, array in tensors.items()
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensors[name].tobytes() for name in ordered)])


def _header(raw: bytes) -> dict[str, Any]:
    """Parses JSON in which no name comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(result := dict(pairs)) < len(pairs):
            raise Refusal("its header is damaged (a name comes twice)")
        return result

    return json.loads(raw, object_pairs_hook=once)


def _seen(data: bytes, begin: int, name: str, value: Any) -> np.ndarray | kinds.BFloat16 | Unreadable:
    """Sees one tensor in the file, by what the header says of it."""
    if not isinstance(value, dict) or sorted(value) != ["data_offsets", "dtype", "shape"]:
        raise Refusal(f"its header says something else of {name!r} than a type, a shape and a place")
    kind, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
    if begin + stop > len(data):
        raise Refusal(
            f"its tensor {name!r} ends behind the file, which was changed while it was read", "Read it again."
        )
    if kind not in _KINDS:
        return Unreadable(f"of numbers that NumPy has not ({kind})")
    if len(shape) > kinds.AXES:
        raise Refusal(f"the shape of its tensor {name!r} is none: it has {len(shape)} axes")
    return kinds.view(data, begin + start, math.prod(shape), _KINDS[kind], shape, strides=kinds.contiguous(shape))
