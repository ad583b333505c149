"""NumPy's archives: a zip of arrays, each behind a header.

``numpy.lib.format`` reads the headers.  The arrays are not left to ``numpy.load``: it takes the memory that a header
claims before it looks at what is there, and copies what could be a view.
"""

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxprune.tensor_files import archive, kinds
from jaxprune.tensor_files.named import Parts
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.values import Unreadable

# The third version differs from the second in how names are encoded, which arrays of numbers don't have.
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
# NumPy refuses headers that are longer than 10,000 characters.
_LONGEST_HEADER = 2**14
# A bfloat16 array that NumPy wrote without knowing it: two bytes of nothing.
_KINDS = {np.dtype("V2" if kind == "bfloat16" else kind): kind for kind in kinds.KINDS}
# How much larger than their file the arrays may be once unpacked: that much and as many times.
_FREE, _TIMES = 90_000_000, 16


def read(source: archive.Archive) -> Parts:
    """Reads what ``numpy.savez`` or ``numpy.savez_compressed`` wrote.

    Args:
      source: the file.

    Returns:
      (tensors, nothing).  What is no array of numbers, such as text and objects, cannot be had.

    Raises:
      Refusal: a member is damaged, encrypted, or no array; unpacked they would be 16 times as large as the file, and
        90 MB more.
    """
    allowance = Allowance(_FREE + _TIMES * len(source.data))
    allowance.spend(sum(entry.file_size for entry in source.members.values() if entry.compress_type))
    tensors = {}
    for name, entry in source.members.items():
        if not name.endswith(".npy"):
            raise Refusal(f"its member {name!r} is no array", "Leave in the archive only what numpy.savez wrote.")
        if entry.compress_type:
            raw = source.unpacked(name)
            part = _array(name, raw, 0, len(raw))
        else:
            part = _array(name, source.data, *source.content(name))
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
    stream = io.BytesIO(data[start : min(stop, start + _LONGEST_HEADER)])
    try:
        version = np.lib.format.read_magic(stream)
    except ValueError as error:
        raise Refusal(f"its member {name!r} is no array ({error})") from error
    if version not in _READERS:
        raise Refusal(f"its member {name!r} is no array of a known version")
    try:
        shape, fortran, stored = _READERS[version](stream)
    except Exception as error:  # of text that is no header, NumPy raises what Python's parser does
        raise Refusal(f"the header of its member {name!r} is damaged ({error})") from error
    kind = _KINDS.get(stored)
    if kind is None:
        return Unreadable(f"no array of little-endian numbers ({stored.str!r})")
    begin = start + stream.tell()
    known = len(shape) <= kinds.AXES and all(map(kinds.is_count, shape))
    if not known or math.prod(shape) * kinds.size_of(kind) != stop - begin:
        raise Refusal(f"the header of its member {name!r} is damaged: its numbers are not as many as it says")
    strides = kinds.contiguous(shape[::-1])[::-1] if fortran else kinds.contiguous(shape)
    return kinds.view(data, begin, math.prod(shape), kind, shape, strides=strides)
