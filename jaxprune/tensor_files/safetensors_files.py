"""Files of safetensors: a header in JSON, and the bytes of the tensors one after the other.

Source: the format's description in the repository of safetensors (Hugging Face, 2022).
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

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
# Known to the format and not to NumPy: bits of each.
_OTHER_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "C64": 64}
# The format allows 100 MB.  Parsed, JSON takes up to 25 times its length; this is enough for 30,000 tensors.
_LONGEST_HEADER = 3_500_000


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as the format says: the header's length, then a brace."""
    return data[8:9] == b"{"


def read(data: bytes) -> Parts:
    """Reads a file of safetensors.

    Args:
      data: the file.

    Returns:
      (tensors in the order of the header, metadata).

    Raises:
      Refusal: the header is damaged, or the tensors do not lie one after the other to the end of the file.
    """
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise Refusal(f"its header claims {length} bytes, where {len(data) - 8} follow")
    if length > _LONGEST_HEADER:
        raise Refusal(f"its header is {length} bytes long", f"Split it: {_LONGEST_HEADER} bytes of header are read.")
    header = _header(data[8 : 8 + length])
    others = header.pop("__metadata__", {})
    if not isinstance(others, dict) or not all(isinstance(value, str) for value in others.values()):
        raise Refusal("its metadata are not text by names")
    claims = {name: _claim(name, value) for name, value in header.items()}
    position = 0
    for name, (_, _, start, stop) in sorted(claims.items(), key=lambda item: item[1][2:]):
        if start != position:
            raise Refusal(f"its tensor {name!r} begins at {start}, where {position} bytes came before")
        position = stop
    if position != len(data) - 8 - length:
        raise Refusal(f"its tensors take {position} bytes, where {len(data) - 8 - length} follow the header")
    tensors = {name: _view(data, 8 + length + start, kind, shape) for name, (kind, shape, start, _) in claims.items()}
    return tensors, others


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
            raise ValueError("a name comes twice")
        return result

    try:
        header = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"its header is damaged ({error})") from error
    if not isinstance(header, dict):
        raise Refusal("its header is damaged (no names)")
    return header


def _claim(name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    """What the header says of a tensor: (kind, shape, start, stop)."""
    if not isinstance(value, dict) or sorted(value) != ["data_offsets", "dtype", "shape"]:
        raise Refusal(f"its header says something else of {name!r} than a type, a shape and a place")
    kind, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or (kind not in _KINDS and kind not in _OTHER_BITS):
        raise Refusal(f"its tensor {name!r} is of an unknown type")
    if not isinstance(shape, list) or len(shape) > kinds.AXES or not all(map(kinds.is_count, shape)):
        raise Refusal(f"the shape of its tensor {name!r} is none")
    if not isinstance(place, list) or len(place) != 2 or not all(map(kinds.is_count, place)):
        raise Refusal(f"the place of its tensor {name!r} is none")
    bits = 8 * kinds.size_of(_KINDS[kind]) if kind in _KINDS else _OTHER_BITS[kind]
    if 8 * (place[1] - place[0]) != bits * math.prod(shape):
        raise Refusal(f"its tensor {name!r} has {place[1] - place[0]} bytes, which is not what its shape takes")
    return kind, tuple(shape), place[0], place[1]


def _view(data: bytes, start: int, kind: str, shape: tuple[int, ...]) -> np.ndarray | kinds.BFloat16 | Unreadable:
    if kind not in _KINDS:
        return Unreadable(f"of numbers that NumPy has not ({kind})")
    return kinds.view(data, start, math.prod(shape), _KINDS[kind], shape, strides=kinds.contiguous(shape))
