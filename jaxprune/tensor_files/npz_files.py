"""NumPy's archives: a zip of arrays, each with a header that is read here and not evaluated.

Source: NumPy enhancement proposal 1 (Kern, 2007) for the header.
"""

import io
import math
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxprune.tensor_files import archive, kinds
from jaxprune.tensor_files.named import Parts
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.values import Unreadable

_HEADER = re.compile(
    rb"""\{ *'descr' *: *(?P<kind>'[^']*'|\[.*\]) *, *'fortran_order' *: *(?P<fortran>True|False) *, *"""
    rb"""'shape' *: *\( *(?P<shape>(?:\d{1,19} *, *)*(?:\d{1,19})?) *\) *,? *\}\s*"""
)
_LONGEST_HEADER = 100_000
# A bfloat16 array that NumPy wrote without knowing it: two bytes of nothing.
_KINDS = {np.dtype(kind).str: kind for kind in kinds.KINDS if kind != "bfloat16"}
_KINDS |= {f"{order}V2": "bfloat16" for order in "|<="}
# How much larger than their file the arrays may be once unpacked: that much and as many times.
_FREE, _TIMES = 90_000_000, 16


def read(data: bytes, members: Mapping[str, archive.Member]) -> Parts:
    """Reads what ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    Args:
      data: the file.
      members: its directory.

    Returns:
      (tensors, nothing).  What is no array of numbers, such as text and objects, cannot be had.

    Raises:
      Refusal: a member is damaged, encrypted, or no array; unpacked they would be 16 times as large as the file, and
        90 MB more.
    """
    allowance = Allowance(_FREE + _TIMES * len(data))
    allowance.spend(sum(member.size for member in members.values() if member.method))
    tensors = {}
    for name, member in members.items():
        if not name.endswith(".npy"):
            raise Refusal(f"its member {name!r} is no array", "Leave in the archive only what numpy.savez wrote.")
        if member.method:
            raw = archive.unpacked(data, member)
            part = _array(name, raw, 0, len(raw))
        else:
            part = _array(name, data, *archive.content(data, member))
        tensors[name.removesuffix(".npy")] = part
    return tensors, {}


def content(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Makes an archive that ``numpy.load`` reads; the arrays are not compressed.

    Args:
      tensors: arrays of known kinds.

    Returns:
      Its bytes.

    Raises:
      ValueError: a name is too long for an archive, or holds a NUL.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        for name, array in tensors.items():
            if "\0" in name or len(name.encode()) > 60_000:
                raise ValueError(f"tensors: expected names that fit into an archive, but got {name[:80]!r}. Rename it.")
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            # No time of day: the same arrays are the same file.
            target.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer())
    return stream.getvalue()


def _array(name: str, data: bytes, start: int, stop: int) -> np.ndarray | kinds.BFloat16 | Unreadable:
    """Sees one member as an array."""
    version = data[start + 6 : start + 8]
    width = 2 if version == b"\1\0" else 4
    if data[start : start + 6] != b"\x93NUMPY" or version not in (b"\1\0", b"\2\0", b"\3\0") or start + 12 > stop:
        raise Refusal(f"its member {name!r} is no array")
    length = int.from_bytes(data[start + 8 : start + 8 + width], "little")
    begin = start + 8 + width + length
    found = None
    if begin <= stop and length <= _LONGEST_HEADER:
        found = _HEADER.fullmatch(data[begin - length : begin])
    if found is None:
        raise Refusal(f"the header of its member {name!r} is damaged")
    text = found["kind"].strip(b"'").decode("latin-1")
    if text not in _KINDS:
        return Unreadable(f"no array of little-endian numbers ({text[:80]!r})")
    kind = _KINDS[text]
    shape = tuple(int(length) for length in found["shape"].split(b",") if length.strip())
    size = kinds.size_of(kind)
    if len(shape) > kinds.AXES or math.prod(shape) * size != stop - begin:
        raise Refusal(f"the numbers of its member {name!r} are not as many as its header says")
    fortran = found["fortran"] == b"True"
    strides = kinds.contiguous(shape[::-1])[::-1] if fortran else kinds.contiguous(shape)
    return kinds.view(data, begin, math.prod(shape), kind, shape, strides=strides)
