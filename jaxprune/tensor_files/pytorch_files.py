"""Files that PyTorch wrote: zip archives, TorchScript's archives, and the format before 1.6.

All three hold a pickle that refers to storages outside of it.  The pickle is read first, so nothing but a record of
each tensor exists when its storage is looked up.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprune.tensor_files import archive, kinds, opcodes
from jaxprune.tensor_files.flattening import flatten
from jaxprune.tensor_files.named import Parts
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.torch_names import TorchNames
from jaxprune.tensor_files.values import Storage, Tensor, Unreadable

# With the directory of an archive, less than the package's text says.
_FOR_VALUES, _FOR_NAMES = 48_000_000, 32_000_000
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")

# (start, bytes) of a storage, by its key.
_Places = Callable[[Storage], tuple[int, int]]


def is_legacy(data: bytes) -> bool:
    """Whether a file begins as PyTorch wrote it before 1.6."""
    return _MAGIC_BYTES in data[:32] or data.startswith(b"L%d" % _MAGIC)


def read_zip(source: archive.Archive) -> Parts:
    """Reads what ``torch.save`` wrote since 1.6, or ``torch.jit.save``.

    Of TorchScript neither the code nor its constants are inspected; submodules are placeholders, whose tensors have
    dotted names.

    Args:
      source: the file.

    Returns:
      (tensors, others).

    Raises:
      Refusal: a member that is needed is missing, damaged, compressed or encrypted; the numbers are big-endian; the
        pickle is damaged; a tensor lies outside of its storage.
    """
    data, root = source.data, next(iter(source.members)).partition("/")[0]

    def wanted(name: str) -> tuple[int, int]:
        if f"{root}/{name}" not in source.members:
            raise Refusal(f"its member {root + '/' + name!r} is missing")
        return source.content(f"{root}/{name}")

    if f"{root}/byteorder" in source.members:
        _demand_little(data[slice(*wanted("byteorder"))] == b"little")
    start, stop = wanted("data.pkl")
    allowance = Allowance(_FOR_VALUES)
    value, _ = opcodes.run(data, start, stop, TorchNames(allowance), allowance)
    found: dict[str, tuple[int, int]] = {}

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in found:
            start, stop = wanted(f"data/{storage.key}")
            found[storage.key] = start, stop - start
        return found[storage.key]

    return _resolved(data, value, place)


def read_legacy(data: bytes) -> Parts:
    """Reads what ``torch.save`` wrote before 1.6.

    Pickles of a magic number, a version, facts of the machine, the value, and the keys of the storages; then the
    storages, each behind its size.

    Args:
      data: the file.

    Returns:
      (tensors, others).

    Raises:
      Refusal: as for ``read_zip``, or something follows the last storage.
    """
    allowance = Allowance(_FOR_VALUES)
    meaning, position, values = TorchNames(allowance), 0, []
    for _ in range(5):
        value, position = opcodes.run(data, position, len(data), meaning, allowance)
        values.append(value)
    magic, version, machine, value, keys = values
    if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict):
        raise Refusal("it does not begin as PyTorch's files before 1.6 do")
    _demand_little(machine.get("little_endian") is True)
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise Refusal("the keys of its storages are damaged")
    names = [str(key) for key in keys]
    places: dict[str, tuple[int, int]] = {}
    for name in names:
        if name not in meaning.storages:
            raise Refusal(f"nothing says what kind of numbers its storage {name!r} has")
        size = int.from_bytes(data[position : position + 8], "little") * meaning.storages[name].size
        places[name] = position + 8, size
        position += 8 + size
        if position > len(data):
            raise Refusal(f"its storage {name!r} ends early: the file was cut off")
    if position != len(data):
        raise Refusal(f"{len(data) - position} bytes follow its last storage")

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise Refusal(f"its storage {storage.key!r} is missing")
        return places[storage.key]

    return _resolved(data, value, place)


def _resolved(data: bytes, value: Any, place: _Places) -> Parts:
    """Sees every tensor of a value in the file."""
    tensors, others = flatten(value, Allowance(_FOR_NAMES))
    seen: dict[str, np.ndarray | kinds.BFloat16 | Unreadable] = {}
    for name, tensor in tensors.items():
        seen[name] = tensor if isinstance(tensor, Unreadable) else _seen(data, name, tensor, place)
    return seen, others


def _seen(data: bytes, name: str, tensor: Tensor, place: _Places) -> np.ndarray | kinds.BFloat16 | Unreadable:
    storage = tensor.storage
    start, size = place(storage)
    if size != storage.count * storage.size:
        raise Refusal(f"the storage of {name!r} has {size} bytes, and not {storage.count * storage.size}")
    if storage.part is not None:
        first, count = storage.part
        if first + count > storage.count:
            raise Refusal(f"{name!r} lies outside of its storage")
        start, size = start + first * storage.size, count * storage.size
    return kinds.view(
        data,
        start,
        size // kinds.size_of(tensor.kind),
        tensor.kind,
        tensor.shape,
        offset=tensor.offset,
        strides=tensor.strides,
    )


def _demand_little(holds: bool) -> None:
    if not holds:
        raise Refusal(
            "its numbers are big-endian, or do not say", "Load and save it with PyTorch on a little-endian machine."
        )
