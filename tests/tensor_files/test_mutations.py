"""Damaged files: each loads or is refused by name, in little memory, and nothing else ever happens."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxprune.tensor_files import read, write
from tests.tensor_files import craft

GOLDEN = Path(__file__).parent / "golden"
EXTREMES = [0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [b"0", b"-1", b"1e400", b"NaN", b"9" * 30, b"9223372036854775808", b"[]", b"{}", b'""', b"null", b'"\\ud800"']
MEMORY = 100_000_000


def damaged(data, rng):
    """Bytes flipped, cut, put in, doubled, or overwritten by a number at the edge of what its width holds."""
    place = int(rng.integers(len(data)))
    length = int(rng.integers(1, 40))
    kind = rng.integers(5)
    if kind == 0:
        flipped = bytearray(data)
        for at in rng.integers(len(data), size=rng.integers(1, 6)):
            flipped[at] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    if kind == 1:
        return data[:place] if rng.integers(2) else data[place:]
    if kind == 2:
        return data[:place] + rng.bytes(length) + data[place:]
    if kind == 3:
        return data[:place] + data[max(0, place - length) : place] + data[place:]
    width = int(rng.choice([1, 2, 4, 8]))
    value = EXTREMES[rng.integers(len(EXTREMES))] % 256**width
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def safetensors_headers(data, rng):
    """The header damaged, as text or in one of its words, before the tensors are put behind it again."""
    length = int.from_bytes(data[:8], "little")
    header, numbers = data[8 : 8 + length], data[8 + length :]
    if rng.integers(2):
        header = damaged(header, rng)
    else:
        places = [at for at, byte in enumerate(header) if byte in b'0123456789"[']
        at = places[rng.integers(len(places))]
        header = header[:at] + WORDS[rng.integers(len(WORDS))] + header[at + 1 :]
    claimed = EXTREMES[rng.integers(len(EXTREMES))] if rng.integers(8) == 0 else len(header)
    return struct.pack("<Q", claimed) + header + numbers


def pickles_in_archives(data, rng):
    """The pickle damaged, with a checksum that fits again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    (name,) = (name for name in members if name.endswith("/data.pkl"))
    return craft.archive({**members, name: damaged(members[name], rng)})


def directories(data, rng):
    """The end of an archive damaged, where its directory is."""
    start = data.index(b"PK\1\2")
    return data[:start] + damaged(data[start:], rng)


def headers_of_arrays(data, rng):
    """The header of one array damaged, with a checksum that fits again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    name = list(members)[rng.integers(len(members))]
    return craft.archive({**members, name: damaged(members[name][:128], rng) + members[name][128:]})


def attempt(action, beginning):
    """What an action returns; None where it is refused by an error that begins so.  Any other is one of the test."""
    try:
        return action()
    except ValueError as error:
        if not str(error).startswith(beginning):
            raise
        return None


def outcome(path, data):
    """Reads a file and all of its tensors: "read" or "refused"."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    file = attempt(lambda: read(path), f"{path}: expected an intact file of tensors, but ")
    for name in file.tensors if file else ():
        array = attempt(lambda name=name: file.tensors[name], f"{path}: expected a tensor {name!r}, but it is ")
        if array is not None and array.size:
            # A view reaches no further than its last element.
            assert array[(-1,) * array.ndim] is not None
    assert tracemalloc.get_traced_memory()[1] - before < len(data) + MEMORY
    return "read" if file else "refused"


@pytest.fixture
def traced(unchecked):
    """Memory is traced, and annotations are not checked: that would take more of it, and most of the time."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def counted(path, files, ways, count, seed):
    """Damages files in turn and in all ways, and counts what came of it."""
    rng = np.random.default_rng(seed)
    outcomes = [
        outcome(path, ways[number % len(ways)](files[number // len(ways) % len(files)], rng)) for number in range(count)
    ]
    return {each: outcomes.count(each) for each in ("read", "refused")}


def test_read_loads_or_refuses_500_damaged_files_of_safetensors(tmp_path, traced):
    rng = np.random.default_rng(0)
    tensors = {
        f"layer.{i}.{kind}": rng.normal(size=(i, 3)).astype(kind) for i in range(4) for kind in ("f2", "f4", "f8")
    }
    write(tmp_path / "a.safetensors", tensors)
    data = (tmp_path / "a.safetensors").read_bytes()
    found = counted(tmp_path / "damaged", [data], [damaged, safetensors_headers], 500, 1)
    # Numbers have no checksum: what was changed only there is read.
    assert found["read"] > 10
    assert found["refused"] > 250


ZIPPED = ("checkpoint.pth", "kinds.pth", "dino.pth", "scripted.pt", "checkpoint_protocol_4.pth", "module.pth")
LEGACY = ("checkpoint_legacy.pth", "kinds_legacy.pth")


@pytest.mark.parametrize(
    ("names", "ways", "count"),
    [
        (ZIPPED, [damaged, directories, pickles_in_archives, pickles_in_archives], 160),
        (LEGACY, [damaged], 60),
    ],
    ids=["zip", "legacy"],
)
def test_read_loads_or_refuses_200_damaged_files_of_pytorch(names, ways, count, tmp_path, traced):
    files = [(GOLDEN / name).read_bytes() for name in names]
    found = counted(tmp_path / "damaged", files, ways, count, 2)
    assert found["read"] > 0
    assert found["refused"] > count / 4


def test_read_loads_or_refuses_damaged_npz(tmp_path, traced):
    arrays = {"a": np.arange(6.0), "b/c": np.ones((2, 3), "f2"), "v": np.ones(4, "V2")}
    files = []
    for save in (np.savez, np.savez_compressed):
        save(stream := io.BytesIO(), **arrays)
        files.append(stream.getvalue())
    found = counted(tmp_path / "damaged", files, [damaged, directories, headers_of_arrays], 150, 3)
    assert found["refused"] > 50
