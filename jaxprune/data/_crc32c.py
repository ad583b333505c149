"""CRC-32C, the checksum of TFRecord, in NumPy.

A checksum of zeros and ones is linear: that of two pieces in a row is the one of the first, carried over as many zero
bytes as the second has, plus (exclusive or) that of the second.  So all pieces of a text are taken at once, and then
joined in pairs, pairs of pairs and so on.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # of Castagnoli, its bits reversed
_ONES = 0xFFFFFFFF
_PIECE = 8  # bytes


def crc32c(data: bytes | memoryview) -> int:
    """Computes the checksum of bytes.

    Source: Castagnoli, Braeuer and Herrmann (1993), IEEE Transactions on Communications 41; RFC 3720, appendix B.4.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    count = len(data)
    padding = -count % _PIECE  # in front, where zeros change nothing
    padded = np.zeros(padding + count, np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    # A checksum begins with 32 ones, which is to turn over the first four bytes; what is left where there are fewer.
    padded[padding : padding + 4] ^= 255
    return _joined(_pieces(padded)) ^ _ONES >> 8 * min(count, 4) ^ _ONES


def crc32c_of_words(words: np.ndarray) -> np.ndarray:
    """Computes the checksum of every one of some uint64 in little-endian order, uint32 [n]."""
    return _pieces((words ^ np.uint64(_ONES)).astype("<u8").view(np.uint8)) ^ np.uint32(_ONES)


def masked(value: int) -> int:
    """Turns a checksum into the form that TFRecord stores: rotated by 15 bits, plus a constant.

    >>> hex(masked(0xE3069283))
    '0xc78ab0e5'
    """
    return ((value >> 15 | value << 17) + 0xA282EAD8) & _ONES


def _pieces(data: np.ndarray) -> np.ndarray:
    """The checksum, from zero, of every eight bytes of uint8 [8 n]."""
    return _looked_up(_piece_tables(), data.view("<u2").reshape(-1, _PIECE // 2))


def _joined(values: np.ndarray) -> int:
    """The checksum of all pieces in a row, from those of each."""
    level = 3  # the second of two neighbours is 2 ** level bytes long
    while len(values) > 1:
        if len(values) % 2:
            values = np.concatenate([np.zeros(1, np.uint32), values])
        values = _carried(values[::2], level) ^ values[1::2]
        level += 1
    return int(values[0]) if len(values) else 0


def _carried(values: np.ndarray, level: int) -> np.ndarray:
    """What checksums become when 2 ** level zero bytes follow."""
    return _looked_up(_tables(level), np.ascontiguousarray(values, "<u4").view("<u2").reshape(-1, 2))


def _looked_up(tables: tuple[np.ndarray, ...], parts: np.ndarray) -> np.ndarray:
    """Adds up what each 16 bits of a number [n, parts] stand for."""
    # No part is outside of its table; with "clip" NumPy does not look for that first.
    return functools.reduce(
        np.bitwise_xor, [np.take(table, parts[:, place], mode="clip") for place, table in enumerate(tables)]
    )


@functools.cache
def _tables(level: int) -> tuple[np.ndarray, ...]:
    """What the lower and the upper 16 bits of a checksum become when 2 ** level zero bytes follow, uint32 [65536]."""
    if level:
        return tuple(_carried(table, level - 1) for table in _tables(level - 1))
    values = np.arange(65536, dtype=np.uint32)
    tables = np.stack([values, values << np.uint32(16)])
    for _ in range(8):
        tables = np.where(tables & 1, tables >> 1 ^ np.uint32(_POLYNOMIAL), tables >> 1)
    return tuple(tables)


@functools.cache
def _piece_tables() -> tuple[np.ndarray, ...]:
    """What each 16 bits of a piece add to its checksum, uint32 [65536]."""
    tables = [_tables(1)[0]]  # of the last: its own two bytes follow
    while len(tables) < _PIECE // 2:
        tables.insert(0, _carried(tables[0], 1))
    return tuple(tables)
