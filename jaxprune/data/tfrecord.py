"""Records of TFRecord files, by index, each with its checksums checked.

A record is its length (8 bytes), the masked CRC-32C of these (4), the data, and the masked CRC-32C of the data (4), all
in little-endian order.
"""

import mmap
import operator
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import google_crc32c
import numpy as np

from jaxprune.data._contents import in_threads

_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_LENGTH = 8  # the first bytes of a head
_REMEDY = "Copy the file again, or prepare the data set again."


class Records(Sequence[Any]):
    """The records of files, one file after the other.

    Files are walked through once, from length to length, and the checksums of the lengths are checked.  The checksum of
    a record is checked whenever it is read.  No file stays open: any number of threads may read any number of files.

    To the annotations its items are anything: whoever checks them at run time would read them.

    Args:
      files: the files.
      workers: threads that walk.  None: as many as there are CPUs that this process may use.

    Attributes:
      counts: how many records each file has.

    Raises:
      ValueError: a file that can't be read, ends inside of a record, or has a wrong checksum; also when one is read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     path = Path(place) / "one.tfrecord"
    ...     _ = path.write_bytes(bytes.fromhex("0300000000000000b099490e6f6e6501405508"))
    ...     list(Records([path, path]))
    [b'one', b'one']
    """

    def __init__(self, files: Sequence[Path], *, workers: int | None = None) -> None:
        walked = in_threads(_walked, files, workers)
        self.counts = [len(starts) for starts, _ in walked]
        self._files, self._ends = list(files), np.cumsum(self.counts)
        self._starts, self._lengths = (np.concatenate([each[part] for each in walked] or [[]]) for part in (0, 1))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._read(index)

    def _read(self, index: SupportsIndex) -> bytes:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"index: expected a record in [0, {len(self)}), but got {place}.")
        place %= len(self)
        path = self._files[int(np.searchsorted(self._ends, place, side="right"))]
        start, length = int(self._starts[place]), int(self._lengths[place])
        try:
            with path.open("rb") as handle:
                handle.seek(start)
                data = handle.read(length + _FOOT.size)
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(data) < length + _FOOT.size:
            raise ValueError(f"{path}: ends inside of the record at byte {start}. {_REMEDY}")
        record = data[:length]
        if _FOOT.unpack_from(data, length)[0] != masked(record):
            raise ValueError(f"{path}: the record at byte {start} has another checksum than is stored. {_REMEDY}")
        return record


def masked(data: bytes) -> int:
    """Computes the checksum of bytes in the form that TFRecord stores: CRC-32C, rotated by 15 bits, plus a constant.

    >>> hex(masked(b"123456789"))
    '0xc78ab0e5'
    """
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _walked(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Finds where the data of each record start, and how long they are."""
    starts, lengths, at = [], [], 0
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            if size:  # an empty file can't be mapped
                with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    while at + _HEAD.size <= size:
                        length, stored = _HEAD.unpack_from(mapped, at)
                        # At once: a length that is wrong leads anywhere.
                        if stored != masked(mapped[at : at + _LENGTH]):
                            raise ValueError(
                                f"{path}: the length before byte {at + _HEAD.size} has another checksum than is "
                                f"stored. Is it a TFRecord file, not compressed? {_REMEDY}"
                            )
                        at += _HEAD.size
                        starts.append(at)
                        lengths.append(length)
                        at += length + _FOOT.size
    except OSError as error:
        raise _unreadable(path, error) from error
    if at != size:
        raise ValueError(f"{path}: ends inside of a record: it has {size} bytes, and should go on to {at}. {_REMEDY}")
    return np.array(starts, np.int64), np.array(lengths, np.int64)


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}")
