"""Zip archives as views of a file's bytes.

``zipfile`` finds the members.  It also lets pass what can't be meant: bytes behind the end, a name that comes twice,
members that overlap; and to read a member is to copy it.  So that is checked here, and members are views.
"""

import io
import struct
import zipfile
import zlib

from jaxprune.tensor_files.refusal import Refusal

_LOCAL, _END = 30, struct.Struct("<4s4H2IH")
# Each member takes 46 bytes of it and its name, and ``zipfile`` 500 for that: this is enough for 50,000 tensors.
_LONGEST_DIRECTORY = 4_000_000
_LONG_COMMENT = 2**16 - 1


class Archive:
    """The members of a zip archive; they are inspected when they are asked for.

    Args:
      data: the file.

    Attributes:
      members: the entries of the directory by their names, in its order.

    Raises:
      Refusal: the directory is damaged or cut off, or two members have one name.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        end = data.rfind(b"PK\5\6", max(0, len(data) - _END.size - _LONG_COMMENT))
        if end < 0 or end + _END.size > len(data):
            raise Refusal("the end of the zip archive is missing: it was cut off")
        try:
            self._archive = zipfile.ZipFile(_Pieces(data))
        except Refusal:
            raise
        except Exception as error:  # zipfile has one of its own, and raises many others
            raise Refusal(f"its directory is damaged ({error})") from error
        entries = self._archive.infolist()
        if end + _END.size + len(self._archive.comment) != len(data):
            raise Refusal("something follows the end of the zip archive")
        # The number of members; 65535 stands for all that are more.
        if _END.unpack_from(data, end)[4] != min(len(entries), 2**16 - 1):
            raise Refusal("the end of the zip archive is damaged: it holds another number of members")
        self.members: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if self.members.setdefault(entry.filename, entry) is not entry:
                raise Refusal(f"it holds {entry.filename!r} twice")
        starts, stop = sorted(entry.header_offset for entry in entries), self._archive.start_dir
        self._ends = {start: min(end, stop) for start, end in zip(starts, [*starts[1:], stop], strict=bool(starts))}

    def content(self, name: str) -> tuple[int, int]:
        """Finds and checks a member that is stored as it is.

        Returns:
          (start, stop) in the data.

        Raises:
          Refusal: it is compressed, encrypted, elsewhere than the directory says, or its checksum is another.
        """
        entry = self.members[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise Refusal(
                f"its member {name!r} is compressed, which PyTorch never does",
                "Unpack the archive and pack it without compression (zip -0), or save it from PyTorch again.",
            )
        start = self._start(entry)
        if entry.compress_size != entry.file_size:
            raise Refusal(f"its member {name!r} has two sizes")
        _agree(entry, memoryview(self.data)[start : start + entry.file_size])
        return start, start + entry.file_size

    def unpacked(self, name: str) -> bytes:
        """Unpacks a member that is deflated, into memory of the size that the directory tells.

        Raises:
          Refusal: it is packed in another way, encrypted, or not what the directory says.
        """
        entry = self.members[name]
        if entry.compress_type != zipfile.ZIP_DEFLATED:
            raise Refusal(f"its member {name!r} is compressed in a way other than deflate", "Save it by numpy.savez.")
        start = self._start(entry)
        # Not by zipfile: in one piece it can unpack more than it gives back, in many all are joined once more.
        reader = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            result = reader.decompress(memoryview(self.data)[start : start + entry.compress_size], entry.file_size + 1)
        except zlib.error as error:
            raise Refusal(f"its member {name!r} cannot be unpacked ({error})") from error
        if len(result) != entry.file_size or not reader.eof or reader.unused_data:
            raise Refusal(f"its member {name!r} has not the size that the directory tells")
        _agree(entry, result)
        return result

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Finds the first byte of what a member holds, behind its header."""
        place, end = entry.header_offset, self._ends[entry.header_offset]
        if entry.flag_bits & 1:
            raise Refusal(f"its member {entry.filename!r} is encrypted", "Decrypt it first.")
        start = place + _LOCAL
        if place >= 0 and start <= end:
            start += sum(struct.unpack_from("<2H", self.data, start - 4))  # its name, and what else is there
        if place < 0 or start + entry.compress_size > end:
            raise Refusal(f"its member {entry.filename!r} overlaps another one or lies outside of the file")
        try:
            self._archive.open(entry).close()
        except Exception as error:  # as above
            raise Refusal(f"its member {entry.filename!r} is not where the directory says ({error})") from error
        return start


class _Pieces(io.BytesIO):
    """Bytes as a file of which little is read at once: ``zipfile`` takes a directory of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONGEST_DIRECTORY:
            raise Refusal(f"its directory is {size} bytes long", "Save its tensors in several files.")
        return super().read(size)


def _agree(entry: zipfile.ZipInfo, content: bytes | memoryview) -> None:
    if (found := zlib.crc32(content)) != entry.CRC:
        raise Refusal(f"the checksum of its member {entry.filename!r} is {found:08x}, and not {entry.CRC:08x}")
