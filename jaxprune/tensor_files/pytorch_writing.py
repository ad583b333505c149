"""Files that PyTorch reads, written without it: a dictionary of tensors as opcodes, the numbers beside it.

``torch.load`` accepts them as weights only: they name nothing but tensors.
"""

import io
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxprune.tensor_files import kinds
from jaxprune.tensor_files.torch_names import STORAGE_OF

_ROOT = "archive"
# PyTorch maps numbers into memory where they lie at multiples of it.
_ALIGNMENT = 64


def content(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Makes a file that ``torch.load`` reads as a dictionary of tensors.

    Args:
      tensors: arrays of known kinds.

    Returns:
      Its bytes.

    Raises:
      ValueError: PyTorch has no storage of such numbers.
    """
    for name, array in tensors.items():
        if array.dtype.name not in STORAGE_OF:
            raise ValueError(
                f"tensors: {name!r} is {array.dtype}, of which older PyTorch has no storage. Cast it to int64, or save "
                "it as safetensors."
            )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        _add(target, stream, "data.pkl", _pickle(tensors))
        _add(target, stream, "byteorder", b"little")
        for number, array in enumerate(tensors.values()):
            _add(target, stream, f"data/{number}", array.tobytes())
        _add(target, stream, "version", b"3\n")
    return stream.getvalue()


def _add(target: zipfile.ZipFile, stream: io.BytesIO, name: str, data: bytes) -> None:
    """Adds a member whose bytes begin at a multiple of the alignment: its header is filled up."""
    member = zipfile.ZipInfo(f"{_ROOT}/{name}")
    fill = -(stream.tell() + 30 + len(member.filename) + 4) % _ALIGNMENT
    member.extra = struct.pack("<2H", 0x4246, fill) + bytes(fill)
    target.writestr(member, data)


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The program that makes the dictionary: protocol 2, an empty dictionary, and all its items."""
    items = [_text(name) + _tensor(number, array) for number, (name, array) in enumerate(tensors.items())]
    return b"\x80\2}(" + b"".join(items) + b"u."


def _tensor(number: int, array: np.ndarray) -> bytes:
    """A call of PyTorch's function with (storage, offset, sizes, strides, requires_grad, hooks)."""
    kind = f"ctorch\n{STORAGE_OF[array.dtype.name]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(str(number)) + _text("cpu") + _number(array.size) + b"tQ"
    sizes, strides = (b"(" + b"".join(map(_number, values)) + b"t" for values in (array.shape, _strides(array)))
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0) + sizes + strides + b"\x89" + hooks + b"tR"


def _strides(array: np.ndarray) -> tuple[int, ...]:
    # PyTorch's for an empty tensor are those of one in which every length is at least 1.
    return kinds.contiguous([max(length, 1) for length in array.shape])


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    """A whole number of zero or more, in one, four or eight bytes."""
    if value < 2**8:
        return b"K" + struct.pack("<B", value)
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)
