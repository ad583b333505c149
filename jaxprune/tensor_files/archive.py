"""Zip archives as views of a file's bytes.

Only what is wanted is looked at, and then closely: where a member lies, that it overlaps no other, and its checksum.
"""

import struct
import zlib
from typing import NamedTuple

from jaxprune.tensor_files.refusal import Refusal

_LOCAL, _CENTRAL = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")
_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_LONG_COMMENT = 2**16 - 1
_MOST_MEMBERS = 100_000
_IN_EXTRA = 2**32 - 1
_STORED, _DEFLATED = 0, 8


class Member(NamedTuple):
    """One file in the archive.

    Attributes:
      name: its path.
      flags: bit 0: encrypted.
      method: 0: stored; 8: deflated.
      checksum: CRC-32 of what it holds.
      packed: its size in the archive.
      size: its size.
      place: where its header begins.
      end: where the next member, or the directory, begins.
    """

    name: str
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    place: int
    end: int


def members(data: bytes) -> dict[str, Member]:
    """Reads the directory of an archive.

    Returns:
      Its members by their names, in the order of the directory.

    Raises:
      Refusal: the directory is damaged or cut off, or two members have one name or one place.
    """
    count, place, stop = _directory(data)
    size = stop - place
    found: dict[str, Member] = {}
    for _ in range(count):
        if place + _CENTRAL.size > stop:
            raise Refusal("its directory ends early")
        fields = _CENTRAL.unpack_from(data, place)
        names = place + _CENTRAL.size
        extra = names + fields[10]
        place = extra + fields[11] + fields[12]
        if fields[0] != b"PK\1\2" or place > stop:
            raise Refusal("its directory is damaged")
        member = _member(fields, data[names:extra], data[extra : extra + fields[11]])
        if member.name in found:
            raise Refusal(f"it holds {member.name!r} twice")
        found[member.name] = member
    if place != stop:
        raise Refusal("its directory is damaged")
    starts = sorted(member.place for member in found.values())
    following = dict(zip(starts, [*starts[1:], stop - size], strict=bool(starts)))
    return {name: member._replace(end=following[member.place]) for name, member in found.items()}


def content(data: bytes, member: Member) -> tuple[int, int]:
    """Finds and checks a member that is stored as it is.

    Returns:
      (start, stop) in the data.

    Raises:
      Refusal: it is compressed, encrypted, elsewhere than the directory says, or its checksum is another.
    """
    if member.method != _STORED:
        raise Refusal(
            f"its member {member.name!r} is compressed, which PyTorch never does",
            "Unpack the archive and pack it without compression (zip -0), or save it from PyTorch again.",
        )
    start = _start(data, member)
    if member.packed != member.size:
        raise Refusal(f"its member {member.name!r} has two sizes")
    _agree(member, zlib.crc32(memoryview(data)[start : start + member.size]))
    return start, start + member.size


def unpacked(data: bytes, member: Member) -> bytes:
    """Unpacks a member that is deflated, into memory of the size that the directory tells.

    Raises:
      Refusal: it is packed in another way, encrypted, or not what the directory says.
    """
    if member.method != _DEFLATED:
        raise Refusal(
            f"its member {member.name!r} is compressed in a way other than deflate", "Save it by numpy.savez."
        )
    start = _start(data, member)
    packed = memoryview(data)[start : start + member.packed]
    reader = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        result = reader.decompress(packed, member.size + 1)
    except zlib.error as error:
        raise Refusal(f"its member {member.name!r} cannot be unpacked ({error})") from error
    if len(result) != member.size or not reader.eof or reader.unused_data:
        raise Refusal(f"its member {member.name!r} has not the size that the directory tells")
    _agree(member, zlib.crc32(result))
    return result


def _directory(data: bytes) -> tuple[int, int, int]:
    """Returns (members, start, stop) of the directory."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - _END.size - _LONG_COMMENT))
    if end < 0 or end + _END.size > len(data):
        raise Refusal("the end of the zip archive is missing: it was cut off")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, end)
    if end + _END.size + comment != len(data):
        raise Refusal("something follows the end of the zip archive, or is missing there")
    if end >= _LOCATOR64.size and data[end - _LOCATOR64.size : end].startswith(b"PK\6\7"):
        place = _LOCATOR64.unpack_from(data, end - _LOCATOR64.size)[2]
        if place + _END64.size > end - _LOCATOR64.size or data[place : place + 4] != b"PK\6\6":
            raise Refusal("the end of the zip archive is damaged")
        fields = _END64.unpack_from(data, place)
        disk, first, here, count, size, start = fields[4:]
        end = place
    if disk or first or here != count or count > _MOST_MEMBERS or start + size != end:
        raise Refusal("the end of the zip archive is damaged")
    return count, start, start + size


def _member(fields: tuple, name: bytes, extra: bytes) -> Member:
    flags, method, checksum, packed, size, place = *fields[3:5], *fields[7:10], fields[16]
    try:
        text = name.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError as error:
        raise Refusal("the name of a member cannot be decoded") from error
    size, packed, place = _large(extra, [size, packed, place])
    return Member(text, flags, method, checksum, packed, size, place, place)


def _large(extra: bytes, values: list[int]) -> list[int]:
    """Reads from the extra field what does not fit into the directory."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            words = [extra[at : at + 8] for at in range(4, 4 + length, 8)]
            larger = iter(words)
            values = [int.from_bytes(next(larger, b""), "little") if v == _IN_EXTRA else v for v in values]
        extra = extra[4 + length :]
    return values


def _start(data: bytes, member: Member) -> int:
    """Finds the first byte of what a member holds, behind its header."""
    if member.flags & 1:
        raise Refusal(f"its member {member.name!r} is encrypted", "Decrypt it first.")
    if member.place + _LOCAL.size > member.end:
        raise Refusal(f"its member {member.name!r} overlaps another one or lies outside of the file")
    fields = _LOCAL.unpack_from(data, member.place)
    names = member.place + _LOCAL.size
    start = names + fields[9] + fields[10]
    same = data[names : names + fields[9]].decode("utf-8" if member.flags & 0x800 else "cp437", "replace")
    if fields[0] != b"PK\3\4" or fields[3] != member.method or same != member.name:
        raise Refusal(f"its member {member.name!r} is not where the directory says")
    if start + member.packed > member.end:
        raise Refusal(f"its member {member.name!r} overlaps another one or lies outside of the file")
    return start


def _agree(member: Member, checksum: int) -> None:
    if checksum != member.checksum:
        raise Refusal(f"the checksum of its member {member.name!r} is {checksum:08x}, and not {member.checksum:08x}")
